"""The report: one self-contained HTML file, and Markdown with its figures beside it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import mmengine
import torch
from matplotlib.figure import Figure

from tools.analysis.paper_tables import make_tables
from tools.reproduce import plots
from tools.reproduce.answers import needed, objections
from tools.reproduce.bootstrap import LEVEL, RULE, UNTESTED, Verdict, joint
from tools.reproduce.claims import CLAIMS, Claim, Part
from tools.reproduce.page import as_html, code, figure, table
from tools.reproduce.plan import Step, layers, models
from tools.reproduce.results import FILE, Results
from tools.reproduce.scales import FULL, Scale
from tools.reproduce.steps import plan_text
from tools.reproduce.trial import tried
from vgg_mm.paper import ROWS, scaled
from vgg_mm.testing.scores import file_sha256
from vgg_mm.writing import replacing, write_text


def write_report(scale: Scale, root: Path, steps: Sequence[Step]) -> Path:
    """Writes ``report/report.html``, ``report/report.md`` and the figures of ``report/ranks.npz``.

    Args:
        scale: The sizes.
        root: The reproduction's folder.
        steps: The plan that made it.

    Returns:
        The HTML file.
    """
    matplotlib.use("Agg")
    folder = root / "report"
    results = Results(folder / FILE)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    title = f"The VGG paper at scale '{scale.name}'"
    blocks = [f"# {title}", *summary(scale, results, folder)]
    blocks += ["## The rule", RULE, "## Every comparison", *comparisons(scale, results)]
    blocks += ["## What it would take", *needed(scale, results, steps, root)]
    blocks += ["## What was said of the run before", objections(scale, results, root)]
    blocks += ["## The geometry", *geometry(scale), "## Tables", *tables(results)]
    blocks += ["## Figures", *_figures(scale, results, root, folder)]
    blocks += ["## How it was made", *_settings(scale, root, steps, folder)]
    text = "\n\n".join(blocks) + "\n"
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(title, text, folder))
    return folder / "report.html"


def summary(scale: Scale, results: Results, folder: Path) -> Iterator[str]:
    """The first page: what was done, the verdicts, and all differences in one figure."""
    yield (
        f"The paper's nets at crops of {scale.crop} pixels in place of 224, stage 1 {scale.width} "
        f"channels wide in place of 64: {results.trainings} trainings of each, tested "
        f"on {results.images:,} images. The errors are not to be compared with the paper's, their "
        "differences are."
    )
    yield verdicts(scale, results)
    yield from drawn(
        folder,
        "forest",
        plots.forest(results),
        f"Differences of error with {LEVEL}% intervals",
        "Right of zero the first of the two is worse. Green holds, red does not, grey is "
        "undecided, with a correction for the number of comparisons; ticks are the single "
        "trainings, hollow diamonds the paper's differences on ImageNet.",
    )


def verdicts(scale: Scale, results: Results) -> str:
    """The verdict on every claim, with what it rests on."""
    rows = [["claim", "verdict", f"here, points [{LEVEL}%]", "in the paper"]]
    for number, claim in enumerate(CLAIMS, 1):
        known = [part for part in claim.parts if part in results.verdicts]
        heres = [_interval(results.verdicts[part]) for part in known]
        papers = [f"{part.paper[0]:+.1f}" if part.paper else "-" for part in known]
        whole = _verdict(scale, claim, results)
        rows.append([f"{number}. {claim.text}", whole, "\n".join(heres), "\n".join(papers)])
    note = "In each cell the claim's comparisons, in the order of the table further below."
    return table("Claims and verdicts", rows, note)


def _verdict(scale: Scale, claim: Claim, results: Results) -> str:
    if claim.maps and scale.degenerate:
        return UNTESTED
    if any(part not in results.verdicts for part in claim.parts):
        return "not measured"
    return joint([results.verdicts[part].verdict for part in claim.parts])


def _interval(verdict: Verdict) -> str:
    return f"{verdict.difference:+.2f} [{verdict.low:+.2f}; {verdict.high:+.2f}]"


def comparisons(scale: Scale, results: Results) -> Iterator[str]:
    """All that is known of every comparison."""
    rows = [
        [
            *("difference", "verdict", f"here\n[{LEVEL}%]", "each\ntraining", "effect\nhere"),
            *("in the\npaper", "effect\nthere", "p, corrected", "detectable"),
        ]
    ]
    for number, claim in enumerate(CLAIMS, 1):
        rows.append([f"{number}. {claim.text}", *[""] * (len(rows[0]) - 1)])
        rows += [_line(scale, claim, part, results) for part in claim.parts]
    yield table("Comparisons", rows)


def _line(scale: Scale, claim: Claim, part: Part, results: Results) -> list[str]:
    difference, effect = part.paper or (None, None)
    papers = [
        "-" if difference is None else f"{difference:+.1f}",
        "-" if effect is None else f"{effect:+.0f}%",
    ]
    if not (verdict := results.verdicts.get(part)):
        return [part.text, "not measured", "-", "-", "-", *papers, "-", "-"]
    error = results.mean(part.worse)
    return [
        part.text,
        UNTESTED if claim.maps and scale.degenerate else verdict.verdict,
        _interval(verdict).replace(" ", "\n", 1),
        "\n".join(f"{each:+.2f}" for each in verdict.trainings),
        f"{100 * verdict.difference / error:+.0f}%" if error else "-",
        *papers,
        f"{verdict.p:.2g}",
        f"{verdict.detectable:.2f}",
    ]


def geometry(scale: Scale) -> Iterator[str]:
    """The sizes of images and maps, and where they are not the paper's."""
    sides = sorted({Q for row in ROWS for *_, scales in row.models for Q in scales})
    rows = [["Q in the paper", *map(str, sides)], ["Q here"], ["map there"], ["map here"]]
    for Q in sides:
        rows[1].append(str(scaled(Q, scale.crop)))
        for row, each in ((rows[2], FULL), (rows[3], scale)):
            row.append("x".join(map(str, each.positions(Q))))
    yield table(
        f"Positions of the class score map of a 4:3 image, the stride {scale.stride} pixels here",
        rows,
        "The tables name S and Q as the paper does.",
    )
    there, here = (_field(each) / each.crop for each in (FULL, scale))
    if here != there:
        yield (
            "Receptive fields are not in that ratio: a position of net D's conv5_3 sees "
            f"{there:.1f} crops in the paper, {here:.1f} here. A crop's zero padding reaches that "
            "far in, and a dense run has the image there instead (Sec. 3.2): the further, the less "
            "alike are what a net was trained on and what it sees dense."
        )
    if bad := scale.degenerate:
        yield (
            f"**The geometry is not the paper's** at Q = {', '.join(map(str, bad))}: the maps have "
            "another size, so that a dense run sees another part of the image. Claims about dense "
            "maps and scales cannot be tested here, whatever their differences are."
        )


