"""The report's figures. Each is five inches wide, to be read on a phone too."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.device import get_device
from PIL import Image

from tools.analysis.report import WRONG, curves
from tools.analysis.score_maps import draw_score_maps
from tools.reproduce.bootstrap import FAILS, HOLDS
from tools.reproduce.claims import CLAIMS, entry
from tools.reproduce.plan import D_256, models, work_dir
from tools.reproduce.results import EACH_Q, Results
from tools.reproduce.scales import Scale
from vgg_mm.api import load
from vgg_mm.paper import S_JITTER, TABLE_3, Side, scaled
from vgg_mm.testing.scores import Scores

OURS, PAPERS, GOOD = "#1f5fa8", "0.45", "#1a7f37"
NETS = {"A": "0.2", "A-LRN": "0.6", "B": "#7b4ea3", "C": "#c77c11", "D": GOOD, "E": "#c62828"}


def _axes(height: float = 3.6, **labels: str) -> tuple[Figure, Axes]:
    figure = Figure((5, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _points(
    axes: Axes, xs: list, errors: list[tuple[float, float, float]], **style
) -> ErrorbarContainer:
    """Errors with the bars of their intervals."""
    middle, low, high = np.array(errors).T
    bars = [(middle - low).clip(0), (high - middle).clip(0)]
    return axes.errorbar(xs, middle, bars, capsize=3, marker="o", **style)


def forest(results: Results) -> Figure | None:
    """Every comparison with its interval, and the paper's difference."""
    if not results.parts:
        return None
    figure, axes = _axes(0.32 * len(results.parts) + 1.2, xlabel="difference of error (points)")
    colors = {HOLDS: GOOD, FAILS: WRONG}
    ticks = []
    for y, part in enumerate(results.parts):
        verdict = results.verdicts[part]
        color = colors.get(verdict.verdict, "0.35")
        axes.plot([verdict.low, verdict.high], [y, y], color=color, linewidth=2)
        axes.plot(verdict.difference, y, "o", color=color, markersize=5)
        axes.plot(verdict.trainings, [y + 0.22] * len(verdict.trainings), "|", color=color)
        if part.paper:
            axes.plot(part.paper[0], y, "D", markerfacecolor="white", color=PAPERS, markersize=5)
        number = next(i for i, claim in enumerate(CLAIMS, 1) if part in claim.parts)
        ticks.append(f"{number}. {part.text}")
    axes.set_yticks(range(len(ticks)), ticks, fontsize=6.5)
    axes.set_xscale("symlog", linthresh=2)
    low, high = axes.get_xlim()
    marks = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50)
    axes.set_xticks([mark for mark in marks if low <= mark <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="x", labelsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    return figure


def depth(results: Results) -> Figure | None:
    """Error against depth, S = 256, with the paper's."""
    rows = {row: error for row in TABLE_3 if row.S == 256 and (error := results.error(entry(row)))}
    if not rows:
        return None
    figure, axes = _axes(ylabel="top-1 error (%)", xlabel="net, and its layers with weights")
    names = [f"{row.arch}\n{row.config[3:].split('_')[0]}" for row in rows]
    _points(axes, names, [*rows.values()], color=OURS, label="here")
    axes.plot(names, [row.top1 for row in rows], "s--", color=PAPERS, label="the paper, ImageNet")
    axes.legend()
    return figure


def training_curves(scale: Scale, folder: Path) -> Figure | None:
    """The training loss of every classifier of a seed."""
    figure, axes = _axes(4.2, ylabel="training loss", xlabel="iteration")
    lines: dict[Side, str] = {256: "-", 384: "--", S_JITTER: ":"}
    for model in models(scale):
        losses, _ = curves(work_dir(folder, model.name)) if not model.boxes else ({}, None)
        if losses:
            x, y = (np.array(values) for values in zip(*sorted(losses.items()), strict=True))
            window = max(1, len(y) // 20)
            y = np.convolve(y, np.full(window, 1 / window), "valid")
            color = NETS.get(model.arch, OURS)
            axes.plot(x[window - 1 :], y, lines[model.S], color=color, lw=1, label=model.name)
    if not axes.lines:
        return None
    figure.legend(fontsize=5.5, ncols=3, loc="outside lower center")
    return figure


def scales_effect(scale: Scale, results: Results) -> Figure | None:
    """Error against the test scale Q, a line for each S, a panel for each net."""
    measured = {row: error for row in EACH_Q if (error := results.error(entry(row)))}
    nets = [arch for arch in "CDE" if any(row.arch == arch for row in measured)]
    if not nets:
        return None
    figure = Figure((5, 2.4 * len(nets) + 0.4), dpi=130, layout="constrained")
    c = scale.crop
    colors: dict[Side, str] = {256: "0.3", 384: OURS, S_JITTER: WRONG}
    for arch, axes in zip(nets, figure.subplots(len(nets), squeeze=False)[:, 0], strict=True):
        for i, (S, color) in enumerate(colors.items()):
            rows = [row for row in measured if (row.arch, row.S) == (arch, S)]
            if rows:
                label = f"S = {scaled(S, c)}".replace("(", "[").replace(")", "]")
                aside = (i - 1) * c / 80  # the same Q of two S stand side by side
                Q = [round(row.Q[0] * c / 224) + aside for row in rows]
                _points(axes, Q, [measured[row] for row in rows], color=color, label=label)
        axes.set(title=f"net {arch}, dense", ylabel="top-1 error (%)", xlabel="Q")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def score_maps(scale: Scale, folder: Path, figures: Path, number: int = 2) -> list[Path]:
    """Draws net D's score maps over a few of the images that a seed was tested on."""
    net_dir = work_dir(folder, D_256)
    if not (net_dir / "scores.npz").exists():
        return []
    cfg = Config.fromfile(folder / "configs" / f"{D_256}.py")
    cfg.tta_pipeline[1].scales = [scaled(512, scale.crop), scaled(1024, scale.crop)]
    net = load(cfg, net_dir / "best.pth", device=get_device())
    scores, files = Scores.load(net_dir / "scores.npz"), []
    for label in np.unique(scores.labels)[:number]:
        name = scores.names[np.flatnonzero(scores.labels == label)[0]]
        files.append(figures / f"score_map_{label}.png")
        draw_score_maps(net, os.path.join(scores.root, name), 2, files[-1])
        small = Image.open(files[-1]).convert("RGB").quantize(64)
        small.resize([round(side / 1.5) for side in small.size]).save(files[-1])
    return files
