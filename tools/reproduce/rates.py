"""How long the steps of a plan take: of those that ran, else of a short trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from tools.reproduce.plan import Run, Step, multiply_adds, step_config
from tools.reproduce.scales import Scale

START = 8.0  # seconds from a tool's call to its first step, or thereabouts
TRUST = 30.0  # seconds of real steps that count as much as the trial


class Rates:
    """Multiply-adds a second of trainings and tests: of what was run, else of a short trial.

    Args:
        trial: Kind of step -> the trial's rate.
        steps: The plan; its steps that ran in one go are counted.
    """

    def __init__(self, trial: dict[str, float], steps: Sequence[Step] = ()) -> None:
        self.trial = trial
        self.seen = {kind: [0.0, 0.0] for kind in trial}
        for step in steps:
            if done := step.result():
                self.add(step, done)

    def add(self, step: Step, done: dict) -> None:
        """Counts a finished step."""
        if done["whole"]:
            self.seen[step.kind][0] += step.work
            self.seen[step.kind][1] += max(done["seconds"] - START, 1e-3)

    def seconds(self, step: Step) -> float:
        """How long a whole step takes."""
        work, seconds = self.seen[step.kind]
        rate = (work + self.trial[step.kind] * TRUST) / (seconds + TRUST)
        return START + step.work / rate

    def left(self, step: Step) -> float:
        """How long a step will still take: less for a training with a checkpoint."""
        return START + (self.seconds(step) - START) * (1 - step.share_trained())


def time_left(steps: Sequence[Step], rates: Rates, jobs: int = 1) -> float:
    """Seconds until all steps are done: no less than the longest chain of steps takes."""
    chains: dict[str, float] = {}
    total = 0.0
    for step in steps:
        left = 0 if step.marker.exists() else rates.left(step)
        total += left
        needed = chains.get(str(step.needs.marker), 0) if step.needs else 0
        chains[str(step.marker)] = needed + left
    return max([total / jobs, *chains.values()])


def share_of_cores(jobs: int) -> int | None:
    """How many threads each of so many steps may have; None for one alone: as it likes."""
    return max(1, torch.get_num_threads() // jobs) if jobs > 1 else None


def trial_rates(
    scale: Scale,
    run: Run,
    processes: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
) -> dict[str, float]:
    """Trains and runs net A on random images for a short while; multiply-adds a second of both.

    One GPU is tried; so many ``processes`` are so many times as fast, on a CPU they share its
    cores, of which ``threads`` are tried. Where a step of the whole batch would take long, as
    without a GPU at full size, a part of the batch stands for it.
    """
    all_threads = torch.get_num_threads()
    torch.set_num_threads(threads or all_threads)
    init_default_scope("mmpretrain")
    cfg, device = step_config(scale, run, ("A", 256)), torch.device(get_device())
    model = MODELS.build(cfg.model).to(device)
    work = multiply_adds(scale, "A", scale.crop, run.data.classes)
    # 1e10 multiply-adds take a second or so on two cores.
    on_cpu = device.type == "cpu"
    batch = max(1, min(scale.batch, int(1e10 / work)) if on_cpu else scale.batch // processes)
    images = torch.randn(batch, 3, scale.crop, scale.crop, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def train() -> None:
        model.train()
        scores = model(images)
        torch.nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def test() -> None:
        model.eval()
        model(images)

    def rate(step: Callable[[], None], multiply_adds: float) -> float:
        step()
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not count:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 1
        return count * multiply_adds / elapsed

    work *= 1 if on_cpu else processes
    rates = {"train": rate(train, 3 * batch * work), "test": rate(test, batch * work)}
    torch.set_num_threads(all_threads)
    return rates
