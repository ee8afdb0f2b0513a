"""The report: one self-contained HTML file, and Markdown with its figures beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import mmengine
import torch
from matplotlib.figure import Figure

from tools.analysis.paper_tables import METHODS, make_tables
from tools.analysis.stored import scores_files
from tools.reproduce import plots
from tools.reproduce.bootstrap import DRAWS, FAILS, HOLDS, LEVEL, Verdict, images_needed, joint
from tools.reproduce.claims import CLAIMS, MARGIN, Part
from tools.reproduce.cost import time_rows
from tools.reproduce.page import as_html, code, figure, table
from tools.reproduce.plan import Run, Step
from tools.reproduce.rates import Rates
from tools.reproduce.results import Results
from tools.reproduce.scales import Scale
from tools.reproduce.steps import plan_text
from vgg_mm.paper import scaled
from vgg_mm.testing.scores import Scores, file_sha256
from vgg_mm.writing import replacing, write_text


def write_report(scale: Scale, runs: Sequence[Run], steps: Sequence[Step], root: Path) -> Path:
    """Writes ``report/report.html``, ``report/report.md`` and the figures, all anew.

    Args:
        scale: The sizes.
        runs: The runs. Those that are not done yet are left out, as long as one is done: of a
            first one, what is not measured yet is left open.
        steps: The plan that made them.
        root: The reproduction's folder.

    Returns:
        The HTML file.

    Raises:
        UserError: If a run has no scores at all.
    """
    matplotlib.use("Agg")
    planned = runs
    runs = [run for run in planned if _is_done(run, steps)] or planned[:1]
    results = Results(scale, runs)
    folder = root / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    title = f"The VGG paper at scale '{scale.name}'"
    blocks = [f"# {title}", *_summary(scale, runs, results)]
    if len(runs) < len(planned):
        left = "; ".join(run.name for run in planned if run not in runs)
        blocks.append(f"Of the {len(planned)} trainings planned these are not done: {left}.")
    blocks += ["## The paper's claims", *claims(results)]
    blocks += ["## Tables", *tables(results)]
    blocks += ["## Figures", *_figures(scale, runs, results, root, folder)]
    blocks += ["## Images", *_images(scale, results, folder)]
    blocks += ["## How it was made", *_settings(scale, planned, runs, steps, root, results)]
    text = "\n\n".join(blocks) + "\n"
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(title, text, folder))
    return folder / "report.html"


def _is_done(run: Run, steps: Sequence[Step]) -> bool:
    return all(step.marker.exists() for step in steps if step.run == run)


# What to see in each table of the paper's.
NOTES = {
    3: "Each model at one test scale. From A down to E the nets grow deeper, and within C, D and E "
    "S grows: the error should fall both ways.",
    4: "The same models, their posteriors averaged over three test scales: each row should be a "
    "little below its row in Table 3.",
    5: "Three ways to test the same two models: multi-crop should be slightly below dense, and "
    "both together below either.",
    6: "Several models' posteriors averaged: each row should be below its best model alone.",
    7: "The first three rows are ours and the paper's; the other methods' figures are the paper's.",
}


def _summary(scale: Scale, runs: Sequence[Run], results: Results) -> Iterator[str]:
    folds, seeds = ({getattr(run, what) for run in runs} for what in ("fold", "seed"))
    yield (
        f"Simonyan & Zisserman's 12 models (Table 3), trained and tested at crops of {scale.crop} "
        f"pixels in place of 224, stage 1 {scale.width} channels wide in place of 64, fc6 and fc7 "
        f"{scale.channels} in place of 4096: {_number(len(runs), 'time')}, over "
        f"{_number(len(folds), 'fold')} of the images and {_number(len(seeds), 'seed')}, and "
        f"tested on {results.images} images of {runs[0].data.classes} classes"
        + (
            ": the errors are not to be compared with the paper's, their differences are."
            if results.images != 50_000
            else "."
        )
    )
    sizes = (224, 256, 288, 352, 384, 416, 512)
    yield table(
        "Sizes in pixels",
        [
            ["in the paper", *map(str, sizes)],
            ["here", *(str(scaled(size, scale.crop)) for size in sizes)],
        ],
        "The tables and claims below name S and Q as the paper does; the figures' are in pixels.",
    )
    N = len(seeds)
    yield (
        f"In brackets are {LEVEL}% confidence intervals: paired bootstrap, {DRAWS:,} draws, over "
        + (
            f"images and seeds. {N} seeds are few: their part of an interval is about "
            f"{1 - (1 - 1 / N) ** 0.5:.0%} too narrow. "
            if N > 1
            else "images. With one seed they cover the choice of the images, and not that another "
            "training of the same net would differ. "
        )
        + "Images that are alike are drawn one by one as if they were not, which makes intervals "
        "too narrow where there are many."
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def claims(results: Results) -> Iterator[str]:
    """The verdicts on the paper's claims, and how many images would decide what is undecided."""
    yield (
        "The rule was fixed before the run: a claim holds if the interval of its difference "
        "excludes zero on the claimed side, does not hold if it excludes zero on the other side, "
        "and is undecided if it holds zero. Nets within 1 point count as equal: 'E is about D' "
        f"holds if the interval lies within {MARGIN:g} point of zero on both sides, 'no better' if "
        f"it lies above -{MARGIN:g}, and they do not hold if it lies outside. A claim of several "
        "parts holds if all parts do, and does not hold if one does not. Differences are of top-1 "
        "error, in points: the first minus the second."
    )
    header = ["difference", "verdict", f"here\n[{LEVEL}%]", "in the\npaper"]
    rows, undecided = [header], []
    for number, claim in enumerate(CLAIMS, 1):
        verdicts = [results.judge(part) for part in claim.parts]
        known = [verdict for verdict in verdicts if verdict]
        whole = joint([v.verdict for v in known]) if len(known) == len(verdicts) else "not measured"
        rows.append([f"{number}. {claim.text}", "", "", ""])
        for part, verdict in zip(claim.parts, verdicts, strict=True):
            rows.append([part.text, *_cells(verdict), f"{part.papers:+.1f}"])
            if verdict and verdict.verdict not in (HOLDS, FAILS):
                undecided.append([f"{number}. {part.text}", *_sizes(verdict, part, results)])
        if len(claim.parts) > 1:
            rows.append(["together", whole, "", ""])
    if results.ablations:
        rows.append(["Ablations: PCA lighting and scale jitter lower the error.", "", "", ""])
    for ablation in results.ablations:
        verdict = results.judge_ablation(ablation)
        rows.append([f"{ablation.ablation}: minus with it", *_cells(verdict), "-"])
        if verdict.verdict not in (HOLDS, FAILS):
            undecided.append([ablation.ablation, *_sizes(verdict, None, results)])
    yield table(
        "Claims and verdicts",
        rows,
        "Compare the sign of the two differences, then look whether the interval leaves zero out.",
    )
    if undecided:
        header = ["difference", "were it as large as here", "were it as large as in the paper"]
        yield table(
            "Test images that would decide what is undecided",
            [header, *undecided],
            f"{results.images} images are too few for these. An interval shrinks with the square "
            "root of their number, if all else is equal; how much trainings differ, only more "
            "seeds can tell. 'No number': the difference is just where the claim ends, or no image "
            "tells the two apart.",
        )
    yield (
        "Why a claim may not hold here that holds on ImageNet: the nets are narrow and the "
        "images few, so depth buys less than it costs in training. A dense run also sees of "
        "an image its middle alone, the sides cut to multiples of 32: the paper's Q are such "
        "multiples, these are not, so that dense evaluation misses a margin which the crops see."
        if results.scale.crop != 224
        else "The claims are tested at the paper's own size."
    )


