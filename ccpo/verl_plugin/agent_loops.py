"""Sessions on verl's rollout servers: `ccpo.topology` with real tokens."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from ccpo.config import CcpoConfig
from ccpo.prompts import DYAD, Messages
from ccpo.topology.dyad import run_dyad
from ccpo.topology.session import PromptBudget, Scored, Turn
from ccpo.topology.vote import run_vote, voters_of
from ccpo.types import EMPTIED, REASON, voter_index
from ccpo.verifier import Verdict, label, same_answer, verify
from ccpo.verl_plugin.policies import PolicyClient
from ccpo.verl_plugin.trajectory import RoleOutput

logger = logging.getLogger(__name__)


class _Once(logging.Filter):
    """Lets every message of a logger through once."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self.seen
        self.seen.add(record.getMessage())
        return new


# verl builds an agent loop per session, and each warns that the model has no token builder of its own: thousands of lines a step.
logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").addFilter(_Once())

_PARSED: dict[int, tuple[DictConfig, CcpoConfig]] = {}


def ccpo_config(config: DictConfig) -> CcpoConfig:
    """The checked ``ccpo:`` node, parsed once per process (verl builds one agent loop object per session)."""
    if id(config) not in _PARSED:
        node = OmegaConf.to_container(config.ccpo, resolve=True)
        _PARSED[id(config)] = (config, CcpoConfig.from_dict(node, config.actor_rollout_ref.rollout.n))
    return _PARSED[id(config)][1]


_MODELS: dict[str, Any] = {}


def _model(policy: str, config: DictConfig) -> Any:
    """verl's HFModelConfig of a policy, with its tokenizer; made once per process."""
    if policy not in _MODELS:
        _MODELS[policy] = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    return _MODELS[policy]


