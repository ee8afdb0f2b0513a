"""The steps of a reproduction: every command, in the chain's order (Sec. 3.1)."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from tools.analysis.layers import LayerInfo, build, describe, total
from tools.analysis.stored import scores_needed
from tools.reproduce.scales import Scale
from vgg_mm.paper import TRAININGS, Side, box_config_name, config_name, scaled
from vgg_mm.testing.evaluation import VIEWS

ROOT = Path(__file__).parents[2]
DRAWN = 300  # scenes a second, for the time left
TRAIN = "train_dataloader.dataset.dataset"


class Model(NamedTuple):
    """A model to train and to test.

    Attributes:
        name: Of its config and its work dir.
        arch: The net.
        S: The paper's.
        start: The model that it starts from, net A's with its layers, its like's with all; empty:
            random weights.
        views: The test's.
        Q: The test's scales, the paper's.
        boxes: Whether it predicts boxes (Appendix A).
        options: Further settings, key -> value.
    """

    name: str
    arch: str
    S: Side
    start: str
    views: str
    Q: tuple[int, ...]
    boxes: bool = False
    options: dict = {}  # noqa: RUF012

    @property
    def fine(self) -> bool:
        """Whether it goes on from its like."""
        return bool(self.start) and self.start != A

    @property
    def leaf(self) -> str:
        """The config that it is a variant of."""
        return (
            box_config_name(self.S)
            if self.boxes and isinstance(self.S, int)
            else config_name(self.arch, self.S)
        )


A, D_256, D_384 = (config_name(arch, S) for arch, S in (("A", 256), ("D", 256), ("D", 384)))


def models(scale: Scale) -> list[Model]:
    """What is trained with each seed: Table 3's, the controls of the claims, nets of boxes.

    Net A and A-LRN start new, other nets from net A, a larger S from the next smaller one.
    """
    found = []
    for arch, S in TRAININGS:
        views, scales = scores_needed(arch, S)
        if views == "both" and arch not in scale.multi_crop:
            views = "dense"
        start = config_name(arch, 256 if S == 384 else 384)
        if S == 256:
            start = "" if arch in ("A", "A-LRN") else A
        found.append(Model(config_name(arch, S), arch, S, start, views, tuple(scales)))
    one = ("dense", (256,))
    fc = {"model.backbone.frozen_stages": 5}
    boxes = ("D", 384, D_384, "dense", (384,), True)
    return [
        *found,
        Model("vgg11_a_256_unlit", "A", 256, "", *one, options={f"{TRAIN}.pipeline.1.std": 0.0}),
        Model("vgg11_a_256_twice", "A", 256, A, *one),
        Model("vgg8_b_5x5_256", "B-5x5", 256, "", *one),
        Model("vgg13_b_256_new", "B", 256, "", *one),
        Model("vgg19_e_256_new", "E", 256, "", *one),
        Model("vgg16_d_256_thrice", "D", 256, D_384, *one),
        Model("vgg16_d_384_twice", "D", 384, D_384, "dense", (384,)),
        Model(f"{D_384}_boxes", *boxes),
        Model(f"{D_384}_boxes_fc", *boxes, options=fc),
        Model(f"{D_384}_boxes_scr_fc", *boxes, options=fc | {"model.head.per_class": False}),
        Model(f"{D_256}_boxes", "D", 256, D_256, *one, boxes=True),
    ]


def passes(scale: Scale) -> dict[str, int]:
    """How many each model has had, with those of the nets that it starts from."""
    found = {"": 0}
    for model in models(scale):
        own = scale.fine_passes if model.fine else scale.passes
        found[model.name] = found[model.start] + own
    return found


class BoxTest(NamedTuple):
    """A test 2: the nets whose boxes are merged, each as its name and Q."""

    name: str
    nets: tuple[tuple[str, tuple[int, ...]], ...]


_TWO = (f"{D_384}_boxes", (352, 384))
BOX_TESTS = (
    BoxTest("one_scale", ((f"{D_384}_boxes", (384,)),)),
    BoxTest("two_scales", (_TWO,)),
    BoxTest("two_nets", (_TWO, (f"{D_256}_boxes", (256,)))),
)


@dataclass(frozen=True)
class Step:
    """A command of the plan. It goes on where it was when it is typed again.

    Attributes:
        name: What it makes.
        folder: The seed's, in which it works.
        command: As one would type it.
        needs: The steps that come before.
        work: Multiply-adds, backward passes included.
        config: The text of the config that it is of.
        makes: What must be there besides the marker, for the step to be done.
        trial: Whether it may diverge, which then is its result.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    needs: tuple[Step, ...] = field(default=(), compare=False, repr=False)
    work: float = field(default=0, compare=False)
    config: str = field(default="", compare=False, repr=False)
    makes: Path | None = field(default=None, compare=False)
    trial: bool = field(default=False, compare=False)

    @property
    def marker(self) -> Path:
        """The file that says that the step is done: its ``seconds``."""
        return self.folder / "steps" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.marker.with_suffix(".log")

    @property
    def config_file(self) -> Path:
        """Where its config is written."""
        return _config(self.folder, self.name)

    @property
    def done(self) -> bool:
        """Whether it need not run."""
        return self.marker.exists() and (self.makes is None or self.makes.exists())

    def result(self) -> dict | None:
        """What it left when it was done: its ``seconds``, and if it ran in one go (``whole``)."""
        return json.loads(self.marker.read_text()) if self.done else None

    @property
    def diverged(self) -> bool:
        """Whether it is a trial that came to numbers that are none, or whose start did."""
        return bool((self.result() or {}).get("diverged"))

    def __str__(self) -> str:
        return shlex.join(self.command)


