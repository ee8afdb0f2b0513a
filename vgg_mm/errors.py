"""Errors that are meant for the user: the message says what, where and what to do."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType

from vgg_mm.environment import advice
from vgg_mm.signals import handled, leave


class UserError(ValueError):
    """A mistake that the user can mend; the tools print its message without a traceback."""


DIVERGED = 3  # a tool's exit status


class Diverged(UserError):
    """A training's numbers are none any more."""


def suggest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """``" Did you mean 'x'?"`` where one of the ``known`` words is close, else an empty string."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def library(name: str, use: str, extra: str = "weights") -> ModuleType:
    """Imports a library that not everyone needs.

    Args:
        name: The module.
        use: What needs it, for the message.
        extra: Under which name ``setup.py`` has it.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        root = name.partition(".")[0]
        raise UserError(f"{use} needs {root}: pip install 'vgg_mm[{extra}]'.") from None


def _message(error: Exception) -> str | None:
    """What to tell the user of ``error``; None where the traceback tells more."""
    if isinstance(error, UserError):
        # A DataLoader's worker re-raises its error with the worker's traceback in the message.
        return str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
    if isinstance(error, TypeError) and _keys_at_fault(error):
        return f"the config's keys do not fit: {str(error).replace('.__init__()', '')}. Misspelt?"
    if line := advice(error):
        return line
    unknown = isinstance(error, KeyError) and "is not in the" in str(error)
    if unknown and _builds(_frames(error)[-1]):
        return f"the config's {error.args[0].split('. ')[0]}. Misspelt?"
    return None


def _keys_at_fault(error: TypeError) -> bool:
    """Whether a class was called with what a config says, and did not want it or missed more.

    A TypeError of any other call is a fault of the code.
    """
    frames = _frames(error)
    if key := re.search(r"\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        values = [value for frame in filter(_builds, frames) for value in frame.f_locals.values()]
        return any(isinstance(value, dict) and key[1] in value for value in values)
    return ".__init__() missing " in str(error) and _builds(frames[-1])


def _frames(error: BaseException) -> list[FrameType]:
    """Where an error was first raised, the innermost last; some are raised anew with more text."""
    while isinstance(inner := error.__cause__ or error.__context__, type(error)):
        error = inner
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _builds(frame: FrameType) -> bool:
    """Whether this is mmengine's code that builds from configs."""
    return frame.f_globals.get("__name__") in (
        "mmengine.registry.build_functions",
        "mmengine.runner.runner",
    )


def run(main: Callable[[], None]) -> None:
    """Runs a tool: an error that the user can mend is one message and exit status 1.

    Where a training diverged it is ``DIVERGED``.

    What stands beside the tool can be imported, as ``tools.data.stats``. SIGTERM and SIGUSR1 end it
    with its children, at status 128 + the signal. With the environment's ``VGG_MM_DEBUG=1`` every
    error shows its traceback.
    """
    folders = Path(main.__code__.co_filename).resolve().parents
    sys.path[:0] = [str(folder.parent) for folder in folders if folder.name == "tools"][:1]
    try:
        with handled(leave):
            main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get("VGG_MM_DEBUG", "0") not in ("", "0"):
            raise
        end = SystemExit(f"error: {message}")
        if isinstance(error, Diverged):
            print(end, file=sys.stderr)
            end.code = DIVERGED
        raise end from error
