"""The report's figures. Each is five inches wide, to be read on a phone too."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from mmengine.device import get_device

from tools.analysis.drawing import legible, show
from tools.analysis.paper_tables import METHODS
from tools.analysis.report import RIGHT, WRONG, curves
from tools.analysis.score_maps import draw_score_maps
from tools.reproduce.plan import Run, step_config
from tools.reproduce.results import EACH_Q, AnyRow, Results
from tools.reproduce.scales import Scale
from vgg_mm.api import load
from vgg_mm.paper import S_JITTER, TABLE_3, TABLE_5, TABLE_6, TRAININGS, config_name, scaled

OURS, PAPERS = "#1f5fa8", "0.45"
NETS = {"A": "0.2", "A-LRN": "0.6", "B": "#7b4ea3", "C": "#c77c11", "D": "#1a7f37", "E": "#c62828"}


def _axes(height: float = 3.6, **labels: str) -> tuple[Figure, Axes]:
    figure = Figure((5, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":  # 0.1 and not 10^-1
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(LogFormatter())
    return figure, axes


def _points(axes: Axes, xs: list, errors: list[tuple[float, float, float]], **style) -> Artist:
    """Errors with the bars of their intervals."""
    middle, low, high = np.array(errors).T
    bars = [(middle - low).clip(0), (high - middle).clip(0)]
    return axes.errorbar(xs, middle, bars, capsize=3, marker="o", **style)


def depth(results: Results) -> Figure | None:
    """Error against depth, S = 256, with the paper's."""
    rows = [row for row in TABLE_3 if row.S == 256 and row in results.rows]
    if not rows:
        return None
    figure, axes = _axes(ylabel="top-1 error (%)", xlabel="net, and its layers with weights")
    names = [f"{row.arch}\n{row.config[3:5]}" for row in rows]
    _points(axes, names, [results.errors(row) for row in rows], color=OURS, label="here")
    axes.plot(names, [row.top1 for row in rows], "s--", color=PAPERS, label="the paper, ImageNet")
    axes.legend()
    return figure


def training_curves(run: Run) -> Figure | None:
    """The training loss of every model of a run."""
    figure, axes = _axes(4.2, ylabel="training loss", xlabel="iteration", yscale="log")
    lines = {S: style for S, style in ((256, "-"), (384, "--"), (S_JITTER, ":"))}
    for arch, S in TRAININGS:
        losses, _ = curves(run.work_dir(config_name(arch, S)))
        if losses:
            x, y = (np.array(values) for values in zip(*sorted(losses.items()), strict=True))
            window = max(1, len(y) // 40)
            y = np.convolve(y, np.full(window, 1 / window), "valid")
            name = f"{arch} {'jitter' if S == S_JITTER else S}"
            axes.plot(x[window - 1 :], y, lines[S], color=NETS[arch], linewidth=1, label=name)
    if not axes.lines:
        return None
    axes.legend(fontsize=7, ncols=3)
    return figure


def scales_effect(results: Results) -> Figure | None:
    """Error against the test scale Q, a line for each S, a panel for each net."""
    nets = [arch for arch in "CDE" if any(row.arch == arch for row in _each_q(results))]
    if not nets:
        return None
    figure = Figure((5, 2.6 * len(nets) + 0.4), dpi=160, layout="constrained")
    c, lines = results.scale.crop, {}
    for arch, axes in zip(nets, figure.subplots(len(nets), squeeze=False)[:, 0], strict=True):
        for i, (S, color) in enumerate(((256, "0.3"), (384, OURS), (S_JITTER, WRONG))):
            rows = [row for row in _each_q(results) if (row.arch, row.S) == (arch, S)]
            if rows:
                label = f"S = {scaled(S, c)}".replace("(", "[").replace(")", "]")
                aside = (i - 1) * c / 80  # the same Q of two S stand side by side
                Q = [scaled(row.Q[0], c) + aside for row in rows]
                lines[label] = _points(axes, Q, [results.errors(row) for row in rows], color=color)
        axes.set(title=f"net {arch}, dense", ylabel="top-1 error (%)", xlabel="Q")
        axes.grid(alpha=0.3)
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=3)
    return figure


def _each_q(results: Results) -> list[AnyRow]:
    return [row for row in EACH_Q if row in results.rows]


