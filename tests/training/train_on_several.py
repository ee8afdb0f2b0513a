"""Trains with one process and with two that share the batch; prints both runs' losses as JSON.

In float64: in float32 a rounding soon turns a ReLU or a pool, and where two runs part by more than
roundings depends on the CPU.
"""

import json
import runpy
import sys
from pathlib import Path

import mmpretrain.models  # noqa: F401
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.runner import Runner

from vgg_mm.cli.processes import prepare_process
from vgg_mm.training import TrainLoop
from vgg_mm.upstream import FORMATTER

tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/analysis/stress_resume.py"))
prepare_process()
FORMATTER.FormatCode = lambda text, **_: (text, True)
folder, pictures = map(Path, sys.argv[1:])


def config(work_dir, processes, compress=None):
    """20 steps of a batch of 8; two processes share it."""
    cfg = tool["config"](work_dir, pictures, 0, processes)
    for holder in (cfg.train_dataloader.dataset, cfg.val_dataloader, cfg.test_dataloader):
        holder.dataset.update(type="vgg_mm.Folders", data_root=str(pictures), indices=None)
    cfg.merge_from_dict(
        {
            "model.head.num_classes": 2,
            "model.head.dropout": 0.0,
            "optim_wrapper.optimizer.lr": 1e-2,
            "train_cfg.max_epochs": 20,
            "default_hooks.checkpoint.iters": None,
            "default_hooks.checkpoint.interval": 100,
            "model_wrapper_cfg.compress": compress,
        }
    )
    cfg.param_scheduler = None
    return cfg


def record(file):
    """Makes the net float64, and the loop write down the whole batch's loss at every step."""

    def prepare():
        wrap, call_hook = Runner.wrap_model, TrainLoop.run_iter
        Runner.wrap_model = lambda self, cfg, model: wrap(self, cfg, model.double())

        def recording(loop, batch_idx, batch):
            losses = []
            step = loop.runner.model.train_step

            def train_step(*args, **kwargs):
                out = step(*args, **kwargs)
                losses.append(out["loss"].detach().clone())
                return out

            loop.runner.model.train_step = train_step
            call_hook(loop, batch_idx, batch)
            del loop.runner.model.train_step
            all_reduce(losses[0], "mean")
            if get_rank() == 0:
                with open(file, "a") as lines:
                    lines.write(f"{losses[0].item()!r}\n")

        TrainLoop.run_iter = recording

    return prepare


torch.set_num_threads(1)
found = {}
for name, processes, compress in (("one", 1, None), ("two", 2, None), ("bf16", 2, "bf16")):
    cfg = config(folder / name, processes, compress)
    losses = folder / f"{name}.txt"
    assert tool["finish"](tool["start"](cfg, processes, record(losses))), name
    found[name] = [float(line) for line in losses.read_text().splitlines()]
print(json.dumps(found))
