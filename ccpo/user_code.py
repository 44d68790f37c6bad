"""Code of a user's own, by reference: ``package.module:name``, or ``path/to/file.py:name``.

A file is imported under a name of its own, with its folder on the path meanwhile, once per path and content.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any


class UserCodeError(ValueError):
    """A reference that leads to no code; the text says what is wrong and what to set."""


def module_of(where: str, what: str) -> Any:
    """The module ``where`` names, a package path or a ``.py`` file. ``what``: whose it is, for the message of a UserCodeError."""
    try:
        if where.endswith(".py"):
            path = Path(where).expanduser().resolve()
            if not path.is_file():
                raise UserCodeError(f"the {what}'s file {where} does not exist (looked for {path})")
            return _file_module(path, hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12])
        return importlib.import_module(where)
    except UserCodeError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        line = "" if isinstance(error, SyntaxError) else line_in(error, where)
        raise UserCodeError(
            f"the {what}'s module {where} cannot be imported: {type(error).__name__}: {error}{line}. Every process of the job imports it: it "
            "needs what is installed there, or on PYTHONPATH"
        ) from error


def line_in(error: BaseException, where: str) -> str:
    """`` (line 12)``: the last line of the file or module ``where`` that ``error`` went through; nothing where it went through none."""
    name = Path(where).name if where.endswith(".py") else f"{where.rpartition('.')[2]}.py"
    trace, number = error.__traceback__, None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == name:
            number = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {number})" if number else ""


@lru_cache(maxsize=32)
def _file_module(path: Path, digest: str) -> Any:
    name = f"ccpo_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def absolute(reference: str) -> str:
    """The same reference (``file.py:name``, ``file.yaml``, ``file.yaml:name``) for another working folder; any other text as it is."""
    where, colon, name = reference.rpartition(":")
    if not colon:
        where, name = reference, ""
    if where.endswith((".yaml", ".yml")) or (colon and where.endswith(".py")):
        return f"{Path(where).expanduser().resolve()}{colon}{name}"
    return reference
