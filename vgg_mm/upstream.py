"""What is worked around in mmengine, all in one place; a test of each tells when it can go."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import numpy as np
import torch
from mmengine.config import config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import checkpoint

# Where mmengine finds yapf's FormatCode; onedl-mmengine looks it up in yapf when it formats.
FORMATTER = config if hasattr(config, "FormatCode") else import_module("yapf.yapflib.yapf_api")


def format_configs_once() -> None:
    """Lets mmengine format the same config's text once (mmcv#2466).

    ``Config.pretty_text`` runs yapf for seconds, at a run's start and at every checkpoint.
    """
    original, formatted = FORMATTER.FormatCode, {}

    def format_code(text: str, **kwargs) -> tuple[str, bool]:
        if text not in formatted:
            formatted[text] = original(text, **kwargs)
        return formatted[text]

    FORMATTER.FormatCode = format_code


def shorten_history(hub: MessageHub, length: int = 1000) -> None:
    """Keeps the last values of every scalar.

    mmengine copies all of a run's past values at every step and saves them with every checkpoint;
    its logs look at the last ones alone.
    """
    for buffer in hub.log_scalars.values():
        log, count = buffer.data
        buffer._log_history, buffer._count_history = log[-length:], count[-length:]


def _history_method(owner: object, name: str) -> object:
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise AttributeError(f"a checkpoint asks for {name} of {owner}, which is not allowed")
    return getattr(HistoryBuffer, name)


def trust_mmengines_checkpoints() -> None:
    """Lets torch load, with ``weights_only=True``, what mmengine 0.10 saves (mmengine#1655).

    Such a checkpoint pickles the log's history as objects, for which it looks up four methods with
    ``getattr``; a function that finds these four and nothing else takes its place.
    """
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_method, "builtins.getattr"),
            np.ndarray,
            np.dtype,
            *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
            # NumPy 1 and 2 name them differently, and a file may come from either.
            *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
            *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        ]
    )


def load_weights_only() -> None:
    """Makes mmengine's loaders run nothing that is in a file.

    Torch's loader of URLs runs pickles unless told not to. onedl-mmengine runs what torch refuses,
    calls ``getattr`` safe, and at the end of every load takes back from torch whatever it shares
    with :func:`trust_mmengines_checkpoints`, which the next load then lacks.
    """
    checkpoint.load_url = partial(checkpoint.load_url, weights_only=True)
    if hasattr(checkpoint, "_safe_torch_load"):
        checkpoint._safe_torch_load = partial(torch.load, weights_only=True)
