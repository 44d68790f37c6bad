"""Sessions on verl's rollout servers: a team's program (`ccpo.team`) with real tokens."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from ccpo.config import CcpoConfig
from ccpo.credit.rules import RULES
from ccpo.judge import judge_of
from ccpo.prompts import Messages, with_persona
from ccpo.reference import answer_ids, behind
from ccpo.run.session_log import as_json, may_be_kept
from ccpo.run.sessions import session_facts
from ccpo.seeds import request_seed
from ccpo.team.replay import PlayedReplay, play
from ccpo.team.session import Decoded, PromptBudget, Scene, Turn
from ccpo.types import REMOVE
from ccpo.verl_plugin.policies import PolicyClient
from ccpo.verl_plugin.reference import facts
from ccpo.verl_plugin.trajectory import RoleOutput, outputs_of
from ccpo.verl_plugin.update import own_ratio

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


class _Prompts:
    """Prompts as tokens. Each is asked for twice, to be counted and to be sent, and a question by every session of it."""

    MOST = 128

    def __init__(self, builder: Any) -> None:
        self._build = lru_cache(maxsize=self.MOST)(lambda said: builder.build_initial_tokens(list(map(dict, said))))

    def of(self, messages: Messages) -> list[int]:
        return list(self._build(tuple(tuple(message.items()) for message in messages)))


class TeamAgentLoop(AgentLoopBase):
    """``ccpo_team``: sessions of the team that the configuration names, and their replays. Keeps nothing of a session."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._players: dict[str, TeamAgentLoop] = {}  # by policy
        self._own_ratio = own_ratio(self.config)
        self._tokens = _Prompts(self.continuous_token_builder)

    async def run(self, sampling_params: dict[str, Any], **row) -> list[RoleOutput]:
        """One session.

        Args:
            sampling_params: verl's, for training or validation.
            row: the dataset row's columns and verl's ``uid``, ``session_id``, ``global_steps``.

        Returns:
            A row per turn. Empty when the session failed: it is dropped and counted, its siblings stay.
        """
        try:
            return await asyncio.wait_for(self._session(sampling_params, row), ccpo_config(self.config).session_timeout)
        except Exception:
            logger.exception("session %s of prompt %s was dropped", row.get("session_id"), row.get("uid"))
            return []

    async def _session(self, sampling_params: dict[str, Any], row: dict[str, Any]) -> list[RoleOutput]:
        config, info = ccpo_config(self.config), row["extra_info"]
        validating = info["split"] != "train"  # run() is not told; preflight checks that each file holds one split
        number = int(row["session_id"])
        prompt_id = (str(row["data_source"]), int(info["index"]))
        truth = row["reward_model"]["ground_truth"]
        # Log-probabilities cost the server as much as all else of a token. With an own ratio they only show whether its weights are the
        # actor's, for which one session of a prompt is enough; validation reads none.
        asked = bool(sampling_params.get("logprobs")) and not validating and (number == 0 or not self._own_ratio)

        async def decode(role: str, messages: Messages, name: Hashable) -> Decoded:
            params = self._sampling_params(role, sampling_params, validating)
            params["logprobs"] = asked
            if config.seed is not None:
                params["seed"] = request_seed(
                    config.seed, prompt_id, number, name, int(row["global_steps"]), info["split"]
                )
            return await self._as(role)._decode(messages, params)

        def render(role: str, fields: Mapping[str, str]) -> Messages:
            return with_persona(config.prompt_sets[role].messages(role, fields), config.role(role).persona)

        def budget(role: str) -> PromptBudget:
            player = self._as(role)
            return PromptBudget(player._count, player._cut, self.rollout_config.prompt_length)

        judge = judge_of(row, config.own_reward)
        scene = Scene(
            question=row["raw_prompt"][-1]["content"],
            decode=decode,
            render=render,
            judge=judge,
            budget=budget,
            row=row,
            number=number,
            seed=(config.seed, prompt_id, number, int(row["global_steps"])),
            end_when_truncated=RULES[config.credit.rule].end_when_truncated and not validating,
        )
        replays = config.replays(number, self.rollout_config.n, validating)
        scored = config.reads_reference and not validating
        played = await play(config.members, scene, config.plan, replays, cuts=scored)

        def wanted(replay: PlayedReplay) -> bool:
            """Validation looks at all of them; in training, rows that nobody trains would only dilute the mean."""
            trained = config.credit.train_replays and replay.shared and replay.intervention.how == REMOVE
            return validating or trained

        has_log_probs = not validating and self.rollout_config.calculate_log_probs
        return outputs_of(
            played,
            prompt_id=prompt_id,
            truth=truth,
            with_replays=wanted,
            kept=as_json(session_facts(played, config.members, row, number))
            if self._may_be_kept(row, validating)
            else None,
            has_log_probs=has_log_probs,
            verifying=sum(judge.waited),
            reference=await self._as(config.plan.order[-1])._reference(
                played.cuts, info["reference"], played.turns[-1], sampling_params
            )
            if scored
            else None,
        )

    async def _reference(
        self, cuts: tuple[Messages, ...], reference: str, last: Turn, sampling_params: dict[str, Any]
    ) -> dict[str, Any]:
        """What the last speaker, whose player this is, would be asked after each turn, what it read and said before its answer, and the answer to
        score there, as tokens."""
        prompts = [await self.ct_build_initial_tokens(messages) for messages in cuts]
        answer = answer_ids(self.tokenizer, reference)
        if not ccpo_config(self.config).reads_chain:
            return facts(prompts, answer)
        read, response, _ = last.payload
        room = self._sampling_params(last.role, sampling_params, validating=False)["max_tokens"]
        if (border := behind(self.tokenizer, reference, response.token_ids, room)) is None:
            return facts(prompts, answer)
        return facts(prompts, answer, [*read, *response.token_ids[: border.length]], border)

    def _may_be_kept(self, row: dict[str, Any], validating: bool) -> bool:
        config = ccpo_config(self.config)
        if validating or not config.keep_sessions:
            return config.keep_sessions > 0
        return may_be_kept(
            config.keep_sessions,
            self.config.data.train_batch_size,
            config.seed,
            (str(row["data_source"]), int(row["extra_info"]["index"])),
            int(row["session_id"]),
            int(row["global_steps"]),
        )

    def _sampling_params(self, role: str, base: dict[str, Any], validating: bool) -> dict[str, Any]:
        settings = ccpo_config(self.config).role(role)
        params = dict(base)
        longest = self.rollout_config.response_length
        params["max_tokens"] = min(settings.max_tokens or longest, longest)
        if settings.stop:
            params["stop"] = list(settings.stop)
        if settings.temperature is not None and not validating:
            params["temperature"] = settings.temperature
        return params

    def _as(self, role: str) -> TeamAgentLoop:
        """This loop with the server and the tokenizer of the role's policy."""
        if not isinstance(self.server_manager, PolicyClient):
            return self
        name = self.server_manager.policy_of[role]
        if name not in self._players:
            self._players[name] = self._player(name)
        return self._players[name]

    def _player(self, name: str) -> TeamAgentLoop:
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
        view._tokens = _Prompts(view.continuous_token_builder)
        return view

    async def _decode(self, messages: Messages, params: dict[str, Any]) -> Decoded:
        """One request. Raises RuntimeError when the server aborted it or sent nothing."""
        start = time.perf_counter()
        prompt_ids = self._tokens.of(messages)  # they fit: the session counted them
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
        return Decoded(text, at_limit and not ended, (prompt_ids, response, time.perf_counter() - start))

    def _count(self, messages: Messages) -> int:
        return len(self._tokens.of(messages))

    def _cut(self, text: str, tokens: int) -> str:
        """Without its first ``tokens`` tokens."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.tokenizer.decode(ids[tokens:], skip_special_tokens=True)
