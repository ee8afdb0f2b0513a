"""What is worked around in mmengine, all in one place; a test of each tells when it can go."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from functools import partial
from importlib import import_module
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel, PretrainedInit, update_init_info
from mmengine.runner import checkpoint
from torch import nn

# Where mmengine finds yapf's FormatCode; onedl-mmengine looks it up in yapf when it formats.
FORMATTER: Any = config if hasattr(config, "FormatCode") else import_module("yapf.yapflib.yapf_api")


def format_configs_once() -> None:
    """Lets mmengine format the same config's text once (mmcv#2466).

    ``Config.pretty_text`` runs yapf for seconds, at a run's start and at every checkpoint.
    """
    original = FORMATTER.FormatCode
    formatted: dict[str, tuple[str, bool]] = {}

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


class Plain:
    """Makes what stands for a dict-like object in a checkpoint: torch fills these dicts alone."""

    def __new__(cls, *args) -> Any:  # noqa: D102
        return OrderedDict()


# What training scripts store beside weights, by the names under which files may have them.
PLAIN: dict[type, str] = {
    argparse.Namespace: "argparse.Namespace",
    SimpleNamespace: "types.SimpleNamespace",
    PurePosixPath: """pathlib.PosixPath pathlib.PurePosixPath pathlib.Path pathlib.PurePath
        pathlib._local.PosixPath pathlib._local.PurePosixPath""",
    PureWindowsPath: """pathlib.WindowsPath pathlib.PureWindowsPath pathlib._local.WindowsPath
        pathlib._local.PureWindowsPath""",
    **{
        kind: f"builtins.{kind.__name__} __builtin__.{kind.__name__}"
        for kind in (dict, list, tuple, set, frozenset, int, float, bool)
    },
    Plain: """easydict.EasyDict addict.addict.Dict addict.Dict box.box.Box munch.Munch
        mmengine.config.config.ConfigDict mmengine.config.config.Config mmcv.utils.config.ConfigDict
        yacs.config.CfgNode fvcore.common.config.CfgNode detectron2.config.config.CfgNode
        ml_collections.config_dict.config_dict.ConfigDict
        lightning_fabric.utilities.data.AttributeDict
        lightning.fabric.utilities.data.AttributeDict
        pytorch_lightning.utilities.parsing.AttributeDict
        omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig
        omegaconf.base.ContainerMetadata omegaconf.base.Metadata omegaconf.nodes.AnyNode
        omegaconf.nodes.IntegerNode omegaconf.nodes.FloatNode omegaconf.nodes.StringNode
        omegaconf.nodes.BooleanNode typing.Any datetime.datetime datetime.date datetime.timedelta
        uuid.UUID collections.defaultdict""",
}


def trust_mmengines_checkpoints() -> None:
    """Lets torch load, with ``weights_only=True``, what mmengine 0.10 saves (mmengine#1655).

    Such a checkpoint pickles the log's history as objects, for which it looks up four methods with
    ``getattr``; a function that finds these four and nothing else takes its place. So do plain
    values for what else is plain (:data:`PLAIN`), which other people's checkpoints hold.
    """
    reconstruct: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_method, "builtins.getattr"),
            np.ndarray,
            np.dtype,
            *{type(np.dtype(code)) for code in np.typecodes["All"]},
            # NumPy 1 and 2 name them differently, and a file may come from either.
            *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
            *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
            *((plain, name) for plain, names in PLAIN.items() for name in names.split()),
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


def read_foreign_weights() -> None:
    """Lets mmengine's ``Pretrained``, by its name or by its class, ask our reader first.

    No other initialiser runs after the children's, which would overwrite a classifier's weights.
    A backbone does not know its model's data_preprocessor: that is checked once all is initialised.
    """
    read, initialise = PretrainedInit.__call__, BaseModel.init_weights

    def call(self: PretrainedInit, module: nn.Module) -> None:
        pretrained = import_module("vgg_mm.weights.pretrained")
        if not pretrained.load(module, self.checkpoint, self.prefix):
            read(self, module)
        elif hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def init_weights(self: BaseModel) -> None:
        initialise(self)
        import_module("vgg_mm.weights.pretrained").check_preprocessor(self)

    PretrainedInit.__call__, BaseModel.init_weights = call, init_weights
