"""A reward of a user's own: ``ccpo.reward=path/to/file.py:function`` or ``package.module:function``.

    def reward(text: str, truth: str, row: Mapping) -> float | Reward          or: async def

    text    what the agent said; a turn that was cut by its token limit is not asked about: it is worth 0
    truth   the row's ground truth. row: the columns of the data, ``row["extra_info"]`` among them
    value   in [0, 1]. With ``Reward`` also the answer that was read, which votes count and pages show

Attributes of the function say more of it:

    reward.partial = True     values between 0 and 1 are meant: what is not defined for them is refused before training
    reward.label              answer -> one spelling of it, the same in every session; votes need it, or
    reward.same               (label, label) -> whether the two mean the same

An ``async def`` runs on the event loop of the sessions, with a time limit for its waits; it must not compute or block there. A plain
``def`` runs in processes of its own, since nothing else can be ended: a thread cannot be killed, and a regular expression that runs away
holds the interpreter, so that no clock of the same process would ring. Pebble's pool ends the process of a call that takes too long and
starts another, so there are never more than ``processes`` of them (per process that plays sessions).

Whatever is no value in [0, 1] (an exception, a timeout, NaN, another type) is a RewardError, never a 0. Source: our construction.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import ctypes
import difflib
import hashlib
import inspect
import math
import multiprocessing
import numbers
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccpo.user_code import UserCodeError, line_in, module_of

TIMEOUT = 30.0  # seconds
PROCESSES = 2
LONGEST_REASON = 300  # characters of an exception's first line
PARTS = ("label", "same")
"""What may stand at the function as attributes, besides ``partial``."""
_PARAMETERS = {"reward": 3, "label": 1, "same": 2}
BOOLS = ("bool", "bool_")  # numpy's
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG, of Linux


class RewardError(RuntimeError):
    """An own reward gave no value; the text says of which reward, and why. Its session is dropped and counted."""


@dataclass(frozen=True)
class Reward:
    """``value``: in [0, 1]. ``answer``: what was read as the answer; None: nothing (in a vote: an abstention)."""

    value: float
    answer: str | None = None


class OwnReward:
    """The functions that a reference names, ready to be called from an event loop."""

    def __init__(self, reference: str, timeout: float = TIMEOUT, processes: int = PROCESSES) -> None:
        """Raises UserCodeError for a reference that names no reward."""
        self.reference, self.timeout, self.processes = reference, timeout, processes
        self._functions = functions_of(reference)
        self.partial = bool(getattr(self._functions["reward"], "partial", False))
        self._started: Any = None

    @property
    def names_answers(self) -> bool:
        """Whether its answers can be told apart, as a vote needs."""
        return any(part in self._functions for part in PARTS)

    @property
    def digest(self) -> str:
        """Of the file that it stands in, or of the interpreter that it is built into: another content may judge otherwise."""
        where = self.reference.rpartition(":")[0]
        file = where if where.endswith(".py") else getattr(sys.modules[where], "__file__", None)
        content = Path(file).expanduser().read_bytes() if file else sys.version.encode()
        return hashlib.sha256(content).hexdigest()[:16]

    def has(self, part: str) -> bool:
        return part in self._functions

    async def value(self, text: str, truth: str, row: Mapping[str, Any]) -> float | Reward:
        """What ``text`` is worth: a float, or a Reward where the function gave one. Raises RewardError."""
        return await self._call("reward", text, truth, row)

    async def label(self, answer: str) -> str:
        return await self._call("label", answer)

    async def same(self, a: str, b: str) -> bool:
        return await self._call("same", a, b)

    def close(self) -> None:
        """End its processes; a later call starts new ones."""
        pool, self._started = self._started, None
        if pool is not None:
            pool.stop()
            pool.join()

    async def _call(self, part: str, *arguments: Any) -> Any:
        function = self._functions[part]
        if is_async(function):
            return await self._on_the_loop(part, function, arguments)
        try:
            status, result = await asyncio.wrap_future(self._schedule(part, arguments))
        except (concurrent.futures.TimeoutError, asyncio.TimeoutError):  # one and the same as of Python 3.11
            raise self._late(part) from None
        except (asyncio.CancelledError, RewardError):
            raise
        except BrokenProcessPool:
            broken, self._started = self._started, None
            if broken is not None:
                broken.stop()
            raise self._error(part, "could not be started: its processes end as they begin") from None
        except Exception as error:  # the process died, or the row cannot be sent there
            raise self._error(part, f"ended its process ({type(error).__name__}: {error})") from None
        if status != "done":
            raise self._error(part, result)
        return result

    async def _on_the_loop(self, part: str, function: Callable, arguments: tuple) -> Any:
        task = asyncio.ensure_future(_awaited(function(*copy.deepcopy(arguments))))  # the row is the session's
        # Where nobody comes to read it (too late, or a signal ended the loop), asyncio would log it some time later.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait({task}, timeout=self.timeout)
        finally:
            task.cancel()
        if not task.done():
            raise self._late(part)
        if task.cancelled():
            raise self._error(part, "was cancelled by its own code")
        if (error := task.exception()) is not None:
            cause = error.__cause__ if isinstance(error, _Exited) else error
            raise self._error(part, raised(cause, self.reference)) from cause
        try:
            return checked(part, task.result())
        except ValueError as error:
            raise self._error(part, str(error)) from None

    def _schedule(self, part: str, arguments: tuple) -> concurrent.futures.Future:
        if self._started is None:
            from pebble import ProcessPool

            self._started = ProcessPool(
                max_workers=self.processes,
                initializer=_begin,
                initargs=[self.reference],
                context=multiprocessing.get_context(
                    "spawn"
                ),  # a fork would copy locks of threads that it does not copy
            )
        return self._started.schedule(_in_process, args=[self.reference, part, arguments], timeout=self.timeout)

    def _error(self, part: str, what: str) -> RewardError:
        return RewardError(f"the {'reward' if part == 'reward' else f'{part} of the reward'} {self.reference} {what}")

    def _late(self, part: str) -> RewardError:
        return self._error(part, f"took more than {self.timeout:g} seconds (ccpo.reward_timeout)")


class _Exited(Exception):
    """A coroutine has called sys.exit."""


async def _awaited(call: Awaitable) -> Any:
    """What ``call`` gives. An event loop would obey its SystemExit, and all sessions would end."""
    try:
        return await call
    except SystemExit as error:
        if type(error) is not SystemExit:  # a signal's, which came meanwhile (scripts/evaluate.py)
            raise
        raise _Exited from error


# ------------------------------------------------------------------------------------------------------------- loading


def functions_of(reference: str) -> dict[str, Callable]:
    """reward, and label and same where it has them. Raises UserCodeError."""
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise UserCodeError(f"{reference!r} names no reward: set package.module:function, or path/to/file.py:function")
    module = module_of(where, "reward")
    found = getattr(module, name, None)
    if not callable(found) or inspect.isclass(found):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(name, functions, n=1)
        what = "does not exist" if found is None else f"is {_a(found)}, no function"
        raise UserCodeError(
            f"{name} {what} in {where}: "
            + (f"did you mean {near[0]}? " if near else "")
            + f"functions there: {', '.join(functions) or 'none'}"
        )
    functions = {"reward": found}
    for part in PARTS:
        if (own := getattr(found, part, None)) is not None:
            if not callable(own):
                raise UserCodeError(f"{name}.{part} in {where} is {_a(own)}: set it to a function, or leave it out")
            functions[part] = own
    for part, function in functions.items():
        count = _PARAMETERS[part]
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError:
            wanted = {"reward": "(text, truth, row)", "label": "(answer)", "same": "(a, b)"}[part]
            raise UserCodeError(
                f"{name if part == 'reward' else f'{name}.{part}'} in {where} cannot be called with {count} arguments: it takes {wanted}"
            ) from None
        except ValueError:  # one without a signature: a builtin
            continue
    if not isinstance(getattr(found, "partial", False), bool):
        raise UserCodeError(f"{name}.partial in {where} is {_a(found.partial)}: set True or False")
    return functions


def is_async(function: Callable) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def checked(part: str, result: Any) -> Any:
    """What a function gave, as plain values. Raises ValueError: what is wrong with it, to be read after the function's name."""
    if part == "label":
        if not isinstance(result, str) or not result:
            raise ValueError(f"returned {_shown(result)}, not a text that names the answer")
        return _text(result)
    if part == "same":
        if type(result).__name__ not in BOOLS:
            raise ValueError(f"returned {_shown(result)}, not True or False")
        return bool(result)
    value, answer = (result.value, result.answer) if isinstance(result, Reward) else (result, None)
    if inspect.isawaitable(value):
        raise ValueError("returned something to be awaited: define it with async def")
    if not isinstance(value, numbers.Real) and type(value).__name__ not in BOOLS:
        raise ValueError(f"returned {_shown(value)}, not a number in [0, 1] or a Reward")
    value = float(value)
    if math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(f"returned {value}, which is not in [0, 1]")
    if not isinstance(result, Reward):
        return value
    if answer is not None and (not isinstance(answer, str) or not answer):
        raise ValueError(f"returned the answer {_shown(answer)}: set a text, or None where nothing was read")
    return Reward(value, None if answer is None else _text(answer))


