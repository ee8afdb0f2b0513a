"""The arguments that commands have in common; without torch, for a ``--help`` at once."""

from __future__ import annotations

import argparse
from typing import Any


def parser(description: str, **config: Any) -> argparse.ArgumentParser:
    """A parser of a config and its overrides, as :func:`vgg_mm.cli.configs.load_config` reads them.

    Args:
        description: The command's.
        config: What is special about the argument ``config``, such as ``nargs='?'``.
    """
    from mmengine.config import DictAction  # half a second, which tools without a config spare

    args = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual: dict[str, Any] = dict(help="a config, such as vgg16_d_jitter or my/config.py")
    args.add_argument("config", **{**usual, **config})
    args.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override the config, such as model.head.num_classes=10",
    )
    args.set_defaults(work_dir=None, launcher="none")
    return args


def run_parser(description: str) -> argparse.ArgumentParser:
    """A :func:`parser` of a command that runs in several processes and has a work dir."""
    args = parser(description)
    args.add_argument("--work-dir", help="where to write; default work_dirs/CONFIG")
    args.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    args.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return args


def count(text: str) -> int:
    """Reads a number, 1 or more."""
    if (number := int(text)) < 1:
        raise ValueError
    return number
