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

from tools.analysis.drawing import legible, show
from vgg_mm.testing.scores import Scores

matplotlib.use("Agg")
RIGHT, WRONG = "#1a7f37", "#c62828"


def draw_report(scores: str | Path, work_dir: str | Path, out: str | Path) -> None:
    """Draws sample validation images with true and predicted class, and the training curves.

    Args:
        scores: The file that :class:`vgg_mm.SaveScores` wrote.
        work_dir: The training's folder, whose logs, of all resumptions, hold the curves.
        out: The PNG to write.
    """
    saved = Scores.load(scores)
    labels = saved.labels
    families, classes = legible(saved.classes)
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(
        f"{Path(work_dir).name}: {100 - saved.error(1):.1f}% of {len(labels)} validation images "
        "right (dense evaluation)",
        fontsize=15,
        parse_math=False,
        family=legible([Path(work_dir).name])[0],
    )
    images, plots = figure.subfigures(2, height_ratios=(3, 2))
    shown = np.random.default_rng(0).permutation(len(labels))[:24]
    shown = shown[np.argsort(labels[shown], kind="stable")]
    cells = images.subplots(3, 8).flat
    for axes, i, posterior in zip(cells, shown, saved.mean(shown), strict=False):
        show(axes, os.path.join(saved.root, saved.names[i]))
        _say(axes, posterior, labels[i], classes, families)
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
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _say(
    axes: Axes, posterior: np.ndarray, label: int, classes: Sequence[str], families: list[str]
) -> None:
    predicted = posterior.argmax()
    says_something = np.isfinite(posterior).all()
    right = says_something and predicted == label
    color = RIGHT if right else WRONG
    says = f"{classes[predicted]} {posterior[predicted]:.0%}" if says_something else "no number"
    mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
    style = dict(fontsize=10, parse_math=False, family=families)
    axes.set_title(f"{mark} {says}", color=color, **style)
    axes.set_xlabel("" if right else f"is {classes[label]}", **style)
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
