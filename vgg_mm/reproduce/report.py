"""The report: one self-contained HTML file, and Markdown with its figures beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import mmengine
import torch

from vgg_mm.paper import scaled
from vgg_mm.reproduce import plots
from vgg_mm.reproduce.claims import CLAIMS, MARGIN, Part
from vgg_mm.reproduce.cost import time_rows
from vgg_mm.reproduce.page import (
    Block,
    Code,
    Grid,
    Heading,
    Picture,
    Text,
    as_html,
    as_markdown,
)
from vgg_mm.reproduce.plan import Run, Step
from vgg_mm.reproduce.results import Results
from vgg_mm.reproduce.run import Rates, plan_text, read_marker, write_aside
from vgg_mm.reproduce.scales import Scale
from vgg_mm.reproduce.statistics import DRAWS, FAILS, HOLDS, LEVEL, Verdict, joint
from vgg_mm.testing.scores import Scores, file_sha256
from vgg_mm.testing.tables import make_tables, scores_files


def write_report(scale: Scale, runs: Sequence[Run], steps: Sequence[Step], root: Path) -> Path:
    """Writes ``report/report.html``, ``report/report.md`` and the figures, all anew.

    Args:
        scale: The sizes.
        runs: The runs; what is not measured yet is left open.
        steps: The plan that made them.
        root: The reproduction's folder.

    Returns:
        The HTML file.

    Raises:
        UserError: If a run has no scores at all.
    """
    matplotlib.use("Agg")
    results = Results(scale, runs)
    folder = root / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    title = f"The VGG paper at scale '{scale.name}'"
    blocks: list[Block] = [Heading(title, 1), *_summary(scale, runs, results)]
    blocks += [Heading("The paper's claims"), *_claims(results)]
    blocks += [Heading("Tables"), *_tables(results)]
    blocks += [Heading("Figures"), *_figures(scale, runs, results, root, folder)]
    blocks += [Heading("Pictures"), *_pictures(scale, results, folder)]
    blocks += [Heading("How it was made"), *_settings(scale, runs, steps, root, results)]
    write_aside(folder / "report.md", as_markdown(blocks))
    write_aside(folder / "report.html", as_html(title, blocks))
    return folder / "report.html"


def _summary(scale: Scale, runs: Sequence[Run], results: Results) -> Iterable[Block]:
    folds, seeds = ({getattr(run, what) for run in runs} for what in ("fold", "seed"))
    yield Text(
        f"Simonyan & Zisserman's 12 models (Table 3), trained and tested at crops of {scale.crop} "
        f"pixels in place of 224, stage 1 {scale.width} channels wide in place of 64, fc6 and fc7 "
        f"{scale.channels} in place of 4096: {len(runs)} times, over {len(folds)} fold(s) of the "
        f"pictures and {len(seeds)} seed(s), and tested on {results.images} images of "
        f"{runs[0].data.classes} classes"
        + (
            ": the errors are not to be compared with the paper's, their differences are."
            if results.images != 50_000
            else "."
        )
    )
    sizes = (224, 256, 288, 352, 384, 416, 512)
    yield Grid(
        "Sizes in pixels: the tables below name the paper's",
        [
            ["in the paper", *map(str, sizes)],
            ["here", *(str(scaled(size, scale.crop)) for size in sizes)],
        ],
    )
    yield Text(
        f"In brackets are {LEVEL}% confidence intervals: paired bootstrap, {DRAWS} draws, over "
        "images" + (" and seeds." if len(seeds) > 1 else ". With one seed they cover the choice of "
        "the images, and not that another training of the same net would differ.")
    )  # fmt: skip


def _claims(results: Results) -> Iterable[Block]:
    yield Text(
        "The rule was fixed before the run: a claim holds if the interval of its difference "
        "excludes zero on the claimed side, does not hold if it excludes zero on the other side, "
        f"and is undecided else. Two nets are about equal if the interval lies within {MARGIN:g} "
        "point of zero. A claim of several parts holds if all parts do. Differences are of top-1 "
        "error, in points, positive where the paper says so."
    )
    header = ["claim", "difference", "in the paper", f"here [{LEVEL}% interval]", "verdict"]
    rows, undecided = [header], []
    for number, claim in enumerate(CLAIMS, 1):
        verdicts = [results.judge(part) for part in claim.parts]
        known = [verdict for verdict in verdicts if verdict]
        whole = joint([v.verdict for v in known]) if len(known) == len(verdicts) else "not measured"
        for i, (part, verdict) in enumerate(zip(claim.parts, verdicts, strict=True)):
            name = f"{number}. {claim.text}" if i == 0 else ""
            rows.append([name, part.text, f"{part.papers:+.1f}", *_cells(verdict)])
            if verdict and verdict.verdict not in (HOLDS, FAILS):
                undecided.append([f"{number}. {part.text}", *_sizes(verdict, part, results)])
        if len(claim.parts) > 1:
            rows.append(["", "together", "", "", whole])
    for ablation in results.ablations:
        verdict = results.judge_ablation(ablation)
        rows.append(["Ablation", f"{ablation.text}: minus with it", "-", *_cells(verdict)])
        if verdict.verdict not in (HOLDS, FAILS):
            undecided.append([ablation.text, *_sizes(verdict, None, results)])
    yield Grid("Claims and verdicts", rows)
    if undecided:
        yield Text(
            "What is undecided, and how many test images would decide it, other things equal "
            "(an interval shrinks with the square root of their number; more seeds would be "
            "needed besides):"
        )
        header = ["difference", "were it as large as here", "were it as large as in the paper"]
        yield Grid(f"Test images needed, of which there are {results.images}", [header, *undecided])
    yield Text(
        "Why a claim may fail here that holds on ImageNet: the nets are narrow and the pictures "
        "few, so depth buys less than it costs in training. A dense score map also drops what is "
        "left over after five poolings: the paper's Q are multiples of 32, these are not, so "
        "that dense evaluation misses a margin at the right and the bottom which the crops see."
        if results.scale.crop != 224
        else "The claims are tested at the paper's own size."
    )


def _cells(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["-", "not measured"]
    shown = f"{verdict.difference:+.1f} [{verdict.low:+.1f}; {verdict.high:+.1f}]"
    return [shown, verdict.verdict]


def _sizes(verdict: Verdict, part: Part | None, results: Results) -> list[str]:
    ours = "no number" if verdict.images is None else f"{verdict.images:,}"
    papers = "-"
    half = (verdict.high - verdict.low) / 2
    if half and part is not None and part.margin is None:
        papers = f"{max(1, round(results.images * (half / part.papers) ** 2)):,}"
    return [ours, papers]


def _tables(results: Results) -> Iterable[Block]:
    for table in make_tables(results):
        header = [*table.lines[0].cells]
        rows = [list(line.cells.values()) for line in table.lines]
        yield Grid(table.caption, [header, *rows])


def _figures(
    scale: Scale, runs: Sequence[Run], results: Results, root: Path, folder: Path
) -> Iterable[Block]:
    seconds = time_rows(scale, results, root / "cost.json")
    for name, caption, figure in (
        ("depth", "Error against depth, S = 256, one test scale", plots.depth(results)),
        ("curves", f"Training loss ({runs[0].name})", plots.training_curves(runs[0])),
        ("scales", "The effect of S and Q", plots.scales_effect(results)),
        ("views", "Dense against crops", plots.views(results)),
        ("cost", "Cost against error of every protocol", plots.cost(results, seconds)),
    ):
        if figure:
            figure.savefig(folder / "figures" / f"{name}.png")
            yield Picture(folder, f"figures/{name}.png", caption)


def _pictures(scale: Scale, results: Results, folder: Path) -> Iterable[Block]:
    for file in plots.score_maps(scale, results, folder / "figures"):
        caption = "Class score map over a picture, at two scales"
        yield Picture(folder, f"figures/{file.name}", caption)
    row = plots.best_row(results)
    for name, caption, figure in (
        ("hardest", "The hardest images: true class, and what was said", plots.hardest(results)),
        ("confusion", "Confusion matrix", plots.confusion(results)),
    ):
        if figure:
            figure.savefig(folder / "figures" / f"{name}.png")
            nets = ", ".join(dict.fromkeys(arch for arch, _, _ in row.models))
            yield Picture(folder, f"figures/{name}.png", f"{caption} ({nets}, {row.views})")


def _settings(
    scale: Scale, runs: Sequence[Run], steps: Sequence[Step], root: Path, results: Results
) -> Iterable[Block]:
    if scale.chosen:
        yield Text(scale.chosen)
    tried = root / "choose.json"
    if tried.exists():
        found = json.loads(tried.read_text())
        nets = sorted({net for errors in found.values() for net in errors})
        rows = [[name, *(f"{errors[net]:.1f}" for net in nets)] for name, errors in found.items()]
        caption = "Trials on a part of the training pictures: top-1 error (%)"
        yield Grid(caption, [["recipe", *nets], *rows])
    elif not scale.data:
        yield Text("No trials are kept with this run.")
    data = runs[0].data
    spent = sum(done["seconds"] for step in steps if (done := read_marker(step)))
    yield Grid(
        "Settings",
        [
            ["setting", "value"],
            ["pictures", f"{data.train} to train, {data.val} to test, {data.classes} classes"],
            ["batch", str(scale.batch)],
            ["epochs of every model, at most", str(scale.epochs)],
            ["learning rate", f"{scale.lr:g}, with --start-from {scale.lr / 10:g}"],
            ["processor", f"{platform.machine()}, {os.cpu_count()} cores, "
             f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}"],
            ["software", f"Python {platform.python_version()}, torch {torch.__version__}, "
             f"mmengine {mmengine.__version__}"],
            ["time of all steps", f"{spent / 3600:.1f} hours"],
        ],
    )  # fmt: skip
    yield Heading("Scores and checkpoints", 3)
    yield Text(
        "Every number above comes from these files of posteriors; the checkpoint's SHA-256 is "
        "stored in each."
    )
    rows = [["scores", "SHA-256", "of the checkpoint"]]
    for run in runs:
        for file in scores_files([run.folder / "scores", run.folder / "ablations"]
                                 if results.ablations else [run.folder / "scores"]):  # fmt: skip
            checkpoints = "\n".join(p["sha256"] for p in Scores.load(file).protocols)
            rows.append([os.path.relpath(file, root), file_sha256(file), checkpoints])
    yield Grid("Files", rows)
    yield Heading("Commands", 3)
    yield Code(plan_text(steps, Rates({"train": 1e10, "test": 1e10}, steps)))
