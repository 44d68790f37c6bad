"""Child process of ``ccpo.verifier``: mathematical equivalence through math-verify, one JSON line in, one out.

This process imports sympy once and then only forks and watches. Its own child answers; when algebra exceeds the limit
the kernel ends that child, even in the middle of one huge power, and a fresh copy is there in milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import signal
import sys

CPU_SECONDS = 0.8  # the limit of a verdict; CPU time, so that a busy machine does not change rewards
WALL_SECONDS = 1.4
MEMORY_BYTES = 2 << 30  # address space
_MAX_LINE = 1 << 20

WARM_UP = (  # the parser learns a construct when it first meets it, for up to a second; copies inherit that
    ("\\frac{1}{2}", "0.5"),
    ("x^{2}+y_{1}", "y_1+x^2"),
    ("(-\\infty,2]\\cup[3,\\frac{9}{2})", "\\left(-\\infty,2\\right] \\cup \\left[3,\\frac92\\right)"),
    ("\\{1,2\\}", "\\{2,\\frac{\\frac{2}{2}}{1}\\}"),
    ("\\left(\\frac{\\pi}{3},-\\sqrt{2}\\right)", "(\\frac{\\pi}{{3}},-\\sqrt{((2))})"),
    ("\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}", "\\begin{pmatrix} \\frac{2}{2} \\\\ -2 \\end{pmatrix}"),
    ("\\frac{1+\\sqrt{5}}{2}", "\\frac{\\sqrt{(5)}}{(2)}+\\frac{1}{\\frac{4}{{2}}}"),
    ("2x+3", "y=(2(x)+((3)))"),
    ("3 \\cdot 2^{10}", "(2^{{10}}) \\times 3"),
    ("6-5i", "-5i+6"),
    ("5", "10!/9!-5"),
    ("4\\text{ cm}", "2^{2}\\text{ cm}"),
)


def equal(answer: str, truth: str) -> bool | None:
    """Whether ``answer`` and ``truth`` (LaTeX) are equivalent; None if nothing can be read from ``answer``.

    A percentage equals its number and its value: 20\\% is 20 and 0.2, as math-verify has it outside boxes.
    """
    (answer, answer_percent), (truth, truth_percent) = _split_percent(answer), _split_percent(truth)
    result = _same(answer, truth)
    if result is False and answer_percent != truth_percent:
        hundredth = "\\frac{{{}}}{{100}}"
        answer = hundredth.format(answer) if answer_percent else answer
        truth = hundredth.format(truth) if truth_percent else truth
        result = _same(answer, truth)
    return result


def _split_percent(text: str) -> tuple[str, bool]:
    bare = re.sub(r"\\?%\W*$", "", text)
    return bare, bare != text


def _same(answer: str, truth: str) -> bool | None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    # No time limits of math-verify's own: they use the alarm signal, which here ends the process.
    read = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (truth, answer)]
    if not read[1]:
        return None
    return bool(verify(read[0], read[1], timeout_seconds=None))


def _reply(out: int, **fields: object) -> None:
    os.write(out, json.dumps(fields).encode() + b"\n")


def _serve(out: int) -> None:
    """Answer requests until the input ends. Whoever asks waits for the reply, so a line is all that was sent."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(0, _MAX_LINE)
            if not part:
                os._exit(0)
            line += part
        answer, truth = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            result = equal(answer, truth)
        except Exception:  # whatever the libraries raise on model output: it could not be read
            result = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(out, equal=result, timeout=False)


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # a library's print must not look like a reply
    try:
        for truth, answer in WARM_UP:
            if equal(answer, truth) is not True:
                raise ImportError(f"math-verify does not find {answer} equal to {truth}")
    except ImportError as error:
        _reply(out, error=str(error))
        sys.exit(1)
    gc.collect()
    gc.freeze()  # keeps forked pages shared
    _reply(out, limit=WALL_SECONDS)
    while True:
        child = os.fork()
        if child == 0:
            _serve(out)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status in (0, -signal.SIGKILL):  # input closed; or killed from outside, perhaps without a request
            sys.exit(0 if status == 0 else 1)
        _reply(out, equal=None, timeout=True)


if __name__ == "__main__":
    main()
