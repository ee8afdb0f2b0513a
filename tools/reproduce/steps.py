"""Runs a plan, several steps at once: restartable at any point, with the time left."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from tools.reproduce.plan import Step
from vgg_mm.errors import DIVERGED, UserError
from vgg_mm.writing import write_text

Start = Callable[[Step], subprocess.Popen]
BEGIN = 8.0  # seconds from a tool's call to its first step, or thereabouts
TRUST = 60.0  # seconds of steps that count as much as the speed that the scale names


def check_settings(root: Path, settings: dict) -> None:
    """Compares with what a folder's steps were run with, and keeps it where it is new.

    Args:
        root: The folder; the settings are in its ``settings.json``.
        settings: Key -> value.

    Raises:
        UserError: If the folder holds steps of other settings.
    """
    file = root / "settings.json"
    settings = json.loads(json.dumps(settings))
    if not file.exists():
        write_text(file, json.dumps(settings, indent=1) + "\n")
        return
    saved = json.loads(file.read_text())
    different = sorted(key for key in {*saved, *settings} if saved.get(key) != settings.get(key))
    if different:
        raise UserError(
            f"{root} holds a reproduction with other settings ({', '.join(different)}: see {file})."
            " Choose another --work-dir, or remove it."
        )


@contextmanager
def alone(root: Path) -> Iterator[IO]:
    """Waits until no other process works in a folder; steps inherit the lock.

    When this process is killed, a step that it started may live on; its lock keeps the next one
    from starting the same step beside it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for what is still at work in {root} ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def start(step: Step, lock: IO | None = None, threads: int | None = None) -> subprocess.Popen:
    """Starts a step's command; what it prints goes to the step's log.

    Args:
        step: The step.
        lock: Kept by the command too, see :func:`alone`.
        threads: How many of the CPU's cores the command may use; default: all.
    """
    bin = str(Path(sys.executable).parent)  # the shell scripts call 'python'
    env = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ.get('PATH', '')}"}
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    command = [*step.command]
    if command[0] == "python":
        command[0] = sys.executable
    keep = (lock.fileno(),) if lock else ()
    with open(step.log, "a") as log:
        log.write(f"$ {step}\n")
        log.flush()
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, pass_fds=keep)


def run_plan(steps: Sequence[Step], speed: float, start: Start = start, jobs: int = 1) -> None:
    """Runs the steps that are not done, each as soon as what it needs is there.

    A training that was interrupted goes on from its last checkpoint, a test with the images that
    it has not scored. A step is done when its marker is there, which is written last. A trial that
    diverges is done, and so are those that would start from it.

    Args:
        steps: The plan.
        speed: Multiply-adds a second, until steps have shown it.
        start: Starts a step's command.
        jobs: How many steps run at once.

    Raises:
        UserError: If a step fails; its log is named, and the end of it shown. Others that run are
            ended: they go on another time.
    """
    waiting = [step for step in steps if not step.done]
    running: dict[Step, tuple[subprocess.Popen, float, bool]] = {}
    began = time.monotonic()
    try:
        while waiting or running:
            ready = [step for step in waiting if all(need.done for need in step.needs)]
            for step in [step for step in ready if any(need.diverged for need in step.needs)]:
                _finish(step, 0, whole=False, diverged=True)
                waiting.remove(step)
                ready.remove(step)
            for step in ready[: jobs - len(running)]:
                print(
                    f"[{steps.index(step) + 1}/{len(steps)}] {step.folder.name} {step.name}; "
                    f"{_time(time.monotonic() - began)} passed, about "
                    f"{_time(time_left(steps, speed, jobs))} left",
                    file=sys.stderr,
                    flush=True,
                )
                waiting.remove(step)
                whole = not step.log.exists()
                step.log.parent.mkdir(parents=True, exist_ok=True)
                if step.config:
                    step.config_file.parent.mkdir(exist_ok=True)
                    write_text(step.config_file, step.config)
                running[step] = start(step), time.monotonic(), whole
            for step, (process, since, whole) in [*running.items()]:
                if (status := process.poll()) is not None:
                    del running[step]
                    diverged = step.trial and status == DIVERGED
                    if not diverged:
                        _check(step, status)
                    _finish(step, time.monotonic() - since, whole and not diverged, diverged)
            time.sleep(0.1 if running else 0)
    finally:
        for process, *_ in running.values():
            process.terminate()
            process.wait()


def _finish(step: Step, seconds: float, whole: bool, diverged: bool) -> None:
    step.marker.parent.mkdir(parents=True, exist_ok=True)
    done = {"seconds": round(seconds, 1), "whole": whole, "diverged": diverged}
    write_text(step.marker, json.dumps(done))


def _check(step: Step, status: int) -> None:
    if status:
        end = "\n".join(step.log.read_text(errors="replace").splitlines()[-8:])
        raise UserError(
            f"a step failed with status {status}: {step}\nThe end of its log, {step.log}:\n"
            f"{end}\nMend it and type the same again: it goes on from there."
        )


def _speed(steps: Sequence[Step], speed: float) -> float:
    """Multiply-adds a second of the steps that ran in one go, at first as the scale says."""
    done = [(step, result) for step in steps if (result := step.result()) and result["whole"]]
    work = sum(step.work for step, _ in done)
    seconds = sum(max(result["seconds"] - BEGIN, 0.0) for _, result in done)
    return (work + speed * TRUST) / (seconds + TRUST)


def time_left(steps: Sequence[Step], speed: float, jobs: int = 1) -> float:
    """Seconds until all steps are done: no less than the longest chain of steps takes.

    What a training that runs, or was killed, has behind it is not counted.
    """
    speed = _speed(steps, speed)
    chains: dict[Step, float] = {}
    total = 0.0
    for step in steps:
        left = 0 if step.done else BEGIN + step.work / speed
        total += left
        chains[step] = max((chains.get(need, 0) for need in step.needs), default=0) + left
    return max([total / jobs, *chains.values()])


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def plan_text(steps: Sequence[Step], speed: float, jobs: int = 1) -> str:
    """The plan as a shell script, with the time that each step takes, and all, ``jobs`` at once."""
    rate, lines = _speed(steps, speed), []
    for number, step in enumerate(steps, 1):
        done = step.result()
        when = f"about {_time(BEGIN + step.work / rate)}"
        if done:  # the time of a step that was killed is not known
            when = f"done in {_time(done['seconds'])}" if done["whole"] else "done"
        lines.append(f"# [{number}/{len(steps)}] {when}\n{step}")
    return "\n".join([*lines, f"# time left: about {_time(time_left(steps, speed, jobs))}"])