def _config(folder: Path, name: str) -> Path:
    return folder / "configs" / f"{name}.py"


def work_dir(folder: Path, name: str) -> Path:
    """Where a model is trained, and its ``scores.npz`` or ``true_class.npz``."""
    return folder / "work_dirs" / name


def box_guesses(folder: Path, name: str) -> Path:
    """Where a test 2's guesses are."""
    return folder / "boxes" / f"{name}.npz"


def make_plan(
    scale: Scale,
    root: Path,
    seeds: int,
    lr: float | None = None,
    processes: int = 1,
    data: str = "data/imagenet",
) -> list[Step]:
    """All steps, in an order in which each finds what it needs.

    Args:
        scale: The sizes.
        root: The reproduction's folder.
        seeds: How often all is trained, each time on scenes of its own.
        lr: The learning rate; default: the scale's.
        processes: GPUs that share each command.
        data: Where ILSVRC is, if it is that.
    """
    steps: list[Step] = []
    for seed in range(seeds):
        folder = root / f"seed{seed}"
        drawn, where = [], {"": data}
        if scale.scenes:
            train, val, test = scale.scenes.images
            images = (train, val, 0 if seed else test)
            drawn = [_drawing(scale, folder, seed, images), *steps[: seed > 0]]
            where = {"": f"{folder}/data", "test": f"{root}/seed0/data"}
        trained = _trainings(scale, folder, seed, lr or scale.lr, processes, where, drawn)
        steps += [*drawn[:1], *trained.values()]
        steps += _box_tests(scale, folder, trained, processes)
    return steps


TRIED = (A, config_name("E", 256))


def trial_folder(root: Path, lr: float) -> Path:
    """Where a rate is tried."""
    return root / f"trial_{lr:g}"


def trial_plan(scale: Scale, root: Path, lr: float) -> list[Step]:
    """Trains the shallowest net, and the deepest from its layers, on the first seed's first scenes.

    A scene is a function of its number: so many of them are a part of the first seed's.
    """
    if not scale.scenes:
        return []
    drawn = _drawing(scale, root / "trial", 0, (scale.trial, scale.scenes.images[1], 0))
    further = {
        "test_dataloader.dataset.split": "val",
        "tta_pipeline.1.scales": [scaled(256, scale.crop)],
    }
    folder, where = trial_folder(root, lr), {"": f"{root}/trial/data"}
    return [drawn, *_trainings(scale, folder, 0, lr, 1, where, [drawn], TRIED, further).values()]


