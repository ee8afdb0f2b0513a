"""SIGTERM and SIGUSR1: tools end with their children, trainings save where they are."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DEMO = str(ROOT / "configs/demo.py")
# Epochs of 64 short steps of a narrow net.
SLOW = ["model.backbone.width=4", "model.head.in_channels=32", "model.head.channels=16"]
SLOW += ["train_dataloader.batch_size=8", "train_dataloader.dataset.dataset.indices=512"]
SLOW += ["default_hooks.logger.interval=1", "default_hooks.checkpoint.iters=2"]


class Started:
    """A process in a group of its own, and what it prints."""

    def __init__(self, *command, log, **env):
        env = {**ENV, "PATH": f"{Path(sys.executable).parent}:{ENV['PATH']}", **env}
        self.log = log
        with open(log, "a") as file:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=log.parent, env=env, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip

    def says(self, *texts, seconds=150):
        """Waits until it has said these, one after the other."""
        end = time.monotonic() + seconds
        while not re.search(".*".join(map(re.escape, texts)), self.log.read_text(), re.DOTALL):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def group(self):
        """The ids of the processes that live in the group, and of their children."""
        stats = [stat_of(path) for path in Path("/proc").glob("[0-9]*/stat")]
        pid = self.process.pid  # torchrun's processes have groups of their own
        return [s[0] for s in stats if s and pid in s[2:] and s[1] != "Z"]

    def left(self, seconds=5):
        """What of the group lives on, after a moment in which the killed ones end."""
        end = time.monotonic() + seconds
        while (living := self.group()) and time.monotonic() < end:
            time.sleep(0.05)
        return living

    def kill(self):
        for pid in self.group():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def stat_of(path):
    try:
        pid, _, rest = path.read_text().partition(" ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, group = rest.rpartition(") ")[2].split()[:3]
    return int(pid), state, int(parent), int(group)


@pytest.fixture
def start(tmp_path, few_scenes):
    """Starts commands, and ends what is left of them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(few_scenes)
    all_started = []

    def started(*command, **env):
        all_started.append(Started(*command, log=tmp_path / "log", **env))
        return all_started[-1]

    yield started
    for each in all_started:
        each.kill()


NAPS = """
import time
from vgg_mm.processes import in_processes
from vgg_mm.errors import run

def nap(name):
    print(name, flush=True)
    time.sleep(60)

run(lambda: list(in_processes(nap, ["a", "b"] * 8, 2, "Sleeping")))
"""


@pytest.mark.parametrize("to_all", [False, True])
def test_a_tool_that_is_told_to_end_ends_its_children(start, to_all):
    tool = start(sys.executable, "-c", NAPS)
    tool.says("a", "a")  # each begins with eight of them
    (os.killpg if to_all else os.kill)(tool.process.pid, signal.SIGTERM)
    assert tool.process.wait(20) == 143
    assert not tool.left()
    assert "Traceback" not in tool.log.read_text()


LOOP = """
import multiprocessing, os, signal, time
from vgg_mm.signals import Noted, handled

with handled(Noted(after=0.5)) as none:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    print("ready", flush=True)
    time.sleep(60)
    print("slept", flush=True)
"""


def test_a_second_signal_ends_at_once_what_the_first_did_not(start):
    tool = start(sys.executable, "-c", LOOP)
    tool.says("ready")
    os.kill(tool.process.pid, signal.SIGTERM)
    os.kill(tool.process.pid, signal.SIGTERM)  # the same once more, as from its group
    time.sleep(0.7)
    assert tool.process.poll() is None
    os.kill(tool.process.pid, signal.SIGUSR1)
    assert tool.process.wait(10) == 128 + signal.SIGUSR1
    assert not tool.left() and "slept" not in tool.log.read_text()


def test_a_training_with_workers_saves_and_leaves_nothing_running(start, tmp_path):
    """The signal goes to all its processes, as Slurm's and a container's do."""
    options = [*SLOW, "train_dataloader.num_workers=2", "train_dataloader.persistent_workers=True"]
    tool = [sys.executable, ROOT / "tools/train.py", DEMO, "--resume", "--work-dir", "run"]
    tool = start(*tool, "--cfg-options", *options)
    tool.says("[ 5/64]")
    os.killpg(tool.process.pid, signal.SIGTERM)
    began = time.monotonic()
    assert tool.process.wait(60) == 143
    assert time.monotonic() - began < 10
    assert not tool.left()
    log = tool.log.read_text()
    assert "--resume: nothing is saved in run yet, so the training begins." in log
    assert "SIGTERM: saved after step" in log
    assert not any(word in log for word in ("Traceback", "RuntimeError", "killed by signal")), log
    newest = (tmp_path / "run/last_checkpoint").read_text()
    assert f"saved after step {Path(newest).stem.removeprefix('iter_')} in" in log


def test_a_dry_run_leaves_nothing_that_could_go_on(start, tmp_path):
    tool = [sys.executable, ROOT / "tools/train.py", DEMO, "--dry-run", "--work-dir", "run"]
    many = "optim_wrapper.accumulative_counts=2000"  # batches of a step
    tool = start(*tool, "--cfg-options", *SLOW, many)
    tool.says("[ 5/64]")
    os.kill(tool.process.pid, signal.SIGTERM)
    assert tool.process.wait(60) == 143
    assert not any(word in tool.log.read_text() for word in ("Traceback", "--resume", "saved"))
    assert {*os.listdir(tmp_path)} == {"data", "log"}


LONGER = """
from dataclasses import replace
from tools.reproduce.reproduce import main
from tools.reproduce.scales import SCALES
from vgg_mm.errors import run

SCALES["micro"] = replace(SCALES["micro"], passes=1000)
run(main)
"""


def test_reproduce_ends_with_its_step_which_saves(start, tmp_path):
    options = ["--scale", "micro", "--work-dir", "micro", "--jobs", 1]
    tool = start(sys.executable, "-c", LONGER, *options)
    tool.says("vgg11_a_256;")
    step, end = tmp_path / "micro/trial_0.005/steps/vgg11_a_256.log", time.monotonic() + 150
    while not (step.exists() and "Epoch(train)" in step.read_text()):
        assert time.monotonic() < end and tool.process.poll() is None, tool.log.read_text()
        time.sleep(0.2)
    os.kill(tool.process.pid, signal.SIGTERM)
    assert tool.process.wait(60) == 143
    assert not tool.left()
    assert (tmp_path / "micro/trial_0.005/work_dirs/vgg11_a_256/last_checkpoint").exists()
    assert "SIGTERM: saved after step" in step.read_text()


def test_several_processes_begin_again_go_on_and_stop_together(start, tmp_path):
    command = [ROOT / "tools/dist_train.sh", DEMO, 2, "--work-dir", "run", "--cfg-options", *SLOW]
    job = start(*command, RESTARTS="1")
    job.says("[ 5/32]")  # half as many of twice as much
    (rank,) = (pid for pid in job.group() if b"\0RANK=1\0" in environment(pid))
    os.kill(rank, signal.SIGKILL)
    job.says("Restart 1: the training goes on from", "Epoch(train)")
    ranks = job.group()
    os.kill(job.process.pid, signal.SIGUSR1)
    assert job.process.wait(60) == 128 + signal.SIGUSR1
    assert len(ranks) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    log = job.log.read_text().partition("Restart 1")[2]
    newest = Path((tmp_path / "run/last_checkpoint").read_text())
    assert newest.is_file()
    assert f"SIGTERM: saved after step {newest.stem.removeprefix('iter_')} in" in log


def environment(pid):
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
