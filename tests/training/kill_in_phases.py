"""Kills a run in each named phase, resumes it and compares: a process of its own, for it forks.

Prints, as JSON, for each phase the names of what differs from the whole run, and the log.
"""

import json
import math
import os
import runpy
import signal
import sys
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401  # once: every run is a fork
from mmengine.runner import ValLoop
from mmpretrain.models import ImageClassifier

from tools.processes import prepare_process
from vgg_mm.training import CheckpointHook, CorruptImagesHook, PlateauLR, TrainLoop
from vgg_mm.upstream import FORMATTER

tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/analysis/stress_resume.py"))
prepare_process()
FORMATTER.FormatCode = lambda text, **_: (text, True)


def die(phase, number=signal.SIGKILL):
    print(f"killed {phase}", flush=True)
    os.kill(os.getpid(), number)


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


def told_in_mid_epoch(number=signal.SIGTERM):
    step = TrainLoop.run_iter

    def telling(loop, batch_idx, batch):
        if (loop.epoch, batch_idx) == (2, 3):
            die("told in mid epoch", number)
        step(loop, batch_idx, batch)

    TrainLoop.run_iter = telling


def told_at_an_epochs_last_step():
    hook = CorruptImagesHook.after_train_epoch

    def telling(self, runner):
        if runner.epoch == 3:
            die("told at an epochs last step", signal.SIGUSR1)
        hook(self, runner)

    CorruptImagesHook.after_train_epoch = telling


def told_in_validation():
    run_iter = ValLoop.run_iter

    def telling(loop, idx, batch):
        if loop.runner.epoch == 3:
            die("told in validation", signal.SIGTERM)
        run_iter(loop, idx, batch)

    ValLoop.run_iter = telling


def told_after_the_last_epoch():
    save = CheckpointHook.after_train

    def telling(self, runner):
        die("told after the last epoch", signal.SIGTERM)
        save(self, runner)

    CheckpointHook.after_train = telling


def told_in_one_process():
    if os.environ["RANK"] == "1":
        told_in_mid_epoch()


def no_number_in_one_process():
    parse = ImageClassifier.parse_losses

    def spoilt(self, losses):
        loss, logged = parse(self, losses)
        return loss, {"loss": loss * math.nan} if os.environ["RANK"] == "1" else logged

    ImageClassifier.parse_losses = spoilt


folder = Path(sys.argv[1])
data = tool["images"](folder / "data")
PHASES = [in_mid_epoch, while_a_checkpoint_is_written, in_validation, at_a_drop, told_in_mid_epoch]
PHASES += [told_at_an_epochs_last_step, told_in_validation, told_after_the_last_epoch]
KINDS = {  # processes, steps whose gradients are summed, phases
    "": (1, 1, PHASES),
    "_accumulating": (1, 3, [in_mid_epoch, told_in_mid_epoch, told_in_validation]),
    "_of_two": (2, 1, [told_in_one_process]),
}


def config(name, processes, accumulated):
    """The tool's, with a drop at every validation but the first, whatever the CPU's roundings."""
    cfg = tool["config"](folder / name, data, 0, processes)
    cfg.param_scheduler.threshold = 1000
    cfg.optim_wrapper.accumulative_counts = accumulated
    return cfg


def finish(cfg, processes, prepare=lambda: None):
    return tool["finish"](tool["start"](cfg, processes, prepare))


found = {}
for kind, (processes, accumulated, phases) in KINDS.items():
    whole = config(f"whole{kind}", processes, accumulated)
    assert finish(whole, processes)
    found[f"whole{kind}"] = Path(f"{whole.work_dir}.log").read_text()
    for phase in phases:
        cfg = config(phase.__name__ + kind, processes, accumulated)
        killed = not finish(cfg, processes, phase)
        finished = finish(cfg, processes)
        found[phase.__name__ + kind] = {
            "killed": killed,
            "log": Path(f"{cfg.work_dir}.log").read_text(),
            "differences": tool["differences"](Path(whole.work_dir), Path(cfg.work_dir))
            if finished
            else ["all"],
        }
cfg = config("no_number", 2, 1)
assert not finish(cfg, 2, no_number_in_one_process)
found["no_number"] = Path(f"{cfg.work_dir}.log").read_text()
print(json.dumps(found))
