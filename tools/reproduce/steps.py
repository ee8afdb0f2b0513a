"""Runs a plan, several steps at once: restartable at any point, with the time left."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress

from tools.reproduce.plan import Step
from tools.reproduce.rates import Rates, time_left
from vgg_mm.errors import UserError
from vgg_mm.writing import write_text

Start = Callable[[Step, list[str]], subprocess.Popen]


def check_settings(root: Path, settings: dict, keep: bool = True) -> None:
    """Compares with what a folder's steps were run with, and keeps it where it is new.

    Args:
        root: The folder; the settings are in its ``settings.json``.
        settings: Key -> value; None is as good as missing.
        keep: Whether to write them.

    Raises:
        UserError: If the folder holds steps of other settings.
    """
    file = root / "settings.json"
    settings = json.loads(json.dumps(settings))
    if not file.exists():
        if keep:
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


def start(
    step: Step, command: list[str], lock: IO | None = None, threads: int | None = None
) -> subprocess.Popen:
    """Starts a step's command; what it prints goes to the step's log.

    Args:
        step: The step.
        command: Its command, or the one that resumes it.
        lock: Kept by the command too, see :func:`alone`.
        threads: How many of the CPU's cores the command may use; default: all.
    """
    bin = str(Path(sys.executable).parent)  # the shell scripts call 'python'
    env = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ.get('PATH', '')}"}
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    keep = (lock.fileno(),) if lock else ()
    with open(step.log, "a") as log:
        log.write(f"$ {step}\n")
        log.flush()
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, pass_fds=keep)


def run_plan(steps: Sequence[Step], rates: Rates, start: Start = start, jobs: int = 1) -> None:
    """Runs the steps that are not done, each as soon as what it needs is there.

    A training that was interrupted goes on from its last checkpoint, a test with the images that
    it has not scored. A step is done when its marker is there, which is written last.

    Args:
        steps: The plan.
        rates: For the time left.
        start: Starts a step's command.
        jobs: How many steps run at once.

    Raises:
        UserError: If a step fails; its log is named, and the end of it shown. Others that run are
            ended: they go on another time.
    """
    console = Console(stderr=True, highlight=False)
    waiting = [step for step in steps if not step.marker.exists()]
    running: list[_Running] = []
    began = time.monotonic()
    bars = Progress("{task.description}", BarColumn(), console=console, transient=True)
    try:
        with bars if console.is_terminal else nullcontext():
            while waiting or running:
                ready = [step for step in waiting if not step.needs or step.needs.marker.exists()]
                for step in ready[: jobs - len(running)]:
                    left = time_left(steps, rates, jobs)
                    console.print(
                        f"[{steps.index(step) + 1}/{len(steps)}] {step.kind} {step.name} "
                        f"({step.run.name}); {_time(time.monotonic() - began)} passed, "
                        f"about {_time(left)} left",
                        markup=False,
                    )
                    waiting.remove(step)
                    running.append(_Running(step, rates.left(step), start, bars))
                for each in [each for each in running if each.ended()]:
                    running.remove(each)
                    rates.add(each.step, each.finish())
                time.sleep(0.05 if running else 0)
    finally:
        for each in running:
            each.process.terminate()
            each.process.wait()


class _Running:
    """A step at work, and its bar."""

    def __init__(self, step: Step, seconds: float, start: Start, bars: Progress) -> None:
        step.log.parent.mkdir(parents=True, exist_ok=True)
        resume = bool(step.work_dir and (step.work_dir / "last_checkpoint").exists())
        self.step, self.seconds, self.bars = step, seconds, bars
        self.whole = not step.log.exists()
        self.began = time.monotonic()
        self.bar = bars.add_task(f"{step.kind} {step.name}", total=seconds)
        self.process = start(step, step.command(resume))

    def ended(self) -> bool:
        self.bars.update(self.bar, completed=min(time.monotonic() - self.began, self.seconds))
        return self.process.poll() is not None

    def finish(self) -> dict:
        """Writes the step's marker."""
        self.bars.remove_task(self.bar)
        step, status = self.step, self.process.poll()
        if status:
            end = "\n".join(step.log.read_text(errors="replace").splitlines()[-8:])
            raise UserError(
                f"a step failed with status {status}: {step}\nThe end of its log, {step.log}:\n"
                f"{end}\nMend it and type the same again: it goes on from there."
            )
        marker = {"seconds": round(time.monotonic() - self.began, 1), "whole": self.whole}
        write_text(step.marker, json.dumps(marker))
        return marker


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def plan_text(steps: Sequence[Step], rates: Rates, jobs: int = 1) -> str:
    """The plan as a shell script: the time that each step will take, and all, ``jobs`` at once.

    Settings that all steps of a run share stand before them, once.
    """
    lines, run, shared = [], None, set()
    for number, step in enumerate(steps, 1):
        if step.run != run:
            run = step.run
            commands = [other.command() for other in steps if other.run == run]
            shared = {word for word in commands[0] if all(word in other for other in commands)}
            shared = {word for word in shared if "=" in word}
            if shared:
                words = shlex.join(word for word in commands[0] if word in shared)
                lines.append(f"# {run.name}\nSHARED=({words})")
        done = step.result()
        when = f"about {_time(rates.seconds(step))}"
        if done:  # the time of a step that was killed is not known
            when = f"done in {_time(done['seconds'])}" if done["whole"] else "done"
        command = shlex.join(word for word in step.command() if word not in shared)
        command += ' "${SHARED[@]}"' if shared else ""
        lines.append(f"# [{number}/{len(steps)}] {run.name}, {when}\n{command}")
    return "\n".join([*lines, f"# time left: about {_time(time_left(steps, rates, jobs))}"])