def views(results: Results) -> Figure | None:
    """Dense, multi-crop and both, for D, E and their fusion."""
    figure, axes = _axes(ylabel="top-1 error (%)")
    sets = {"D": TABLE_5[:3], "E": TABLE_5[3:], "D & E fused": TABLE_6[1:]}
    axes.set_xticks(range(3), [METHODS[row.views].replace(" & ", "\n& ") for row in TABLE_5[:3]])
    for i, (name, rows) in enumerate(sets.items()):
        if not any(results.lacking(row) for row in rows):
            xs = [x + 0.15 * (i - 1) for x in range(3)]  # side by side
            errors = [results.errors(row) for row in rows]
            _points(axes, xs, errors, color=NETS.get(name, OURS), linestyle="", label=name)
    if not axes.containers:
        return None
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def cost(results: Results, seconds: dict[AnyRow, float]) -> Figure | None:
    """Time per image against error, of every protocol that was timed."""
    figure, axes = _axes(4.6, ylabel="top-1 error (%)", xlabel="seconds an image", xscale="log")
    shapes = {"dense": "o", "crops": "s", "both": "^"}
    seen = set()
    for row, time in seconds.items():
        nets = "+".join(arch for arch, _, _ in row.models)
        color = NETS.get(nets, OURS)
        label = f"{nets if nets in NETS else 'fused'}, {METHODS[row.views]}"
        shown = None if label in seen else label
        seen.add(label)
        style = dict(color=color, marker=shapes[row.views], linestyle="", label=shown)
        axes.plot(time, results.errors(row)[0], markersize=6, **style)
    if not seconds:
        return None
    axes.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def best_row(results: Results) -> AnyRow | None:
    """The paper's best row that was measured: Table 6's last, or another one."""
    return next((row for row in (TABLE_6[3], TABLE_5[5], *reversed(results.rows))
                 if row in results.rows), None)  # fmt: skip


def confusion(results: Results, row: AnyRow) -> Figure | None:
    """The confusion matrix of a row, all runs together; of 30 classes at most."""
    classes = next(iter(results.stored[next(iter(results.stored))].files.values())).classes
    if len(classes) > 30:
        return None
    counts = np.zeros((len(classes), len(classes)))
    for stored in results.stored.values():
        scores = stored.scores(row)
        np.add.at(counts, (scores.labels, scores.mean().argmax(1)), 1)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure = Figure((5, 4.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for i, j in np.ndindex(shares.shape):
        if counts[i, j]:
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{shares[i, j]:.0%}", ha="center", va="center", color=color,
                      fontsize=7)  # fmt: skip
    ticks = range(len(classes))
    families, names = legible(classes)
    style = dict(parse_math=False, family=families)
    axes.set_xticks(ticks, names, rotation=45, ha="right", **style)
    axes.set_yticks(ticks, names, **style)
    axes.set(xlabel="said", ylabel="true")
    return figure


def hardest(results: Results, row: AnyRow, number: int = 12) -> Figure:
    """The images whose true class a row of the first run finds least probable."""
    scores = next(iter(results.stored.values())).scores(row)
    p = scores.mean()
    true = p[range(len(p)), scores.labels]
    order = np.argsort(true, kind="stable")[:number]
    figure = Figure((5, 1.75 * -(-len(order) // 3)), dpi=160, layout="constrained")
    families, names = legible(scores.classes)
    cells = list(figure.subplots(-(-len(order) // 3), 3, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    for axes, i in zip(cells, order, strict=False):
        show(axes, os.path.join(scores.root, scores.names[i]))
        label, said = (names[j][:16] for j in (scores.labels[i], p[i].argmax()))
        title = f"{label} {true[i]:.0%}\nsaid {said} {p[i].max():.0%}"
        color = RIGHT if label == said else WRONG
        axes.set_title(title, fontsize=8, color=color, parse_math=False, family=families)
    return figure


def score_maps(scale: Scale, results: Results, folder: Path, number: int = 3) -> list[Path]:
    """Draws score maps of net D, or the deepest there is, over a few images of the first run."""
    run, stored = next(iter(results.stored.items()))
    trained = [
        (arch, S)
        for arch, S in TRAININGS
        if (run.work_dir(config_name(arch, S)) / "best.pth").exists()
    ]
    if not trained:
        return []
    training = ("D", S_JITTER) if ("D", S_JITTER) in trained else trained[-1]
    cfg = step_config(scale, run, training)
    sides = [scaled(512, scale.crop), scaled(1024, scale.crop)]
    cfg.tta_pipeline[1].scales = sides
    net = load(cfg, run.work_dir(config_name(*training)) / "best.pth", device=get_device())
    scores = next(iter(stored.files.values()))
    files = []
    for label in np.unique(scores.labels)[:number]:
        name = scores.names[np.flatnonzero(scores.labels == label)[0]]
        files.append(folder / f"score_map_{label}.png")
        draw_score_maps(net, os.path.join(scores.root, name), 2, files[-1])
    return files
