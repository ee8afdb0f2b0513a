"""What the tools share: reading a config, starting the processes, running a checkpoint."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from vgg_mm import arguments
from vgg_mm.data.wrappers import with_pipeline
from vgg_mm.errors import UserError
from vgg_mm.inputs import check_input
from vgg_mm.mim import config_file
from vgg_mm.paper import stages
from vgg_mm.registry import DATASETS
from vgg_mm.signals import outlive
from vgg_mm.testing.evaluation import VIEWS
from vgg_mm.testing.scores import Protocol, file_sha256, parts_folder
from vgg_mm.upstream import format_configs_once
from vgg_mm.weights.checkpoint import read_checkpoint

format_configs_once()
# What dies out in a net, momenta above all, ends in numbers so small that CPUs crawl over them.
torch.set_flush_denormal(True)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that training and testing share."""
    args = arguments.parser(description)
    args.add_argument("--work-dir", help="where to write; default work_dirs/CONFIG")
    args.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    args.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config that the arguments of :func:`parser` name, with their overrides.

    Raises:
        UserError: If there is no such config or a top-level key looks misspelt.
    """
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


def start_processes(cfg: Config) -> None:
    """Joins the other processes of a distributed run on a machine without CUDA.

    mmengine's pytorch launcher takes a GPU for granted; it starts the group by itself where there
    is one, and leaves a group alone that it finds started. Processes that torchrun started anew
    meet in a part of its store that is their own, for those that died have left their addresses.
    """
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    cuda = torch.cuda.is_available()
    if cfg.launcher == "none" or (cuda and not restart):
        return
    if cfg.launcher != "pytorch":
        raise UserError(f"--launcher {cfg.launcher} needs CUDA; on CPUs use 'pytorch' (torchrun).")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart_{restart}", store)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def mixed_precision() -> dict:
    """What an ``optim_wrapper`` needs to train in 16 bits.

    bfloat16 where the GPU has it, for its numbers go as far as float32's: those of a real VGG-16
    reach a fifth of what float16 can hold before they are scaled, which it then must be.

    Raises:
        UserError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError("--amp needs CUDA, and this machine has none; leave it out.")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=dict(enabled=False))
    return dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")


def multi_scale(cfg: Config) -> ConfigDict:
    """The transform of the test-time pipeline whose ``scales`` are the config's Q.

    Raises:
        UserError: If the config does not say how to test.
    """
    found = [t for t in cfg.get("tta_pipeline", []) if t.type == "vgg_mm.MultiScale"]
    if len(found) != 1 or "tta_model" not in cfg:
        raise UserError(
            f"{cfg.filename} does not say how to test: it needs a tta_model of vgg_mm.TestTime and "
            "a tta_pipeline with vgg_mm.MultiScale, as configs/_base_ has them."
        )
    return found[0]


def check_protocol(cfg: Config) -> None:
    """Looks before a training whether :func:`test` can test its net.

    Raises:
        UserError: If not.
    """
    multi_scale(cfg)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    with torch.device("meta"):  # weights take no memory there
        MODELS.build(dict(**cfg.tta_model, module=cfg.model))


def test(
    cfg: Config,
    checkpoint: str,
    out: str | Path,
    half: bool = False,
    few: bool = False,
) -> dict[str, float]:
    """Tests a checkpoint by the config's protocol (``tta_model``, ``tta_pipeline``).

    A test that was interrupted goes on with the images that it has not scored.

    Args:
        cfg: The config.
        checkpoint: What the Runner saved.
        out: Where to write the posteriors, see :class:`vgg_mm.testing.Scores`.
        half: Whether to store float16 in place of float32.
        few: Whether to test a batch alone, to see that it works.

    Returns:
        ``error/top1`` and ``error/top5`` in %.

    Raises:
        UserError: If the checkpoint does not load safely, or does not fit the config's net, input
            or classes.
    """
    check_input(read_checkpoint(checkpoint).get("meta"), cfg.model, checkpoint)
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    protocol = _protocol(cfg, checkpoint)
    return _run(cfg, checkpoint, out, protocol, "vgg_mm.SaveScores", half, few)


