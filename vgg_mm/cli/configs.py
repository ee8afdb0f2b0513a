"""The package's configs by name, and a config as a command runs it.

A wheel carries configs and commands where MIM looks for them, in ``.mim``; in the source repository
that folder links to them.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_mm.errors import UserError, suggest

if TYPE_CHECKING:
    from mmengine.config import Config

CARRIED = Path(__file__).parents[1] / ".mim"


def config_file(name: str | os.PathLike) -> Path:
    """The config at the path ``name``, or else the package's own one of that name.

    Raises:
        UserError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    configs = CARRIED / "configs"
    ours = configs / f"{name}.py"
    if ours.is_file():
        return ours
    found = (file.relative_to(configs) for file in sorted(configs.rglob("[!_]*.py")))
    names = [str(file.with_suffix("")) for file in found if file.parts[0] != "_base_"]
    raise UserError(
        f"no config {name}: give a file, or the name of one of the package's: {', '.join(names)}."
        f"{suggest(path.stem, names)}"
    )


def get_config(name: str | os.PathLike) -> Config:
    """A config of the package by its name, such as ``'vgg16_d_jitter'``, or by its path.

    Raises:
        UserError: If there is no such config.
    """
    from mmengine.config import Config

    return Config.fromfile(config_file(name))


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config that a command's arguments name, and prepares this process for it.

    Args:
        args: Those of a parser of :mod:`vgg_mm.cli.arguments`, the config's overrides among them.

    Raises:
        UserError: If there is no such config or a top-level key looks misspelt.
    """
    import torch
    from mmengine.config import Config
    from mmengine.runner import Runner

    from vgg_mm.cli.processes import prepare_process

    prepare_process()
    path = config_file(args.config)
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    known = [*inspect.signature(Runner).parameters, "tta_model", "tta_pipeline"]
    for key in cfg:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
        if key not in known and close:
            raise UserError(f"{path}: unknown key '{key}'. Did you mean '{close[0]}'?")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if torch.cuda.is_available() and cfg.get(name):
            cfg[name].setdefault("pin_memory", True)  # what a copy to the GPU beside its work wants
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{path.stem}"
    cfg.launcher = args.launcher
    return cfg
