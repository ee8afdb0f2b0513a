"""The whole plan, one step each: does everything fit together?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.reproduce.images import folders
from tools.reproduce.plan import Run, make_plan
from tools.reproduce.rates import Rates
from tools.reproduce.report import write_report
from tools.reproduce.scales import SMALL, Scale
from tools.reproduce.steps import Start, run_plan, start
from vgg_mm.data.scenes import Settings, draw_scenes

FEW = Settings(images=(16, 8, 0), classes=8)
_WORKERS = {key: value for key, value in SMALL.items() if "workers" in key}


def dry_run(scale: Scale, images: str | Path | None, scratch: Path, start: Start = start) -> None:
    """Trains every model for a step of two images, and tests it on one; writes a report of that.

    All nets are narrow, whatever the scale; then net D, and net A that it starts from, come at
    their full size. Any tree of folders will do, ImageNet's or a few images in the same layout.

    Args:
        scale: The sizes.
        images: The tree; default: a few scenes.
        scratch: An empty folder to work in.
        start: As in :func:`tools.reproduce.steps.run_plan`.
    """
    data = folders(images or draw_scenes(scratch / "data", FEW), measure=False)
    few = {"train_dataloader.dataset.dataset.indices": 2} | {
        f"{loader}.dataset.indices": 1 for loader in ("val_dataloader", "test_dataloader")
    }
    full = replace(scale, batch=2, epochs=1, options={**scale.options, **_WORKERS, **few})
    narrow = replace(full, width=4, channels=32, options={**full.options, "init_from_a_std": None})
    one_step = replace(data, train=2, val=1)
    steps = [
        *make_plan(narrow, [Run(one_step, scratch / "narrow")]),
        *make_plan(full, [Run(one_step, scratch / "full")], archs=("A", "D")),
    ]
    run_plan(steps, Rates({"train": 1e10, "test": 1e10}), start)
    write_report(narrow, [steps[0].run], steps, scratch)
    print(f"All {len(steps)} steps and the report ran without error.")
