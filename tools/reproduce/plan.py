"""The steps of a reproduction: every command, in the chain's order (Sec. 3.1)."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config

from tools.analysis.layers import build, describe, total
from tools.reproduce.pictures import Data
from tools.reproduce.scales import ROOT, Scale, as_arguments, config_file, options
from vgg_mm.paper import S_JITTER, TRAININGS, Side, Training, config_name, scaled, scores_needed
from vgg_mm.testing.evaluation import VIEWS

# The settings that a test looks at: of the net, the pictures, and S and Q for its scores.
FOR_TESTS = ("S", "Q", "model", "test_", "tta_")


@dataclass(frozen=True)
class Run:
    """One training of all models: a seed, and a split of the pictures.

    Its folder looks as if its commands had been typed there: ``work_dirs/CONFIG`` and
    ``scores/CONFIG.npz``.
    """

    fold: int
    seed: int
    data: Data
    folder: Path

    @property
    def name(self) -> str:
        """What to call it."""
        return f"fold {self.fold}, seed {self.seed}"

    def work_dir(self, config: str) -> Path:
        """Where a model is trained."""
        return self.folder / "work_dirs" / config

    def scores(self, config: str) -> Path:
        """Where a model's scores are."""
        return self.folder / "scores" / f"{config}.npz"

    def ablation(self, name: str) -> Path:
        """Where an ablation's scores are."""
        return self.folder / "ablations" / f"{name}.npz"


@dataclass(frozen=True)
class Ablation:
    """A model trained once more, with one thing changed.

    Attributes:
        name: Of its work dir and its scores.
        text: What is left out.
        training: The model that it is compared with.
        options: The change, key -> value at crops of ``c`` pixels.
        Q: The test's scale.
    """

    name: str
    text: str
    training: Training
    options: dict[str, object]
    Q: int


def ablations(crop: int) -> tuple[Ablation, ...]:
    """PCA lighting and scale jitter, each left out of one model."""
    pipeline = "train_dataloader.dataset.dataset.pipeline"
    return (
        Ablation(
            "vgg11_a_256_no_lighting",
            "net A, S = 256, without PCA lighting",
            ("A", 256),
            {f"{pipeline}.1.std": 0.0},
            256,
        ),
        Ablation(
            "vgg16_d_jitter_no_jitter",
            "net D from its S = 384 model, as long as with jitter, at S = 384 still",
            ("D", S_JITTER),
            {f"{pipeline}.0.S": scaled(384, crop)},
            384,
        ),
    )


@dataclass(frozen=True)
class Step:
    """A command of the plan.

    Attributes:
        kind: ``train`` or ``test``.
        name: What it makes.
        run: The run that it belongs to.
        tool: The command up to what it starts from.
        start: What a training starts from; ``--resume`` takes its place.
        rest: The remaining arguments.
        needs: The step of the run without whose checkpoint it cannot start.
        work: Multiply-adds, backward passes included.
        work_dir: A training's.
        epochs: A training's.
        iterations: All of a training's.
    """

    kind: str
    name: str
    run: Run
    tool: Sequence[str]
    start: Sequence[str] = ()
    rest: Sequence[str] = ()
    needs: Step | None = field(default=None, compare=False, repr=False)
    work: float = field(default=0, compare=False)
    work_dir: Path | None = None
    epochs: int = 0
    iterations: int = 0

    @property
    def marker(self) -> Path:
        """The file that says that the step is done."""
        return self.run.folder / "steps" / f"{self.kind}_{self.name}.json"

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.marker.with_suffix(".log")

    def result(self) -> dict | None:
        """What it left when it was done: its ``seconds``, and if it ran in one go (``whole``)."""
        try:
            return json.loads(self.marker.read_text())
        except FileNotFoundError:
            return None

    def share_trained(self) -> float:
        """How much of a training its newest checkpoint has behind it, from 0 to 1."""
        try:
            newest = Path(self.work_dir, "last_checkpoint").read_text()
            unit, count = Path(newest.strip()).stem.split("_")
        except (TypeError, FileNotFoundError, ValueError):  # a test, or no checkpoint yet
            return 0.0
        return min(1.0, int(count) / (self.epochs if unit == "epoch" else self.iterations))

    def command(self, resume: bool = False) -> list[str]:
        """The command, as one would type it."""
        return [*self.tool, *(["--resume"] if resume else self.start), *self.rest]

    def __str__(self) -> str:
        return shlex.join(self.command())


def make_plan(
    scale: Scale, runs: Sequence[Run], processes: int = 1, archs: Sequence[str] | None = None
) -> list[Step]:
    """All steps, in an order in which each finds what it needs.

    Args:
        scale: The sizes.
        runs: The seeds and folds; one after the other.
        processes: GPUs, or CPU processes, that share each command.
        archs: The nets to take, net A among them; default: all.
    """
    return [
        step
        for run in runs
        for step in _run_steps(scale, run, processes)
        if archs is None or _arch(step) in archs
    ]


