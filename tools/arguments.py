"""What commands have in common: arguments, and the config that they name.

Heavy imports wait for their use, for a ``--help`` at once.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import inspect
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_mm.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a command's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_jobs(args: argparse.ArgumentParser) -> None:
    """Adds ``--jobs``, how many processes work."""
    args.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        default=os.cpu_count(),
        help="processes; default: one for each core, here %(default)s",
    )


def key_value_action() -> type[argparse.Action]:
    """Mmengine's action for KEY=VALUE ..., whose errors are told in a line."""
    from mmengine.config import DictAction  # half a second, which tools without a config spare

    class KeyValues(DictAction):
        def __call__(self, parser, namespace, values, option_string=None) -> None:
            try:
                super().__call__(parser, namespace, values, option_string)
            except (ValueError, AssertionError):
                said = " ".join([option_string, *values])
                raise UserError(f"{said}: each is KEY=VALUE, its brackets closed.") from None

    return KeyValues


def parser(description: str, **config: Any) -> argparse.ArgumentParser:
    """A parser of a config and its overrides, as :func:`load_config` reads them.

    Args:
        description: The command's.
        config: What is special about the argument ``config``, such as ``nargs='?'``.
    """
    args = plain_parser(description)
    usual: dict[str, Any] = dict(help="a config, such as vgg16_d_jitter or my/config.py")
    args.add_argument("config", **{**usual, **config})
    args.add_argument(
        "--cfg-options",
        nargs="+",
        action=key_value_action(),
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


def check_file(path: str, what: str = "checkpoint") -> None:
    """Ends a command at once, before anything heavy is imported, if there is no such file.

    Raises:
        UserError: If ``path`` is no address, and nothing is there.
    """
    if "://" not in path and not Path(path).expanduser().exists():
        raise UserError(f"no {what} {path}.")


def _import_stack() -> None:
    """Imports what a command with a config needs; whoever calls has looked at its arguments.

    All of it stays: that nobody looks for garbage meanwhile saves a fifth of the time, and that
    nobody looks in it later half a second, twice, before a training's first step.
    """
    if "mmpretrain" not in sys.modules:
        gc.disable()
        for name in ("mmengine.runner", "mmpretrain.models"):
            import_module(name)
        gc.freeze()
        gc.enable()


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config that a command's arguments name, and prepares this process for it.

    A command imports what is heavy after this, for an error in its arguments at once.

    Args:
        args: Those of a :func:`parser`, the config's overrides among them, and ``checkpoint``.

    Raises:
        UserError: If there is no such config or checkpoint, or a top-level key looks misspelt.
    """
    from vgg_mm.cli.configs import config_file, get_config, join_preprocessor

    path = config_file(args.config)
    cfg = get_config(path)
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"--cfg-options do not fit {path}: {error.args[0]}.") from None
    join_preprocessor(cfg)
    if checkpoint := getattr(args, "checkpoint", None):
        check_file(checkpoint)

    _import_stack()
    import torch
    from mmengine.runner import Runner

    from tools.processes import prepare_process

    prepare_process()
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
