"""A row's reference answer: ``extra_info.reference``, the text that the last speaker says when it is right, as the data command writes it.

Its end token is added here, where the tokenizer is at hand. `ccpo.credit.likelihood` reads how likely the last speaker finds it: asked to answer
at once, or behind the chain that it wrote. There the answer begins behind the first ``\\boxed`` that was sampled, and the reference's part of it
ends before the token in which its box closes: behind ``{5`` models go on with ``}``, ``}$`` or ``}.``, and all are right.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ccpo.data import section, shown, text_problem
from ccpo.judge import RowJudge
from ccpo.verifier import OWN, verify
from ccpo.verifier.spelling import closing_brace

BOX = "\\boxed"
OPENERS = (BOX, BOX + "{")
"""What opens an answer: the shorter one, where the tokenizer ends a token there. Most do: they keep letters and braces apart."""


@dataclass(frozen=True)
class Behind:
    """Where a speaker's answer begins, in the tokens that it sampled.

    length: of what is kept: its chain, and what opens the answer.
    answer: tokens of the reference from there on.
    said:   it went on with these.
    """

    length: int
    answer: tuple[int, ...]
    said: bool


def behind(tokenizer: Any, reference: str, said: Sequence[int], room: int) -> Behind | None:
    """Where the answer begins in what was said. None: there is none, or it begins inside a token, or the reference's would not fit: the sampled
    verdict then stands.

    Whether there is a border, and which, is decided by the tokens before it alone: else the reference's likelihood there would not be the
    expectation of ``Behind.said``.

    Args:
        said: sampled token ids. room: how many there may be.
    """
    if (found := answer_part(tokenizer, reference)) is None:
        return None
    opener, answer = found
    length = _length(tokenizer, said, opener)
    if length is None or length + len(answer) > room:
        return None
    return Behind(length, answer, tuple(said[length : length + len(answer)]) == answer)


@lru_cache(maxsize=1 << 14)
def answer_part(tokenizer: Any, reference: str) -> tuple[str, tuple[int, ...]] | None:
    """(what opens a reference's answer, its tokens from there on); None where it has no box, or a token holds its border or all of it."""
    ids = tokenizer.encode(reference, add_special_tokens=False)
    for opener in OPENERS:
        if (start := _length(tokenizer, ids, opener)) is not None:
            break
    else:
        return None
    inside = reference.find(OPENERS[-1]) + len(OPENERS[-1])
    closed = closing_brace(reference, inside)
    if inside < len(OPENERS[-1]) or closed is None:
        return None
    end = bisect_left(range(len(ids)), True, key=lambda n: len(_text(tokenizer, ids[: n + 1])) > closed)
    answer = tuple(ids[start:end])
    return (opener, answer) if _text(tokenizer, answer).strip(" {") else None


def _length(tokenizer: Any, ids: Sequence[int], opener: str) -> int | None:
    """How many tokens lead up to the end of the first opener; None where there is none, or a token goes on behind it."""
    length = bisect_left(range(len(ids) + 1), True, key=lambda n: opener in _text(tokenizer, ids[:n]))
    return length if length <= len(ids) and _text(tokenizer, ids[:length]).endswith(opener) else None


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


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


def reference_problem(row: Mapping[str, Any], last: str, own_reward: bool, chain: bool = False) -> str | None:
    """Why a good row has no reference answer that can be scored.

    ``last``: who would say it. ``own_reward``: a reward of the user's own judges; it is not asked. ``chain``: it is scored behind a chain.
    """
    reference, another = section(row["extra_info"]).get("reference"), "or set another ccpo.credit.rule"
    if reference is None:
        return (
            f"no extra_info.reference, the text that {last} says when it is right, and the credit rule asks how likely it is: make the data anew with "
            f"its data command, which writes it (data_preprocess.custom with --type own: give your column with --extra reference), {another}"
        )
    if reason := text_problem(reference):
        return f"extra_info.reference {reason}"
    if chain and OPENERS[-1] not in reference:
        return (
            f"extra_info.reference is {shown(reference)}, without {OPENERS[-1]}...}}, and ccpo.credit.reference_after=chain keeps what {last} says up to "
            f"there: where another answer begins is not known; write the reference so, and ask {last} for it, or set reference_after=prompt"
        )
    if own_reward or row["extra_info"]["answer_type"] == OWN:
        return None
    judge = RowJudge.of(row)
    if verify(reference, judge.truth, judge.answer_type, judge.options).reward == 1.0:
        return None
    return (
        f"extra_info.reference is {shown(reference)}, which the verifier does not find right (the truth is {shown(judge.truth)}): credit would reward "
        f"what is worth nothing; write what it reads, {another}"
    )


def border_problem(tokenizer: Any, references: Iterable[str], last: str) -> str | None:
    """Why `behind` would never find a border with the last speaker's tokenizer. A reference that has none is another matter: its sessions fall back."""
    if any(answer_part(tokenizer, reference) for reference in references):
        return None
    return (
        f"no training row's reference has an answer that begins at the end of a token of {last}'s model ({' or '.join(OPENERS)}): "
        "ccpo.credit.reference_after=chain would score nothing; set reference_after=prompt, or another ccpo.credit.rule"
    )