def request_seed(seed: int, *parts: Any) -> int:
    """A 31-bit seed for one request from the job's seed and (prompt, session, role, step): the same in every process and run."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Session:
    """What the dataset row and verl say about one session, and the callables that its topology needs."""

    question: str
    truth: str
    answer_type: str
    number: int
    validating: bool
    generate: Callable[..., Any]
    judge: Callable[[str], Any]
    budget: Callable[[str], PromptBudget]


class TeamAgentLoop(AgentLoopBase, ABC):
    """One session of a team; a topology says who speaks (`_play`) and how each role decodes (`_decoding`)."""

    async def run(self, sampling_params: dict[str, Any], **row) -> list[RoleOutput]:
        """One session.

        Args:
            sampling_params: verl's, for training or validation.
            row: the dataset row's columns and verl's ``uid``, ``session_id``, ``global_steps``.

        Returns:
            Its rows; for the dyad think, solo, emptied and reason, as far as they were asked for. Empty when the session failed: it is
            dropped and counted, its siblings stay.
        """
        try:
            return await asyncio.wait_for(self._session(sampling_params, row), ccpo_config(self.config).session_timeout)
        except Exception:
            logger.exception("session %s of prompt %s was dropped", row.get("session_id"), row.get("uid"))
            return []

    async def _session(self, sampling_params: dict[str, Any], row: dict[str, Any]) -> list[RoleOutput]:
        config, info = ccpo_config(self.config), row["extra_info"]
        validating = info["split"] != "train"  # run() is not told; preflight checks that each file holds one split
        session = int(row["session_id"])
        prompt_id = (str(row["data_source"]), int(info["index"]))
        truth, answer_type = row["reward_model"]["ground_truth"], info["answer_type"]
        options = tuple(info.get("options") or ())

        async def generate(role: str, messages: Messages, round: int = 0) -> Turn:
            params = self._sampling_params(role, sampling_params, validating)
            if config.seed is not None:
                turn = (role, round) if round else role
                params["seed"] = request_seed(
                    config.seed, prompt_id, session, turn, int(row["global_steps"]), info["split"]
                )
            return await self._as(role)._turn(messages, params)

        async def judge(text: str) -> Verdict:
            return await self.loop.run_in_executor(None, verify, text, truth, answer_type, options)

        def budget(role: str) -> PromptBudget:
            player = self._as(role)
            return PromptBudget(player._count, player._cut, self.rollout_config.prompt_length)

        question = row["raw_prompt"][-1]["content"]
        spoken = await self._play(
            config, Session(question, truth, answer_type, session, validating, generate, judge, budget)
        )
        return [RoleOutput.build(role, scored, prompt_id=prompt_id) for role, scored in spoken]

    @abstractmethod
    async def _play(self, config: CcpoConfig, session: Session) -> list[tuple[str, Scored]]:
        """(role, what it said and earned) of one session."""

    @abstractmethod
    def _decoding(self, config: CcpoConfig, role: str) -> tuple[float | None, int | None, tuple[str, ...]]:
        """(temperature, longest response, stop strings) of a role; None: what the rollout section says."""

    def _sampling_params(self, role: str, base: dict[str, Any], validating: bool) -> dict[str, Any]:
        temperature, max_tokens, stop = self._decoding(ccpo_config(self.config), role)
        params = dict(base)
        longest = self.rollout_config.response_length
        params["max_tokens"] = min(max_tokens or longest, longest)
        if stop:
            params["stop"] = list(stop)
        if temperature is not None and not validating:
            params["temperature"] = temperature
        return params

    def _as(self, role: str) -> TeamAgentLoop:
        """This loop with the server and the tokenizer of the role's policy."""
        if not isinstance(self.server_manager, PolicyClient):
            return self
        name = self.server_manager.policy_of[role]
        client = self.server_manager.clients[name]
        model = _model(name, client.config)
        view = copy.copy(self)
        view.server_manager, view.tokenizer, view.processor = client, model.tokenizer, model.processor
        view.continuous_token_builder = create_continuous_token_builder(
            model.tokenizer,
            hf_model_type=getattr(model.hf_config, "model_type", None),
            chat_template_kwargs=self.apply_chat_template_kwargs,
            mm_processor_kwargs=self.mm_processor_kwargs,
            processor=model.processor,
        )
        return view

    async def _turn(self, messages: Messages, params: dict[str, Any]) -> Turn:
        """One request. Raises RuntimeError when the server aborted it or sent nothing."""
        start = time.perf_counter()
        prompt_ids = await self.ct_build_initial_tokens(messages)
        response = await self.server_manager.generate(
            request_id=uuid4().hex, prompt_ids=prompt_ids, sampling_params=params
        )
        if response.stop_reason == "aborted" or not response.token_ids:
            raise RuntimeError(
                f"the rollout server returned {len(response.token_ids)} tokens, stop reason {response.stop_reason}"
            )
        text = self.tokenizer.decode(response.token_ids, skip_special_tokens=True)
        at_limit = len(response.token_ids) >= params["max_tokens"]
        # Any special token ends a turn: chat models may stop at several (Qwen: end of turn, end of text).
        ended = response.token_ids[-1] in self.tokenizer.all_special_ids or any(
            stop in text for stop in params.get("stop", ())
        )
        return Turn(text, at_limit and not ended, (prompt_ids, response, time.perf_counter() - start))

    def _count(self, messages: Messages) -> int:
        return len(self.continuous_token_builder.build_initial_tokens(messages))

    def _cut(self, text: str, tokens: int) -> str:
        """Without its first ``tokens`` tokens."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.tokenizer.decode(ids[tokens:], skip_special_tokens=True)


class DyadAgentLoop(TeamAgentLoop):
    """``ccpo_dyad``: thought and solo answer decode at the same time, then the joint answer."""

    async def _play(self, config: CcpoConfig, session: Session) -> list[tuple[str, Scored]]:
        scored = await run_dyad(
            session.question,
            prompts=DYAD[config.prompts],
            generate=session.generate,
            judge=session.judge,
            budget=session.budget(REASON),
            # Session j decodes the prompt's solo answer j: shared by the group without any talk between sessions.
            solo=session.validating or session.number < config.solo_count(self.rollout_config.n),
            emptied=session.validating,
            strip_leak=config.strip_leak,
        )
        return list(scored.items())

    def _decoding(self, config: CcpoConfig, role: str) -> tuple[float | None, int | None, tuple[str, ...]]:
        settings = config.role(REASON if role == EMPTIED else role)
        return settings.temperature, settings.max_tokens, settings.stop


class VoteAgentLoop(TeamAgentLoop):
    """``ccpo_vote``: all voters of a round decode at the same time."""

    async def _play(self, config: CcpoConfig, session: Session) -> list[tuple[str, Scored]]:
        async def same(a: str, b: str) -> bool:
            return await self.loop.run_in_executor(None, same_answer, a, b, session.answer_type)

        return await run_vote(
            session.question,
            voters=voters_of(config.vote, config.prompts),
            truth=session.truth,
            generate=session.generate,
            judge=session.judge,
            label=lambda answer: label(answer, session.answer_type),
            same=same,
            budgets=[session.budget(role) for role in config.credited_roles()],
            tie=config.vote.tie,
            rounds=config.vote.rounds,
            share_reasoning=config.vote.share_reasoning,
        )

    def _decoding(self, config: CcpoConfig, role: str) -> tuple[float | None, int | None, tuple[str, ...]]:
        vote = config.vote
        return vote.temperatures[voter_index(role)] if vote.temperatures else None, vote.max_tokens, vote.stop
