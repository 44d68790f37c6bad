"""Whether a thought states a final answer: for the leak rate of Think, and for prompts that hide it. Source: our construction."""

from __future__ import annotations

import re

from ccpo.verifier.spelling import BOXED, closing_brace

_LEAD_IN = r"\b(?:answer|correct (?:option|choice))[*]{0,2}(?: is|:| =)[*]{0,2}[\s:*$(\[{]{0,9}"
_LEAK = re.compile(
    r"\\boxed|\bfinal answer[*]{0,2}(?: is|:| =)|####\s{0,3}[-+$\\]{0,3}\d"
    rf"|{_LEAD_IN}(?:\\?[($]?\s?[-+]?\.?\d|-?\\[a-z]{{2}}|[a-z] ?="
    r"|[a-e](?=[).\]*]{0,3}(?:\s{0,3}(?:$|\n)|[.,;)]\s)))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[ \t]+|(?<=\n)")


def looks_like_answer(text: str) -> bool:
    """Whether a thought states a final answer: boxed, after ``####`` or in words. For the leak rate of Think."""
    return _LEAK.search(text) is not None


def strip_answer(text: str) -> str:
    """``text`` without the sentences that state a final answer; the rest stays in order, spaces may change."""
    kept, at = [], 0
    for found in BOXED.finditer(text):
        if found.start() < at:
            continue
        end = closing_brace(text, found.end(), len(text))
        if end is None:  # nor does one after it that this one holds
            break
        kept += [text[at : found.start()], "\\boxed"]  # its content may span sentences
        at = end + 1
    text = "".join(kept) + text[at:]
    while looks_like_answer(text):
        kept = [part for part in _SENTENCE_END.split(text) if not looks_like_answer(part)]
        shorter = "".join(part if part.endswith("\n") else part + " " for part in kept).rstrip()
        text = shorter if len(shorter) < len(text) else _LEAK.sub("", text)
    return text
