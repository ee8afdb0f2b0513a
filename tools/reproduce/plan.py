"""The steps of a reproduction: every command, in the chain's order (Sec. 3.1)."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from tools.analysis.layers import build, describe, total
from tools.analysis.stored import scores_needed
from tools.reproduce.images import Data
from tools.reproduce.scales import ROOT, Scale, as_arguments, config_file, options
from vgg_mm.paper import S_JITTER, TRAININGS, Side, Training, config_name, scaled
from vgg_mm.testing.evaluation import VIEWS

# The settings that a test looks at: of the net, the images, and S and Q for its scores.
FOR_TESTS = ("S", "Q", "model", "test_", "tta_")


@dataclass(frozen=True)
class Run:
    """One training of all models: a seed, and a split of the images.

    Its folder looks as if its commands had been typed there: ``work_dirs/CONFIG`` and
    ``scores/CONFIG.npz``.
    """

    data: Data
    folder: Path
    fold: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """What to call it."""
        return f"fold {self.fold}, seed {self.seed}"

    def work_dir(self, name: str) -> Path:
        """Where a model is trained."""
        return self.folder / "work_dirs" / name

    def scores(self, model: Model) -> Path:
        """Where a model's scores are."""
        return self.folder / ("ablations" if model.ablation else "scores") / f"{model.name}.npz"


@dataclass(frozen=True)
class Model:
    """A model to train, and the one test that its scores come from.

    Attributes:
        name: Of its work dir and its scores.
        training: The net and its S.
        views: The test's.
        scales: The test's Q.
        ablation: What is left out of the model of Table 3 that it is compared with; empty: nothing.
        options: How it is left out, key -> value.
    """

    name: str
    training: Training
    views: str
    scales: tuple[int, ...]
    ablation: str = ""
    options: dict[str, object] = field(default_factory=dict)


MODELS = tuple(
    Model(config_name(*training), training, views, tuple(scales))
    for training in TRAININGS
    for views, scales in [scores_needed(*training)]
)


def ablations(crop: int) -> tuple[Model, ...]:
    """PCA lighting and scale jitter, each left out of one model, at crops of ``crop`` pixels."""
    pipeline = "train_dataloader.dataset.dataset.pipeline"
    return (
        Model(
            "vgg11_a_256_no_lighting",
            training=("A", 256),
            views="dense",
            scales=(256,),
            ablation="net A, S = 256, without PCA lighting",
            options={f"{pipeline}.1.std": 0.0},
        ),
        Model(
            "vgg16_d_jitter_no_jitter",
            training=("D", S_JITTER),
            views="dense",
            scales=(384,),
            ablation="net D from its S = 384 model, as long as with jitter, at S = 384 still",
            options={f"{pipeline}.0.S": scaled(384, crop)},
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
    steps: list[Step] = []
    for run in runs:
        trained: dict[Training, Step] = {}
        for model in (*MODELS, *ablations(scale.crop)):
            if archs is None or model.training[0] in archs:
                train = _train(scale, run, processes, model, trained.get(_before(*model.training)))
                trained.setdefault(model.training, train)
                steps += [train, _test(scale, run, processes, model, train)]
    return steps


def _before(arch: str, S: Side) -> Training | None:
    """Net A and A-LRN start new, other nets from net A, a larger S from the next smaller one."""
    if S == 256:
        return None if arch in ("A", "A-LRN") else ("A", 256)
    return (arch, 256 if S == 384 else 384)


def _tool(name: str, processes: int, *arguments: str) -> list[str]:
    if processes == 1:
        return ["python", os.path.relpath(ROOT / f"tools/{name}.py"), *arguments]
    return [os.path.relpath(ROOT / f"tools/dist_{name}.sh"), *arguments, str(processes)]


def _train(scale: Scale, run: Run, processes: int, model: Model, before: Step | None) -> Step:
    arch, S = model.training
    config, work_dir = config_file(arch, S), run.work_dir(model.name)
    changes = options(scale, arch, S, run.data, run.seed, processes, model.options)
    where = [] if work_dir == Path("work_dirs", Path(config).stem) else ["--work-dir", work_dir]
    start = []
    if before:
        option = "--init-from-a" if S == 256 else "--start-from"
        start = [option, str(before.work_dir / "best.pth")]
    an_image = multiply_adds(scale, arch, scale.crop, run.data.classes)
    return Step(
        kind="train",
        name=model.name,
        run=run,
        tool=_tool("train", processes, config),
        start=start,
        rest=[*map(str, where), *as_arguments(changes)],
        needs=before,
        work=3 * run.data.train * scale.epochs * an_image,
        work_dir=work_dir,
        epochs=scale.epochs,
        iterations=scale.epochs * (run.data.train // scale.batch),
    )


def _test(scale: Scale, run: Run, processes: int, model: Model, trained: Step) -> Step:
    arch, S = model.training
    sides = [scaled(Q, scale.crop) for Q in model.scales]
    changes = options(scale, arch, S, run.data)
    changes = {key: value for key, value in changes.items() if key.startswith(FOR_TESTS)}
    arguments = ["--views", model.views, "--scales", *map(str, sides)]
    arguments += ["--out", str(run.scores(model))]
    if changes:  # the log's folder
        arguments += ["--work-dir", str(run.folder / "tests" / model.name)]

    def an_image(side: int) -> int:
        return multiply_adds(scale, arch, side, run.data.classes)

    work = {"dense": sum(map(an_image, sides)), "crops": 25 * len(sides) * an_image(scale.crop)}
    return Step(
        kind="test",
        name=model.name,
        run=run,
        tool=_tool("test", processes, config_file(arch, S), str(trained.work_dir / "best.pth")),
        rest=[*arguments, *as_arguments(changes)],
        needs=trained,
        work=2 * run.data.val * sum(work[view] for view in VIEWS[model.views]),  # 2: the mirror's
    )


@cache
def multiply_adds(scale: Scale, arch: str, side: int, classes: int) -> int:
    """The multiply-adds of net ``arch`` over an image of ``side`` x ``side`` pixels."""
    init_default_scope("mmpretrain")
    head = dict(in_channels=8 * scale.width, channels=scale.channels, kernel_size=scale.kernel)
    model = build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch=arch, width=scale.width),
            head=dict(type="vgg_mm.VGGHead", num_classes=classes, **head),
        )
    )
    return total(describe(model, side, side), "multiply_adds")


def step_config(scale: Scale, run: Run, training: Training) -> Config:
    """The config of a model of a run, with all that the plan changes in it."""
    cfg = Config.fromfile(config_file(*training))
    cfg.merge_from_dict(options(scale, *training, run.data, run.seed))
    return cfg