def _arch(step: Step) -> str:
    name = step.name.split("_")
    return "A-LRN" if name[2] == "lrn" else name[1].upper()


def _run_steps(scale: Scale, run: Run, processes: int) -> Iterator[Step]:
    trained: dict[Training, Step] = {}
    for training in TRAININGS:
        config = config_name(*training)
        before = trained.get(_before(*training))
        trained[training] = _train(scale, run, processes, training, config, before)
        yield trained[training]
        views, scales = scores_needed(*training)
        out = run.scores(config)
        yield _test(scale, run, processes, training, trained[training], views, scales, out)
    for ablation in ablations(scale.crop):
        training, name = ablation.training, ablation.name
        before = trained.get(_before(*training))
        step = _train(scale, run, processes, training, name, before, ablation.options)
        yield step
        out = run.ablation(name)
        yield _test(scale, run, processes, training, step, "dense", [ablation.Q], out)


def _before(arch: str, S: Side) -> Training | None:
    """Net A and A-LRN start new, other nets from net A, a larger S from the next smaller one."""
    if S == 256:
        return None if arch in ("A", "A-LRN") else ("A", 256)
    return (arch, 256 if S == 384 else 384)


def _tool(name: str, processes: int, *arguments: str) -> list[str]:
    if processes == 1:
        return ["python", os.path.relpath(ROOT / f"tools/{name}.py"), *arguments]
    return [os.path.relpath(ROOT / f"tools/dist_{name}.sh"), *arguments, str(processes)]


def _train(
    scale: Scale,
    run: Run,
    processes: int,
    training: Training,
    name: str,
    before: Step | None,
    further: dict[str, object] | None = None,
) -> Step:
    config, work_dir = config_file(*training), run.work_dir(name)
    changes = options(scale, *training, run.data, run.seed, processes, further)
    where = [] if work_dir == Path("work_dirs", Path(config).stem) else ["--work-dir", work_dir]
    images = run.data.train * scale.epochs
    start = []
    if before:
        option = "--init-from-a" if training[1] == 256 else "--start-from"
        start = [option, str(before.work_dir / "best.pth")]
    return Step(
        *("train", name, run, _tool("train", processes, config), start),
        rest=[*map(str, where), *as_arguments(changes)],
        needs=before,
        work=3 * images * multiply_adds(scale, training[0], scale.crop, run.data.classes),
        work_dir=work_dir,
        epochs=scale.epochs,
        iterations=scale.epochs * (run.data.train // scale.batch),
    )


def _test(
    scale: Scale,
    run: Run,
    processes: int,
    training: Training,
    trained: Step,
    views: str,
    scales: Sequence[int],
    out: Path,
) -> Step:
    config, crop, name = config_file(*training), scale.crop, trained.name
    sides = [scaled(Q, crop) for Q in scales]
    changes = {
        key: value
        for key, value in options(scale, *training, run.data).items()
        if key.startswith(FOR_TESTS)
    }
    best = trained.work_dir / "best.pth"
    arguments = ["--views", views, "--scales", *map(str, sides), "--out", str(out)]
    if changes:  # the log's folder
        arguments += ["--work-dir", str(run.folder / "tests" / name)]
    work = sum(
        view_work(scale, training[0], view, side, run.data.classes)
        for view in VIEWS[views]
        for side in sides
    )
    return Step(
        *("test", name, run, _tool("test", processes, config, str(best))),
        rest=[*arguments, *as_arguments(changes)],
        needs=trained,
        work=run.data.val * work,
    )


def view_work(scale: Scale, arch: str, view: str, side: int, classes: int) -> int:
    """The multiply-adds of a view of one image, square and of that side, and of its mirror image.

    Args:
        scale: The sizes.
        arch: The net.
        view: ``dense`` or ``crops``.
        side: Q in pixels.
        classes: Outputs of fc8.
    """
    if view == "dense":
        return 2 * multiply_adds(scale, arch, side, classes)
    return 2 * 25 * multiply_adds(scale, arch, scale.crop, classes)


@cache
def _multiply_adds(
    arch: str, width: int, channels: int, kernel: int, side: int, classes: int
) -> int:
    from mmengine.registry import init_default_scope

    init_default_scope("mmpretrain")
    head = dict(in_channels=8 * width, channels=channels, kernel_size=kernel, num_classes=classes)
    model = build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch=arch, width=width),
            head=dict(type="vgg_mm.VGGHead", **head),
        )
    )
    return total(describe(model, side, side), "multiply_adds")


def multiply_adds(scale: Scale, arch: str, side: int, classes: int) -> int:
    """The multiply-adds of net ``arch`` over an image of ``side`` x ``side`` pixels."""
    return _multiply_adds(arch, scale.width, scale.channels, scale.kernel, side, classes)


def step_config(scale: Scale, run: Run, training: Training) -> Config:
    """The config of a model of a run, with all that the plan changes in it."""
    cfg = Config.fromfile(config_file(*training))
    cfg.merge_from_dict(options(scale, *training, run.data, run.seed))
    return cfg