def raised(error: BaseException, reference: str) -> str:
    where = reference.rpartition(":")[0]
    first = (str(error).strip().splitlines() or [""])[0][:LONGEST_REASON]
    return f"raised {type(error).__name__}{f': {first}' if first else ''}{line_in(error, where)}"


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"returned a text that is no valid Unicode: {error.reason} at character {error.start}"
        ) from None
    return text


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except Exception:  # of a user's own class
        text = "?"
    return f"{_a(value)} ({text if len(text) <= 60 else f'{text[:60]}...'})"


def _a(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


# ------------------------------------------------------------------------------------- in a process of the reward's own

_loaded: dict[str, dict[str, Callable]] = {}


def _begin(reference: str) -> None:
    if sys.platform == "linux":  # whoever plays the sessions may be killed, while a call hangs here
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    try:
        _loaded[reference] = functions_of(reference)  # before the first call's clock runs
    except UserCodeError:
        pass  # the call says so


def _in_process(reference: str, part: str, arguments: tuple) -> tuple[str, Any]:
    """("done", plain values), or ("failed", why): what a user's code raises may not survive the way back."""
    try:
        functions = _loaded.get(reference) or functions_of(reference)
        result = functions[part](*arguments)
    except BaseException as error:
        return "failed", str(error) if isinstance(error, UserCodeError) else raised(error, reference)
    try:
        return "done", checked(part, result)
    except ValueError as error:
        return "failed", str(error)
