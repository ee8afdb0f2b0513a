"""The drawing at the end of a training: what the net learned, and how."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tools.analysis.drawing import draw_box, legible, show
from tools.analysis.paper_tables import evaluation_name
from tools.analysis.stored_boxes import holds_guesses
from vgg_mm.testing.localisation import Guesses
from vgg_mm.testing.scores import Scores
from vgg_mm.writing import replacing

matplotlib.use("Agg")
RIGHT, WRONG = "#1a7f37", "#c62828"


def draw_report(tested: str | Path, work_dir: str | Path, out: str | Path) -> None:
    """Draws sample validation images with true and predicted class, and the training curves.

    Of guesses it draws the best one's box.

    Args:
        tested: The file of scores or guesses that the test wrote.
        work_dir: The training's folder, whose logs, of all resumptions, hold the curves.
        out: The PNG to write.
    """
    boxes = holds_guesses(Path(tested))
    saved = (Guesses if boxes else Scores).load(tested)
    labels = saved.labels
    families, classes = legible(saved.classes)
    classes = [name if len(name) <= 15 else f"{name[:12]}..." for name in classes]
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(
        f"{Path(work_dir).name}: {100 - saved.metrics()['top1']:.1f}% of {len(labels)} validation "
        f"images right ({_method(saved)})",
        fontsize=15,
        parse_math=False,
        family=legible([Path(work_dir).name])[0],
    )
    images, plots = figure.subfigures(2, height_ratios=(3, 2))
    shown = np.random.default_rng(0).permutation(len(labels))[:24]
    shown = shown[np.argsort(labels[shown], kind="stable")]
    cells = images.subplots(3, 8).flat
    for i, axes in zip(shown, cells, strict=False):  # the cells that are left stay
        show(axes, os.path.join(saved.root, saved.names[i]))
        number, says, right = found(saved, i, classes)
        truth = "" if number == labels[i] else f"is {classes[labels[i]]}"
        _say(axes, says, right, truth, families)
        if isinstance(saved, Guesses):
            draw_box(axes, saved.boxes[i, 0], RIGHT if right else WRONG)
    for axes in cells:  # fewer than 24 images
        axes.set_axis_off()

    loss, accuracy = plots.subplots(1, 2)
    losses, accuracies = curves(Path(work_dir))
    loss.plot(*zip(*sorted(losses.items()), strict=True), color="0.3", linewidth=1)
    loss.set(title="training loss", xlabel="iteration")
    accuracy.plot(*zip(*sorted(accuracies.items()), strict=True), color=RIGHT)
    accuracy.set(title="validation accuracy while training (%)", xlabel="epoch")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with replacing(out) as file:
        figure.savefig(file, dpi=100, format="png")
    plt.close(figure)


def _method(saved: Scores | Guesses) -> str:
    if isinstance(saved, Scores):
        return evaluation_name(dict.fromkeys(saved.protocols[0]["views"]))
    true_class = saved.protocols[0]["test"] == 1
    return f"box of the {'true class, centre crop' if true_class else 'best class, dense'}"


def found(saved: Scores | Guesses, i: int, classes: Sequence[str]) -> tuple[int, str, bool]:
    """What an image is taken for: its best class, this in words, and whether it is right."""
    if isinstance(saved, Guesses):
        number, overlap = saved.numbers[i, 0], saved.guesses[i, 0, 6]
        return number, f"{classes[number]}\nIoU {overlap:.0%}", not saved.wrong(1)[i]
    posterior = saved.posteriors[i].mean(0, dtype=np.float64)
    number = posterior.argmax()
    if not np.isfinite(posterior).all():
        return number, "no number", False
    return number, f"{classes[number]} {posterior[number]:.0%}", number == saved.labels[i]


def _say(axes: Axes, says: str, right: bool, truth: str, families: list[str]) -> None:
    """Frames an image, writes above it what the net says, and below it the truth."""
    color = RIGHT if right else WRONG
    mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
    style = dict(fontsize=9, parse_math=False, family=families)
    axes.set_title(f"{mark} {says}", color=color, **style)
    axes.set_xlabel(truth, **style)
    axes.set(xticks=[], yticks=[])
    plt.setp(axes.spines.values(), color=color, linewidth=2)


def curves(work_dir: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Iteration -> loss and epoch -> top-1 accuracy; a resumed run's take the earlier's place."""
    losses: dict[int, float] = {}
    accuracies: dict[int, float] = {}
    for log in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for text in log.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the run was killed while it wrote
                continue
            if "loss" in line:
                losses[line["step"]] = line["loss"]
            elif "accuracy/top1" in line:
                accuracies[line["step"]] = line["accuracy/top1"]
    return losses, accuracies