def _field(scale: Scale) -> int:
    """The side, in pixels, of what a position of net D's conv5_3 sees."""
    found = layers(scale, "D", scale.crop, scale.crop)
    return next(layer.field for layer in found if layer.name == "conv5_3")


def tables(results: Results) -> Iterator[str]:
    """Tables 3-7, the paper's errors beside those measured."""
    for each in make_tables(results):
        rows = [[*each.lines[0].cells], *([*line.cells.values()] for line in each.lines)]
        yield table(each.caption, rows)


def _figures(scale: Scale, results: Results, root: Path, folder: Path) -> Iterator[str]:
    first = root / "seed0"
    yield from drawn(
        folder,
        "depth",
        plots.depth(results),
        "Error against depth, at the smallest S and one test scale",
        "Does the blue line fall to the right, as the paper's does?",
    )
    yield from drawn(
        folder,
        "scales",
        plots.scales_effect(scale, results),
        "The effect of S and Q, in pixels",
        "A model with fixed S is at its best where Q is about S; one with jittered S (red) should "
        "stay low over the whole range of Q.",
    )
    yield from drawn(
        folder,
        "curves",
        plots.training_curves(scale, first),
        "Training loss of the first seed",
        "Every net should end far below where it began. A model of a larger S (dashed, dotted) "
        "goes on from the one before it.",
    )
    for file in plots.score_maps(scale, first, folder / "figures"):
        yield figure(
            f"figures/{file.name}",
            "Class score map over a test image, at two scales",
            "The two most probable classes, and how sure the net is of each at every position.",
        )


