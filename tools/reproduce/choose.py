"""Choosing a recipe: on images that are in no fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tools.reproduce.images import drawn_to_choose_on, folders
from tools.reproduce.plan import MODELS, Run, make_plan
from tools.reproduce.rates import Rates, share_of_cores, trial_rates
from tools.reproduce.scales import Scale
from tools.reproduce.steps import alone, check_settings, run_plan, start
from vgg_mm.testing.scores import Scores
from vgg_mm.writing import write_text

# The shallowest net and the deepest.
NETS = [model for model in MODELS if model.training in (("A", 256), ("E", 256))]


def choose(scale: Scale, rates: Sequence[float], root: Path, jobs: int = 1) -> None:
    """Trains nets A and E at several learning rates, and tests them, on scenes of their own.

    Prints the errors, and keeps them in ``choose.json`` for the report.

    Args:
        scale: The sizes and the rest of the recipe.
        rates: The learning rates.
        root: The reproduction's folder; below it the scenes are drawn.
        jobs: How many steps run at once.

    Raises:
        UserError: If a step fails, or a rate was tried with another recipe.
    """
    data = folders(drawn_to_choose_on(root / "data"))
    steps, runs, names = [], {}, [net.name for net in NETS]
    for lr in rates:
        # Everything that is compared is in the folder's name.
        name = f"width{scale.width}_batch{scale.batch}_epochs{scale.epochs}_lr{lr:g}"
        runs[lr] = Run(data, root / "choose" / name)
        plan = make_plan(replace(scale, lr=lr), [runs[lr]])
        steps += [step for step in plan if step.name in names]
    with alone(root / "choose") as lock:
        for lr, run in runs.items():
            check_settings(run.folder, asdict(replace(scale, lr=lr, chosen="")))
        threads = share_of_cores(jobs)
        rates_now = Rates(trial_rates(scale, steps[0].run, threads=threads), steps)
        run_plan(steps, rates_now, partial(start, lock=lock, threads=threads), jobs)

    file = root / "choose.json"
    tried = json.loads(file.read_text()) if file.exists() else {}
    for run in runs.values():
        tried[run.folder.name] = {
            net.name: round(Scores.load(run.scores(net)).error(1), 1) for net in NETS
        }
        print(f"{run.folder.name}: top-1 error {tried[run.folder.name]}")
    write_text(file, json.dumps(tried, indent=1) + "\n")