def extract(
    cfg: Config,
    checkpoint: str,
    data: dict,
    out: str | Path,
    layer: str | None = None,
    stack: bool = False,
    half: bool = False,
) -> dict[str, float]:
    """Describes the images of a data set by a layer's activations (appendix B).

    An extraction that was interrupted goes on with the images that it lacks.

    Args:
        cfg: The config that the net was trained with; the scales are its ``tta_pipeline``'s.
        checkpoint: What the Runner saved; its classifier may be missing.
        data: The data set's config, without a pipeline.
        out: Where to write the descriptors, see :class:`vgg_mm.testing.Features`.
        layer: The layer, see :class:`vgg_mm.testing.FeatureExtractor`; by default fc7, or without
            a classifier the last conv.
        stack: Whether to stack the scales; by default they are averaged.
        half: Whether to store float16 in place of float32.

    Returns:
        ``features/images`` and ``features/dimensions``, their numbers.

    Raises:
        UserError: If the checkpoint does not load safely, or does not fit the config's net, or the
            net lacks the layer.
    """
    saved = read_checkpoint(checkpoint)
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    if not any(name.startswith("head.") for name in saved.get("state_dict", saved)):
        cfg.model.pop("head", None)
    if layer is None:
        layer = "fc7" if cfg.model.get("head") else stages(cfg.model.backbone.arch)[-1][-1].name
    protocol = _protocol(cfg, checkpoint) | dict(layer=layer, stack=stack)
    cfg.tta_model = dict(
        type="vgg_mm.FeatureExtractor",
        layer=layer,
        stack=stack,
        flip=cfg.tta_model.get("flip", True),
    )
    cfg.test_dataloader.dataset = data
    return _run(cfg, checkpoint, out, protocol, "vgg_mm.SaveFeatures", half)


def _run(
    cfg: Config,
    checkpoint: str,
    out: str | Path,
    protocol: dict,
    saver: str,
    half: bool,
    few: bool = False,
) -> dict[str, float]:
    cfg.test_dataloader.dataset = with_pipeline(cfg.test_dataloader.dataset, cfg.tta_pipeline)
    tested = cfg.test_dataloader.dataset
    parts = str(parts_folder(out, protocol, cfg.model.to_dict(), tested.to_dict()))
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.collate_fn = dict(type="pseudo_collate")
    cfg.test_dataloader.sampler = dict(type="vgg_mm.RemainingSampler", parts=parts)
    cfg.test_evaluator = dict(type=saver, file=str(out), protocol=protocol, parts=parts, half=half)
    # Features are of data with classes of its own; a test is of the checkpoint's.
    compared = ("vgg_mm.ClassesHook", "vgg_mm.ClassCountHook")
    hooks = [hook for hook in cfg.get("custom_hooks", []) if hook.get("type") not in compared]
    if saver == "vgg_mm.SaveScores":
        hooks.append(dict(type="vgg_mm.ClassesHook"))
    # The bar tells how far the test is, the log only its end.
    cfg.custom_hooks = [*hooks, dict(type="vgg_mm.ProgressBarHook")]
    logger = dict(type="LoggerHook", interval=sys.maxsize)
    cfg.default_hooks = {**cfg.get("default_hooks", {}), "logger": logger}
    cfg.load_from, cfg.resume = checkpoint, False
    if few:
        images = len(DATASETS.build(tested)) // get_world_size()
        cfg.test_dataloader.batch_size = min(max(1, images), cfg.test_dataloader.batch_size)
        cfg.test_dataloader.num_batch_per_epoch = 1
    runner = Runner.from_cfg(cfg)
    outlive(runner.test_dataloader)
    return runner.test()


def _protocol(cfg: Config, checkpoint: str) -> dict:
    scales = multi_scale(cfg).scales
    pairs = [(view, Q) for view in VIEWS[cfg.tta_model.get("views", "dense")] for Q in scales]
    return asdict(
        Protocol(
            config=Path(cfg.filename).stem,
            arch=cfg.model.backbone.get("arch", cfg.model.backbone.type),
            S=cfg.get("S"),
            views=[view for view, _ in pairs],
            scales=[Q for _, Q in pairs],
            flip=cfg.tta_model.get("flip", True),
            grid=cfg.tta_model.get("grid", 5),
            crop_size=cfg.tta_model.get("crop_size", 224),
            checkpoint=str(checkpoint),
            sha256=file_sha256(checkpoint),
        )
    )