def _drawing(scale: Scale, folder: Path, seed: int, images: tuple[int, int, int]) -> Step:
    assert scale.scenes
    numbers = dict(zip(("images", "val-images", "test-images"), images, strict=True))
    numbers |= {"classes": scale.scenes.classes, "seed": seed, "jobs": 1}
    options = [word for key, value in numbers.items() for word in (f"--{key}", str(value))]
    ends = sorted({scale.scenes.shorts[0], scale.scenes.shorts[-1]})
    command = [*_tool("data/make_scenes", 1, str(folder / "data")), *options, "--short"]
    command += map(str, ends)
    work, data = sum(images) / DRAWN * scale.speed, folder / "data"
    return Step("scenes", folder, tuple(command), work=work, makes=data)


def _tool(name: str, processes: int, *arguments: str) -> list[str]:
    if processes == 1:
        return ["python", os.path.relpath(ROOT / f"tools/{name}.py"), *arguments]
    return [os.path.relpath(ROOT / f"tools/dist_{name}.sh"), *arguments, str(processes)]


def _trainings(
    scale: Scale,
    folder: Path,
    seed: int,
    lr: float,
    processes: int,
    where: dict[str, str],
    drawn: Sequence[Step],
    names: Sequence[str] = (),
    further: dict | None = None,
) -> dict[str, Step]:
    """The steps of all models, or of some; ``where`` has the images' roots, '' that of all else."""
    steps: dict[str, Step] = {}
    for model in models(scale):
        if names and model.name not in names:
            continue
        changes = options(scale, model, lr, processes) | {"randomness.seed": seed}
        for loader, split in (
            (TRAIN, "train"),
            ("val_dataloader", "val"),
            ("test_dataloader", "test"),
        ):
            dataset = loader if split == "train" else f"{loader}.dataset"
            changes[f"{dataset}.data_root"] = where.get(split, where[""])
            if scale.scenes:
                kind = "vgg_mm.FolderBoxes" if model.boxes else "vgg_mm.Folders"
                changes |= {f"{dataset}.type": kind, f"{dataset}.split": split}
        cfg = deepcopy(_leaf(model.leaf))
        cfg.merge_from_dict(changes | model.options | (further or {}))
        before = steps.get(model.start)
        start = []
        if before:
            option = "--start-from" if model.fine else "--init-from-a"
            start = [option, str(work_dir(folder, model.start) / "best.pth")]
        file, made = str(_config(folder, model.name)), str(work_dir(folder, model.name))
        given = cfg.to_dict()
        steps[model.name] = Step(
            model.name,
            folder,
            (*_tool("train", processes, file), "--resume", *start, "--work-dir", made),
            needs=(*drawn, before) if before else tuple(drawn),
            work=_work(scale, model, given),
            config="".join(f"{key} = {value!r}\n" for key, value in given.items()),
            trial=bool(further),
        )
    return steps


@cache
def _leaf(name: str) -> Config:
    return Config.fromfile(ROOT / "configs" / f"{name}.py")


def options(scale: Scale, model: Model, lr: float, processes: int = 1) -> dict[str, object]:
    """What a model's sizes and recipe change in its leaf, data and seed aside."""
    c = scale.crop
    s, q = scaled(model.S, c), scaled(_leaf(model.leaf).Q, c)
    wanted: dict[str, object] = {
        "S": s,
        "Q": q,
        "model.backbone.width": scale.width,
        "model.backbone.pool_strides": [*[2] * scale.pools, *[None] * (5 - scale.pools)],
        "model.head.in_channels": 8 * scale.width,
        "model.head.channels": scale.channels,
        "model.head.kernel_size": scale.kernel,
        "train_dataloader.batch_size": scale.batch // processes,
        f"{TRAIN}.pipeline.0.S": s,
        f"{TRAIN}.pipeline.0.size": c,
        "val_dataloader.dataset.pipeline.1.Q": q,
        "val_dataloader.dataset.pipeline.2.size": c,
        "test_dataloader.dataset.pipeline.1.Q": q,
        "test_dataloader.dataset.pipeline.2.size": c,
        "tta_pipeline.1.scales": [scaled(Q, c) for Q in model.Q],
        "optim_wrapper.optimizer.lr": lr,
        "start_from_lr": lr / 10,
        "train_cfg.max_epochs": scale.fine_passes if model.fine else scale.passes,
    }
    if scale.full_passes:
        wanted |= {
            "param_scheduler._delete_": True,
            "param_scheduler.type": "MultiStepLR",
            "param_scheduler.milestones": [] if model.fine else [scale.full_passes],
        }
    if scale.scenes:
        wanted["model.head.num_classes"] = scale.scenes.classes
    if model.boxes:
        wanted["model.head.crop_size"] = c
    else:
        wanted |= {"tta_model.crop_size": c, "tta_model.views": model.views}
    wanted |= scale.options
    if model.boxes and scale.scenes:  # as in configs/demo_boxes.py
        wanted |= {"start_from_lr": 0.1}
        wanted["optim_wrapper.clip_grad"] = dict(max_norm=1)
    return wanted