def drawn(
    folder: Path, name: str, drawing: Figure | None, caption: str, note: str
) -> Iterator[str]:
    """Saves a figure, if there is one to draw."""
    if drawing:
        with replacing(folder / "figures" / f"{name}.png") as file:
            drawing.savefig(file)
        yield figure(f"figures/{name}.png", caption, note)


def _schedule(scale: Scale) -> str:
    if not scale.full_passes:
        return "The rate falls on plateaus."
    return (
        f"The rate falls to a tenth after {scale.full_passes} of {scale.passes} passes, for all "
        "nets, not on plateaus as the paper's: of so few passes a plateau ends one training "
        "early and another not at all, which moves errors by more than what is compared."
    )


def _settings(scale: Scale, root: Path, steps: Sequence[Step], folder: Path) -> Iterator[str]:
    yield code(f"python tools/reproduce/reproduce.py --scale {scale.name}")
    if found := tried(root):
        nets = [*next(iter(found.values()))]
        rows = [
            [f"{lr:g}", *(f"{errors[net]:.1f}" for net in nets)] for lr, errors in found.items()
        ]
        yield table(
            "Trials of the learning rate: top-1 error (%)",
            [["rate", *nets], *rows],
            "The shallowest net, and the deepest from its layers, on the first "
            f"{scale.trial:,} of the first seed's scenes; 100 where the loss was no number any "
            "more. Taken for all nets was the rate of the least sum.",
        )
    spent = sum(done["seconds"] for step in steps if (done := step.result()))
    images = (
        "{:,} to train, {:,} for the plateaus, {:,} to test".format(*scale.scenes.images)
        if scale.scenes
        else "ILSVRC-2012's"
    )
    rows = [
        ["setting", "value"],
        ["images", images],
        ["batch", str(scale.batch)],
        ["width of stage 1, of fc6 and fc7", f"{scale.width}, {scale.channels}"],
        ["dropout", str(scale.options.get("model.head.dropout", "0.5"))],
        ["passes", f"{scale.passes}; of what goes on from its like {scale.fine_passes}"],
        ["processor of the report", f"{platform.machine()}, {os.cpu_count()} cores"],
        ["software", f"Python {platform.python_version()}, torch {torch.__version__}, "
         f"mmengine {mmengine.__version__}"],
        ["time of all steps, but for what was killed", f"{spent / 3600:.1f} hours of one process"],
        [f"SHA-256 of {FILE}", file_sha256(folder / FILE)],
    ]  # fmt: skip
    yield table("Settings", rows)
    yield (
        "Each training draws scenes of its own; all are tested on the same, whose backgrounds and "
        "distractors are in no training. "
        f"{_schedule(scale)} `_new`, `_twice` and `_thrice` are controls that "
        "start anew or go on, so that both sides of a comparison had as many passes. "
        f"`{FILE}` holds, for every row, training and image, how many classes beat the true one: "
        "all errors, intervals and verdicts are computed from it."
    )
    rows = [["model", "starts from", "test"]]
    for model in models(scale):
        views = "true class, centre crop" if model.boxes else f"{model.views}, Q = {model.Q}"
        rows.append([model.name, model.start or "random weights", views])
    yield table("Models", rows)
    yield "### Commands"
    yield code(plan_text([s for s in steps if s.folder.name in ("trial", "seed0")], scale.speed))
