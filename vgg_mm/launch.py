"""What the tools share: reading a config, starting the processes, testing a checkpoint."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from vgg_mm.errors import UserError


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that training and testing share."""
    args = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("config", help="a config, such as configs/vgg16_d_jitter.py")
    args.add_argument("--work-dir", help="where to write; default work_dirs/CONFIG")
    args.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override the config, such as train_cfg.max_epochs=10",
    )
    args.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    args.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config that the arguments of :func:`parser` name, with their overrides.

    Raises:
        UserError: If there is no such file or a top-level key looks misspelt.
    """
    path = Path(args.config)
    if not path.is_file():
        near = sorted(map(str, path.parent.glob("*.py"))) or ["none there"]
        raise UserError(f"no config {path}. In {path.parent}: {', '.join(near)}")
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    known = [*inspect.signature(Runner).parameters, "tta_model", "tta_pipeline"]
    for key in cfg:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
        if key not in known and close:
            raise UserError(f"{path}: unknown key '{key}'. Did you mean '{close[0]}'?")
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{path.stem}"
    cfg.launcher = args.launcher
    return cfg


def start_processes(cfg: Config) -> None:
    """Joins the other processes of a distributed run on a machine without CUDA.

    mmengine's pytorch launcher takes a GPU for granted; it starts the group by itself where there
    is one, and leaves a group alone that it finds started.
    """
    if cfg.launcher == "none" or torch.cuda.is_available():
        return
    if cfg.launcher != "pytorch":
        raise UserError(f"--launcher {cfg.launcher} needs CUDA; on CPUs use 'pytorch' (torchrun).")
    torch.distributed.init_process_group("gloo")
    # DDP refuses device ids on a CPU, and mmengine passes them unless the wrapper is configured.
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )


def test(cfg: Config, checkpoint: str, scores: str | Path) -> dict:
    """Tests a checkpoint by the config's protocol (``tta_model``, ``tta_pipeline``).

    Args:
        cfg: The config.
        checkpoint: What :class:`Runner` saved.
        scores: Where to write the posteriors, see :class:`vgg_mm.SaveScores`.

    Returns:
        The metrics, such as ``accuracy/top1`` in %.

    Raises:
        UserError: If there is no such file, or it does not fit the config's net.
    """
    if not os.path.isfile(checkpoint):
        raise UserError(f"no checkpoint {checkpoint}.")
    cfg = Config(cfg.to_dict())
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.test_dataloader.collate_fn = dict(type="pseudo_collate")
    cfg.test_evaluator = [cfg.test_evaluator, dict(type="vgg_mm.SaveScores", file=str(scores))]
    cfg.load_from, cfg.resume = checkpoint, False
    return Runner.from_cfg(cfg).test()
