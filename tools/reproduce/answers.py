"""What a report says of what is open: to what was said of the run before, and of each claim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tools.analysis.report import curves
from tools.reproduce.bootstrap import FAILS, HOLDS, LEAST, LEVEL, POWER, Verdict
from tools.reproduce.claims import CLAIMS, Part, entry
from tools.reproduce.page import code, table
from tools.reproduce.plan import D_256, D_384, TRIED, A, Step, models, passes, work_dir
from tools.reproduce.results import EACH_Q, Results
from tools.reproduce.scales import Scale
from tools.reproduce.trial import tried
from vgg_mm.paper import S_JITTER, Side, config_name, scaled


def objections(scale: Scale, results: Results, root: Path) -> str:
    """What was wrong with the small run before this one, and what is done of it here."""
    answers = {
        "'Dense' was one centre crop, and most of the image unseen.": _dense(scale),
        "S and jitter were compared at different Q, which saw different parts of the image.": (
            _same_scale(results)
        ),
        "The variance between trainings was left out.": _trainings(results),
        "16 tests had no correction, and power was 50%.": (
            f"Holm's correction is over all {len(results.parts)} comparisons, and what is "
            f"detectable is so with a power of {POWER}%."
        ),
        "The learning rate was at its grid's edge.": _rate(root),
        "1,146 training images were overfitted.": _fitted(scale, root),
        "Jittered models got four times the passes that A got.": _passes(scale),
    }
    return "\n".join(f"- **{said}** {answer}" for said, answer in answers.items())


def _dense(scale: Scale) -> str:
    if scale.degenerate:
        return (
            f"At Q = {', '.join(map(str, scale.degenerate))} this is not mended: see the geometry."
        )
    short, long = scale.positions(512)
    text = (
        "Every map has as many positions as the full-size net's, and so sees the same part of the "
        f"image: {short}x{long} at the largest Q, 512."
    )
    if scale.scenes:
        shorts = scale.scenes.shorts
        text += (
            f" Images have short sides of {shorts[0]} to {shorts[-1]} pixels, and the largest Q is "
            f"{scaled(512, scale.crop)}."
        )
    return text


def _same_scale(results: Results) -> str:
    found = []
    for S, Q in ((256, 256), (384, 384)):
        fixed, jittered = _at(S, Q), _at(S_JITTER, Q)
        if all(results.error(each) for each in (*fixed, *jittered)):
            difference = results.mean(fixed) - results.mean(jittered)
            found.append(f"{difference:+.2f} points of S = {S} less jitter at Q = {Q}")
    text = "Every model is measured at each Q by itself too (the figure of S and Q)"
    return f"{text}: {', '.join(found)}, the mean of C, D and E." if found else f"{text}."


def _at(S: Side, Q: int) -> list:
    return [entry(row) for row in EACH_Q if (row.S, row.Q) == (S, (Q,))]


def _trainings(results: Results) -> str:
    text = f"There are {results.trainings} of each model, and intervals are over both."
    if results.trainings < 2 or not results.parts:
        return f"{text} With fewer than {LEAST} nothing is decided."
    spread = np.median([np.std(v.trainings, ddof=1) for v in results.verdicts.values()])
    sampled = np.median([results.sampling(part) for part in results.parts])
    return (
        f"{text} Between trainings a difference has a standard deviation of {spread:.2f} points, "
        f"where the sampling of images explains {sampled:.2f} (medians of the comparisons)."
    )


def _rate(root: Path) -> str:
    found = tried(root)
    if not found:
        return "No trial was made."
    said = []
    for net in TRIED:
        best = min(found, key=lambda lr: found[lr][net])
        edge = "at the edge" if best in (min(found), max(found)) else "inside"
        said.append(f"{net} was best at {best:g}, {edge}")
    return f"Of the rates {', '.join(f'{lr:g}' for lr in sorted(found))} {' and '.join(said)}."


def _fitted(scale: Scale, root: Path) -> str:
    images = scale.scenes.images[0] if scale.scenes else 1_281_167
    text = f"Each training has {images:,}."
    ends = {net: _loss(root / "seed0", net) for net in (A, D_256, config_name("E", 256))}
    said = [f"{net} at {loss:.2f}" for net, loss in ends.items() if loss is not None]
    if not said:
        return text
    chance = math.log(scale.scenes.classes if scale.scenes else 1000)
    return f"{text} The loss ends for {', '.join(said)}; chance is {chance:.2f}."


def _loss(folder: Path, name: str) -> float | None:
    """A seed's model's training loss, the mean of its last twentieth; None without a log."""
    losses = [loss for _, loss in sorted(curves(work_dir(folder, name))[0].items())]
    return float(np.mean(losses[-max(1, len(losses) // 20) :])) if losses else None


def _passes(scale: Scale) -> str:
    of = passes(scale)
    groups = (
        ("vgg16_d_jitter", f"{D_256}_thrice", f"{D_384}_twice"),
        (D_256, f"{A}_twice"),
    )
    said = [" and ".join(f"{name} {of[name]}" for name in group) for group in groups]
    return (
        "Controls have as many, counted with those of the nets that each starts from"
        f"{', at most' if not scale.full_passes else ''}: {'; '.join(said)}."
    )


def needed(scale: Scale, results: Results, steps: Sequence[Step], root: Path) -> Iterator[str]:
    """What it would take to decide what is open, and what next to do where a claim does not hold.

    Args:
        scale: The sizes.
        results: What was measured.
        steps: The plan, whose commands of the first seed are repeated.
        root: The reproduction's folder, with the trainings' logs.
    """
    rows, refuted = [["comparison", "verdict", "were it as here", "were it as in the paper"]], []
    for number, claim in enumerate(CLAIMS, 1):
        if claim.maps and scale.degenerate:
            continue
        for part in claim.parts:
            verdict = results.verdicts.get(part)
            if verdict and verdict.verdict != HOLDS:
                fails = verdict.verdict == FAILS
                refuted += [part] * fails
                here = "decided" if fails else _size(results, verdict, part, verdict.difference)
                there = _size(results, verdict, part, _papers(results, part))
                rows.append([f"{number}. {part.text}", verdict.verdict, here, there])
    if len(rows) == 1:
        yield "Nothing: every comparison holds."
        return
    note = (
        f"Trainings x test images that find a difference with a power of {POWER}% in one test at "
        f"{100 - LEVEL}%, both grown in the same ratio: of a difference as measured, and of the "
        "paper's, as the same part of the first one's error."
    )
    yield table("To decide what does not hold or is undecided", rows, note)
    if not refuted:
        return
    yield (
        "More of the same does not turn what does not hold. How far the two sides had learnt their "
        "training images tells where to look:"
    )
    rows = [["comparison", "loss of the first", "of the second", "so the second"]]
    folders = [root / f"seed{seed}" for seed in range(results.trainings)]
    rows += [_ended(part, folders) for part in refuted]
    yield table(
        "Training losses of what does not hold",
        rows,
        "Means over the trainings of the last twentieth of each. Those of boxes are squared "
        "distances.",
    )
    if again := _again(scale, refuted, steps):
        yield (
            "The second side's nets with twice the passes, to be put beside the others by "
            "`tools/analysis/compare.py`:"
        )
        yield code("\n".join(again))


def _ended(part: Part, folders: Sequence[Path]) -> list[str]:
    """A line of the losses' table."""
    sides = [
        {name for each in side for name, _ in each.models} for side in (part.worse, part.better)
    ]
    if sides[0] == sides[1]:
        return [part.text, "-", "-", "is the same nets, which look another way: see the geometry"]
    losses = []
    for names in sides:
        found = [_loss(folder, name) for folder in folders for name in names]
        known = [loss for loss in found if loss is not None]
        losses.append(float(np.mean(known)) if known else math.nan)
    told = [f"{loss:.3g}" for loss in losses]
    if not all(map(math.isfinite, losses)):
        return [part.text, *told, "is not known"]
    less, more = "fits less: it wants more passes", "fits more: it wants more images"
    return [part.text, *told, less if losses[1] > losses[0] else more]


def _papers(results: Results, part: Part) -> float | None:
    if not part.paper:
        return None
    points, effect = part.paper
    return points if effect is None else effect / 100 * results.mean(part.worse)


def _size(results: Results, verdict: Verdict, part: Part, difference: float | None) -> str:
    times = None if difference is None else verdict.times(part.claimed, difference)
    if times is None:
        return "-"
    trainings = max(LEAST, math.ceil(times * results.trainings))
    return f"{trainings:,} x {math.ceil(times * results.images):,}"


def _again(scale: Scale, parts: Sequence[Part], steps: Sequence[Step]) -> list[str]:
    """Commands of the first seed with twice the passes."""
    wanted = {name for part in parts for each in part.better for name, _ in each.models}
    known = {model.name: model for model in models(scale)}
    lines = []
    for step in steps:
        if step.folder.name == "seed0" and step.name in wanted & known.keys():
            once = scale.fine_passes if known[step.name].fine else scale.passes
            lines.append(f"{step}_longer --cfg-options train_cfg.max_epochs={2 * once}")
            if scale.full_passes and not known[step.name].fine:
                lines[-1] += f' param_scheduler.milestones="[{2 * scale.full_passes}]"'
    return lines