def _box_tests(scale: Scale, folder: Path, trained: dict[str, Step], processes: int) -> list[Step]:
    steps = []
    for test in BOX_TESTS:
        (name, Q), *others = test.nets
        nets = [
            [str(_config(folder, net)), str(work_dir(folder, net) / "best.pth")]
            for net, _ in test.nets
        ]
        sides = [[str(scaled(side, scale.crop)) for side in sides] for _, sides in test.nets]
        command = _tool("test", processes, *nets[0])
        command += ["--scales", *sides[0]]
        command += ["--scores", str(work_dir(folder, D_384) / "scores.npz")]
        for net, scales in zip(nets[1:], sides[1:], strict=True):
            command += ["--with", *net, *scales]
        command += ["--out", str(box_guesses(folder, test.name))]
        command += ["--work-dir", str(folder / "tests" / test.name)]
        work = 2 * _images(scale)[2] * sum(_whole(scale, "D", q) for _, qs in test.nets for q in qs)
        needs = (trained[D_384], *(trained[net] for net, _ in test.nets))
        steps.append(Step(f"boxes_{test.name}", folder, tuple(command), needs, work))
    return steps


def _images(scale: Scale) -> tuple[int, int, int]:
    return scale.scenes.images if scale.scenes else (1_281_167, 0, 50_000)


def _work(scale: Scale, model: Model, cfg: dict) -> float:
    """Multiply-adds of a training, whose backward passes are two forward ones, and its test."""
    images, _, tested = _images(scale)
    if cfg["test_dataloader"]["dataset"]["split"] == "val" and scale.scenes:  # a trial
        images, tested = scale.trial, scale.scenes.images[1]
    crop = multiply_adds(scale, model.arch, scale.crop, scale.crop)
    backward = 0.5 if "model.backbone.frozen_stages" in model.options else 2
    trained = (1 + backward) * images * cfg["train_cfg"]["max_epochs"] * crop
    if model.boxes:
        return trained
    work = {
        "dense": sum(_whole(scale, model.arch, Q) for Q in model.Q),
        "crops": 25 * len(model.Q) * crop,
    }
    return trained + 2 * tested * sum(work[view] for view in VIEWS[model.views])


def _whole(scale: Scale, arch: str, Q: int) -> int:
    short = scaled(Q, scale.crop)
    assert isinstance(short, int)
    return multiply_adds(scale, arch, short, round(short * 4 / 3))


def multiply_adds(scale: Scale, arch: str, height: int, width: int) -> int:
    """The multiply-adds of net ``arch`` over an image."""
    return total(layers(scale, arch, height, width), "multiply_adds")


@cache
def layers(scale: Scale, arch: str, height: int, width: int) -> list[LayerInfo]:
    """The layers of net ``arch`` as an image meets them."""
    init_default_scope("mmpretrain")
    strides = [*[2] * scale.pools, *[None] * (5 - scale.pools)]
    backbone = dict(type="vgg_mm.VGG", arch=arch, width=scale.width, pool_strides=strides)
    head = dict(
        type="vgg_mm.VGGHead",
        num_classes=scale.scenes.classes if scale.scenes else 1000,
        in_channels=8 * scale.width,
        channels=scale.channels,
        kernel_size=scale.kernel,
    )
    model = build(dict(type="ImageClassifier", backbone=backbone, head=head))
    return describe(model, height, width)
