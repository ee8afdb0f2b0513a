"""The Runner against a bare PyTorch loop, and two processes against one (Sec. 3.1, 3.3)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch.optim import SGD

from tools.benchmarks import environment, interleaved, parser, write
from vgg_mm import get_config
from vgg_mm.data.scenes import Settings, draw_scenes

ROOT = Path(__file__).parents[2]


def main(argv: list[str]) -> None:
    """Prints the figures: ``runner_overhead`` (0.03 is 3%), ``scaling_2_processes``, ..."""
    args = parser("training", __doc__)
    args.add_argument("--batch", type=int, default=8, help="images a step of the full-size net D")
    args = args.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = draw_scenes(folder / "data", Settings(images=(1_024, 64, 0)))
        narrow = overhead(_config("demo", data, folder / "narrow", 32), 20, args.rounds)
        full = overhead(_config("vgg16_d_256", data, folder / "full", args.batch), 1, args.rounds)
        updates = sgd(args.rounds)
        one, two = scaling(data, folder, args.rounds)
    print(
        f"narrow net A, 32 images of 28x28: {narrow['bare']:.3f} s a step, "
        f"{narrow['Runner']:.3f} with the Runner"
    )
    print(
        f"net D, {args.batch} images of 224x224: {full['bare']:.2f} s a step, "
        f"{full['Runner']:.2f} with the Runner"
    )
    print(f"SGD on net D's weights: {', '.join(f'{k} {v:.2f} s' for k, v in updates.items())}")
    print(f"narrow net A, a thread a process: {one:.0f} images/s with 1 process, {two:.0f} with 2")
    figures = {
        "runner_overhead": narrow["Runner"] / narrow["bare"] - 1,
        "runner_overhead_full_size": full["Runner"] / full["bare"] - 1,
        "fused_sgd_vs_loop": updates["loop"] / updates["fused"],
        "scaling_2_processes": two / one,
    }
    write(figures, args.json)


def overhead(cfg: Config, steps: int, rounds: int) -> dict[str, float]:
    """Seconds a step of the Runner's epoch of ``steps``, and of a loop without it.

    Model, data, preprocessing and optimiser are the same.
    """
    dataset = cfg.train_dataloader.dataset.dataset
    dataset.indices = list(range(0, steps * cfg.train_dataloader.batch_size))
    cfg.train_cfg.max_epochs = 1
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint.interval = 1_000_000
    cfg.default_hooks.checkpoint.minutes = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    model, loader, epochs = runner.model, runner.train_dataloader, iter(range(1_000_000))
    optimizer = runner.build_optim_wrapper(cfg.optim_wrapper).optimizer

    def bare() -> None:
        loader.sampler.set_epoch(next(epochs))
        for batch in loader:
            losses = model(**model.data_preprocessor(batch, True), mode="loss")
            losses["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

    seconds = interleaved({"bare": bare, "Runner": runner.train_loop.run_epoch}, rounds)
    return {name: value / steps for name, value in seconds.items()}


def sgd(rounds: int) -> dict[str, float]:
    """Seconds of a step on net D's weights: a loop over the tensors, foreach, and fused."""
    init_default_scope("mmpretrain")
    model = MODELS.build(Config.fromfile(ROOT / "configs/vgg16_d_256.py").model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    paper = {"lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4}
    steps = {name: SGD(model.parameters(), **paper, **way).step for name, way in ways.items()}
    return interleaved(steps, rounds)


def scaling(data: Path, folder: Path, rounds: int) -> tuple[float, float]:
    """Images/s of one process and of two that share the batch of 32, a thread each."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for i in range(rounds):
        for processes in speeds:
            work_dir = folder / f"{processes}_{i}"
            speeds[processes].append(_images_per_second(data, work_dir, processes))
    return median(speeds[1]), median(speeds[2])


def _images_per_second(data: Path, work_dir: Path, processes: int) -> float:
    """The median of an epoch's steps, as ``tools/train.py`` logs it."""
    options = {
        "train_dataloader.batch_size": 32 // processes,
        "train_dataloader.dataset.dataset.data_root": data,
        "val_dataloader.dataset.data_root": data,
        "test_dataloader.dataset.data_root": data,
        "val_dataloader.dataset.indices": 8,
        "train_cfg.max_epochs": 1,
        "default_hooks.logger.interval": 1,
    }
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [ROOT / "tools/train.py", ROOT / "configs/demo.py", "--launcher", "pytorch"]
    command += ["--work-dir", work_dir, "--cfg-options", *(f"{k}={v}" for k, v in options.items())]
    command = [sys.executable, *map(str, command)]
    subprocess.run(command, env=environment(ROOT), check=True, capture_output=True)
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return median(line["images/s"] for line in lines if "images/s" in line)


def _config(name: str, data: Path, work_dir: Path, batch: int) -> Config:
    """A config on a few of the demo's images, with nothing but the training's steps."""
    cfg = get_config(name)
    dataset = cfg.train_dataloader.dataset.dataset
    cfg.train_dataloader.dataset.dataset = dict(
        type="vgg_mm.Folders", data_root=str(data), split="train", pipeline=dataset.pipeline
    )
    cfg.model.head.num_classes = 64
    cfg.train_dataloader.update(batch_size=batch, num_workers=0, persistent_workers=False)
    cfg.work_dir, cfg.log_level = str(work_dir), "ERROR"
    return cfg
