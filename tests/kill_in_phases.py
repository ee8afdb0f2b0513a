"""Kills a run in each named phase, resumes it and compares: a process of its own, for it forks.

Prints, as JSON, for each phase the names of what differs from the whole run, and the log.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import mmpretrain.models  # noqa: F401
from mmengine.runner import ValLoop

import vgg_mm.launch  # noqa: F401
from vgg_mm.demo import unpack
from vgg_mm.training import PlateauLR, TrainLoop
from vgg_mm.upstream import FORMATTER

tool = runpy.run_path(str(Path(__file__).parents[1] / "tools/analysis/stress_resume.py"))
FORMATTER.FormatCode = lambda text, **_: (text, True)


def die(phase):
    print(f"killed {phase}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def in_mid_epoch():
    run_iter = TrainLoop.run_iter

    def dying(loop, batch_idx, batch):
        if (loop.epoch, batch_idx) == (2, 4):  # the last checkpoint is of step 18, epoch 2's third
            die("in mid epoch")
        run_iter(loop, batch_idx, batch)

    TrainLoop.run_iter = dying


def while_a_checkpoint_is_written():
    fsync = os.fsync

    def dying(fd):
        size = os.fstat(fd).st_size
        if size > 10_000 and "epoch_3.pth" in os.readlink(f"/proc/self/fd/{fd}"):
            os.ftruncate(fd, size // 2)
            die("while a checkpoint is written")
        fsync(fd)

    os.fsync = dying


def in_validation():
    run_iter = ValLoop.run_iter

    def dying(loop, idx, batch):
        run_iter(loop, idx, batch)
        if loop.runner.epoch == 3:
            die("in validation")

    ValLoop.run_iter = dying


def at_a_drop():
    step = PlateauLR.step

    def dying(scheduler, metrics=None):
        dropped = scheduler.dropped
        step(scheduler, metrics)
        if scheduler.dropped > dropped:
            die("at a drop")

    PlateauLR.step = dying


def config(work_dir):
    """The tool's, with a drop at every validation but the first, whatever the CPU's roundings."""
    cfg = tool["config"](work_dir, data, 0, 1)
    cfg.param_scheduler.threshold = 1000
    return cfg


folder = Path(sys.argv[1])
data = unpack(folder / "data")
whole = folder / "whole"
assert tool["finish"](tool["start"](config(whole)))
found = {"whole": Path(f"{whole}.log").read_text()}
for phase in (in_mid_epoch, while_a_checkpoint_is_written, in_validation, at_a_drop):
    work_dir = folder / phase.__name__
    cfg = config(work_dir)
    killed = not tool["finish"](tool["start"](cfg, prepare=phase))
    finished = tool["finish"](tool["start"](cfg))
    found[phase.__name__] = {
        "killed": killed,
        "log": Path(f"{work_dir}.log").read_text(),
        "differences": tool["differences"](whole, work_dir) if finished else ["all"],
    }
print(json.dumps(found))
