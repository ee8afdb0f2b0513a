"""Errors that are meant for the user: the message says what, where and what to do."""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType


class UserError(ValueError):
    """A mistake that the user can mend; the tools print its message without a traceback."""


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
    if isinstance(error, TypeError) and ".__init__() " in str(error):
        return f"the config's keys do not fit: {str(error).replace('.__init__()', '')}. Misspelt?"
    if isinstance(error, ImportError) and re.search(r"lib(GL|gthread|X11|SM|Xext)\b", str(error)):
        return (
            f"OpenCV cannot start without a screen's libraries ({error}). Mend it with: pip "
            "uninstall -y opencv-python opencv-python-headless && pip install "
            "opencv-python-headless"
        )
    if isinstance(error, KeyError) and "is not in the" in str(error):
        return f"the config's {error.args[0].split('. ')[0]}. Misspelt?"
    return None


def run(main: Callable[[], None]) -> None:
    """Runs a tool: an error that the user can mend is one message and exit status 1."""
    # mmcv-lite warns at import of an op that no VGG needs.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")
