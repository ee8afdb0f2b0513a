"""Choosing the learning rate: on a part of the training images, by validation ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.reproduce.plan import TRIED, Step, trial_plan, work_dir
from tools.reproduce.scales import Scale
from vgg_mm.testing.scores import Scores
from vgg_mm.writing import write_text


def trials(scale: Scale, root: Path) -> tuple[float, list[Step]]:
    """The best rate of those tried, the scale's where there are none, and the trials' steps."""
    found = tried(root)
    rates = sorted({*scale.rates, *found})
    steps = dict.fromkeys(step for lr in rates for step in trial_plan(scale, root, lr))
    best = min(found, key=lambda lr: sum(found[lr].values()), default=scale.lr)
    return best, [*steps]


def tried(root: Path) -> dict[float, dict[str, float]]:
    """Rate -> net -> validation error in %, of the trials that are done."""
    file = root / "trials.json"
    return {float(k): v for k, v in json.loads(file.read_text()).items()} if file.exists() else {}


def chosen_rate(
    scale: Scale, root: Path, run: Callable[[Sequence[Step]], None]
) -> tuple[float, list[Step]]:
    """Runs the trials, while a net's best is at the grid's edge about twice as many at most.

    Returns:
        The rate whose errors of the shallowest and the deepest net have the least sum, and the
        trials' steps.
    """
    rates = [*scale.rates]
    while rates:
        planned = {lr: trial_plan(scale, root, lr) for lr in rates}
        run([*dict.fromkeys(step for some in planned.values() for step in some)])
        found = {lr: {step.name: _error(step) for step in planned[lr][1:]} for lr in rates}
        write_text(root / "trials.json", json.dumps(found, indent=1) + "\n")
        best = {min(rates, key=lambda lr: found[lr][net]) for net in TRIED}  # noqa: B023
        edges = [rates[0] / 2] * (rates[0] in best) + [rates[-1] * 2] * (rates[-1] in best)
        if not edges or len(rates) >= 2 * len(scale.rates):
            break
        rates = sorted([*rates, *edges])
    return trials(scale, root)


def _error(step: Step) -> float:
    """A trial's in %, the worst there is if it diverged."""
    if step.diverged:
        return 100.0
    return Scores.load(work_dir(step.folder, step.name) / "scores.npz").error(1)
