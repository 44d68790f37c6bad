"""A row's reference answer: ``extra_info.reference``, the text that the last speaker says when it is right, as the data command writes it.

Its end token is added here, where the tokenizer is at hand. `ccpo.credit.likelihood` reads how likely the last speaker finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccpo.data import section, shown, text_problem
from ccpo.judge import RowJudge
from ccpo.verifier import OWN, verify


def answer_ids(tokenizer: Any, reference: str) -> list[int]:
    """Tokens of a reference answer, with its end."""
    return [*tokenizer.encode(reference, add_special_tokens=False), end_token(tokenizer)]


def end_token(tokenizer: Any) -> int:
    """The token that ends a turn: what the chat template writes after one, or the tokenizer's end of text."""
    said = "said"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "asked"}, {"role": "assistant", "content": said}], tokenize=False
    )
    after = tokenizer.encode(text.rpartition(said)[2], add_special_tokens=False)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return after[0] if after and after[0] in special else tokenizer.eos_token_id


def reference_problem(row: Mapping[str, Any], last: str, own_reward: bool) -> str | None:
    """Why a good row has no reference answer that can be scored.

    ``last``: who would say it. ``own_reward``: a reward of the user's own judges; it is not asked.
    """
    reference, another = section(row["extra_info"]).get("reference"), "or set another ccpo.credit.rule"
    if reference is None:
        return (
            f"no extra_info.reference, the text that {last} says when it is right, and the credit rule asks how likely it is: make the data anew with a "
            f"data command that writes it (data_preprocess.toy, gsm8k, math; custom with --extra reference), {another}"
        )
    if reason := text_problem(reference):
        return f"extra_info.reference {reason}"
    if own_reward or row["extra_info"]["answer_type"] == OWN:
        return None
    judge = RowJudge.of(row)
    if verify(reference, judge.truth, judge.answer_type, judge.options).reward == 1.0:
        return None
    return (
        f"extra_info.reference is {shown(reference)}, which the verifier does not find right (the truth is {shown(judge.truth)}): credit would reward "
        f"what is worth nothing; write what it reads, {another}"
    )
