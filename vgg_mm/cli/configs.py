"""The package's configs by name.

A wheel carries configs and commands where MIM looks for them, in ``.mim``; in the source repository
that folder links to them.
"""

from __future__ import annotations

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


def join_preprocessor(cfg: Config) -> None:
    """Puts a config's ``data_preprocessor`` where the Runner puts it: into its ``model``."""
    if "model" in cfg and (found := cfg.pop("data_preprocessor", None)):
        cfg.model.setdefault("data_preprocessor", found)


def get_config(name: str | os.PathLike) -> Config:
    """A config of the package by its name, such as ``'vgg16_d_jitter'``, or by its path.

    Raises:
        UserError: If there is no such config, or it cannot be read.
    """
    from mmengine.config import Config

    path = config_file(name)
    try:
        return Config.fromfile(path)
    except Exception as error:  # whatever a config runs into, or one that it builds on
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: {type(error).__name__}: {line}") from error