def _cells(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["not measured", "-"]
    shown = f"{verdict.difference:+.1f}\n[{verdict.low:+.1f}; {verdict.high:+.1f}]"
    return [verdict.verdict, shown]


def _sizes(verdict: Verdict, part: Part | None, results: Results) -> list[str]:
    ours = "no number" if verdict.images is None else f"{verdict.images:,}"
    papers = None
    if part:
        width = verdict.high - verdict.low
        papers = images_needed(part.papers, width, results.images, part.claimed)
    return [ours, "-" if papers is None else f"{papers:,}"]


def tables(results: Results) -> Iterator[str]:
    """Tables 3-7, the paper's errors beside those measured."""
    for number, each in enumerate(make_tables(results), 3):
        rows = [[*each.lines[0].cells], *([*line.cells.values()] for line in each.lines)]
        yield table(each.caption, rows, NOTES[number])


def _figures(
    scale: Scale, runs: Sequence[Run], results: Results, root: Path, folder: Path
) -> Iterator[str]:
    yield from drawn(
        folder,
        "depth",
        plots.depth(results),
        "Error against depth, at the smallest S and one test scale",
        "Does the blue line fall to the right, as the paper's does? The bars are intervals; of two "
        "nets the claims above say more, for they compare them image by image.",
    )
    yield from drawn(
        folder,
        "curves",
        plots.training_curves(runs[0]),
        f"Training loss, {runs[0].name}",
        "Every net should end far below where it began; the steps down are where the rate falls. A "
        "model of a larger S (dashed, dotted) goes on from the one before it.",
    )
    yield from drawn(
        folder,
        "scales",
        plots.scales_effect(results),
        "The effect of S and Q, in pixels",
        "A model with fixed S is at its best where Q is about S; one with jittered S (red) should "
        "stay low over the whole range of Q.",
    )
    yield from drawn(
        folder,
        "views",
        plots.views(results),
        "Dense against crops",
        "From left to right the error should fall a little, and the fused nets should be below D "
        "and E. Differences of so few images are small beside the bars.",
    )
    yield from drawn(
        folder,
        "cost",
        plots.cost(results, time_rows(scale, results, root / "cost.json")),
        "Cost against error of every protocol",
        "Down and to the left is better: a point pays if none is both below and left of it. Crops "
        "cost many times what dense evaluation costs. Times are from the machine that wrote this "
        "report, one image at a time.",
    )


def _images(scale: Scale, results: Results, folder: Path) -> Iterator[str]:
    for file in plots.score_maps(scale, results, folder / "figures"):
        yield figure(
            f"figures/{file.name}",
            "Class score map over an image, at two scales",
            "The two most probable classes, and how sure the net is of each at every position of "
            "its window: it should be where the thing is.",
        )
    if row := plots.best_row(results):
        nets = " and ".join(dict.fromkeys(arch for arch, _, _ in row.models))
        protocol = f"{nets}, {METHODS[row.views]}"
        yield from drawn(
            folder,
            "hardest",
            plots.hardest(results, row),
            f"The hardest images: {protocol}",
            "Of the first run those whose true class (first line) was found least probable, and "
            "what was said instead: is it the net's mistake, or is the image at fault?",
        )
        yield from drawn(
            folder,
            "confusion",
            plots.confusion(results, row),
            f"Confusion matrix: {protocol}",
            "Each row is a true class, and how its images of all runs were named: off the diagonal "
            "is what the net takes for something else.",
        )


def drawn(
    folder: Path, name: str, drawing: Figure | None, caption: str, note: str
) -> Iterator[str]:
    """Saves a figure, if there is one to draw."""
    if drawing:
        with replacing(folder / "figures" / f"{name}.png") as file:
            drawing.savefig(file)
        yield figure(f"figures/{name}.png", caption, note)


def _settings(
    scale: Scale,
    planned: Sequence[Run],
    runs: Sequence[Run],
    steps: Sequence[Step],
    root: Path,
    results: Results,
) -> Iterator[str]:
    folds, seeds = (len({getattr(run, what) for run in planned}) for what in ("fold", "seed"))
    several = f" --folds {folds}" * (folds > 1) + f" --seeds {seeds}" * (seeds > 1)
    yield code(f"python tools/reproduce/reproduce.py --scale {scale.name}{several}")
    if scale.chosen:
        yield scale.chosen
    if folds > 1:
        yield (
            "Each fold's scenes are drawn anew, of the same classes; the recipe, one for all nets, "
            "was chosen on others."
        )
    tried = root / "choose.json"
    if tried.exists():
        found = json.loads(tried.read_text())
        nets = sorted({net for errors in found.values() for net in errors})
        rows = [[name, *(f"{errors[net]:.1f}" for net in nets)] for name, errors in found.items()]
        caption = "Trials on a part of the training images: top-1 error (%)"
        note = "Taken was what is low for both, the shallowest net and the deepest."
        yield table(caption, [["recipe", *nets], *rows], note)
    elif not scale.data:
        yield "No trials are kept with this run."
    data = dict.fromkeys(run.data for run in runs)
    spent = sum(done["seconds"] for step in steps if (done := step.result()))
    yield table(
        "Settings",
        [
            ["setting", "value"],
            ["images", "\n".join(f"{each.train} to train, {each.val} to test" for each in data)],
            ["classes", str(runs[0].data.classes)],
            ["batch", str(scale.batch)],
            ["epochs of every model, at most", str(scale.epochs)],
            ["learning rate", f"{scale.lr:g}, with --start-from {scale.lr / 10:g}"],
            ["processor of the report", f"{platform.machine()}, {os.cpu_count()} cores, "
             f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}"],
            ["software", f"Python {platform.python_version()}, torch {torch.__version__}, "
             f"mmengine {mmengine.__version__}"],
            ["time of all steps, but for what was killed", f"{spent / 3600:.1f} hours"],
        ],
        "What all models share; the commands below have every setting.",
    )  # fmt: skip
    yield "### Scores and checkpoints"
    rows = [["scores", "SHA-256", "of the checkpoint"]]
    for run in runs:
        folders = [run.folder / "scores", *[run.folder / "ablations"] * bool(results.ablations)]
        for file in scores_files(folders):
            checkpoints = "\n".join(p["sha256"] for p in Scores.load(file).protocols)
            rows.append([os.path.relpath(file, root), file_sha256(file), checkpoints])
    yield table(
        "Files",
        rows,
        "Every error above is computed from these files of posteriors, each named for its model; "
        "the checkpoint's SHA-256 is stored in it.",
    )
    yield "### Commands"
    yield code(plan_text(steps, Rates({"train": 1e10, "test": 1e10}, steps)))
