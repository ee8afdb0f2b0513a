"""How large the paper is to be: sizes, and what they change in the paper's configs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config

from tools.reproduce.images import Data
from vgg_mm.paper import config_name, scaled, stages

ROOT = Path(__file__).parents[2]

# Small images on a CPU: decoded once, read by the training process itself.
SMALL = {
    "model.backbone.channels_last": True,
    "model.head.channels_last": True,
    "train_dataloader.dataset.dataset.pipeline.0.in_memory": True,
    **{
        f"{loader}.{key}": value
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader")
        for key, value in (("num_workers", 0), ("persistent_workers", False))
    },
    # The input as in configs/demo.py: with the mean alone so narrow a net wants a lower rate.
    "model.data_preprocessor.std": [60, 60, 60],
    # The paper's 0.01 suits layers of 64 to 512 channels; narrower ones let no signal pass. From
    # Glorot's too it fades on its way, and so narrow a net E often does not start to learn.
    "init_from_a_std": None,
    "model.backbone.init_cfg.type": "Kaiming",
    "model.backbone.init_cfg.layer": "Conv2d",
    # Of so small a step the plain one takes a tenth on a CPU.
    "optim_wrapper.optimizer.fused": True,
    "default_hooks.checkpoint.minutes": 1,
}

# What the paper's configs leave to the nets' defaults.
DEFAULTS = {
    "model.backbone.width": 64,
    "model.head.in_channels": 512,
    "model.head.channels": 4096,
    "model.head.kernel_size": 7,
}


@dataclass(frozen=True)
class Scale:
    """The paper's sizes in the ratio of ``crop`` to 224, and the recipe at that size.

    S, Q and fc6's kernel follow from ``crop`` (:func:`vgg_mm.paper.scaled`).

    Attributes:
        name: What ``--scale`` calls it.
        crop: The crops' side in pixels, a multiple of 32.
        width: Channels of stage 1.
        channels: Outputs of fc6 and fc7.
        batch: Images a step, over all processes.
        lr: The initial learning rate; a model that goes on from another starts at a tenth of it.
        epochs: How long each model is trained, at most.
        plateau: Whether the rate falls on plateaus of the validation accuracy, as the paper's. Else
            it falls at 75% and 93% of the time, and the validation images are looked at once, at
            the end: nothing is chosen on them.
        data: Where the images are; None: scenes, which are drawn.
        chosen: How the recipe was chosen, for the report.
        options: Further settings of the configs, key -> value.
    """

    name: str
    crop: int
    width: int
    channels: int
    batch: int
    lr: float
    epochs: int
    plateau: bool = False
    data: str | None = None
    chosen: str = ""
    options: dict = field(default_factory=dict, hash=False)

    @property
    def kernel(self) -> int:
        """The side of fc6's kernel."""
        return self.crop // 2 ** len(stages("A"))  # a pool a stage


_CHOSEN = (
    "The recipe is the same for all nets, and every net sees the same number of images. `--choose` "
    "tries it with nets A and E on images of their own; those that are tested on have no part in "
    "it. The convs start from He's initialisation: from Glorot's, the paper's, so "
    "narrow a net E often does not start to learn."
)
_NARROW = dict(width=16, channels=256, batch=16, lr=5e-3, epochs=90, chosen=_CHOSEN, options=SMALL)
SCALES = {
    scale.name: scale
    for scale in (
        Scale("mini", crop=32, **_NARROW),
        Scale("small", crop=64, **_NARROW),
        Scale(
            "imagenet",
            crop=224,
            width=64,
            channels=4096,
            batch=256,
            lr=1e-2,
            epochs=74,
            plateau=True,
            data="data/imagenet",
            chosen="The recipe is the paper's (Sec. 3.1).",
        ),
    )
}


def config_file(arch: str, S: int | tuple[int, int]) -> str:
    """The config that trains net ``arch`` at the paper's ``S``, as one would type it."""
    return os.path.relpath(ROOT / "configs" / f"{config_name(arch, S)}.py")


def options(
    scale: Scale,
    arch: str,
    S: int | tuple[int, int],
    data: Data,
    seed: int = 0,
    processes: int = 1,
    further: dict | None = None,
) -> dict[str, object]:
    """What differs from the paper's config: keys and values for ``--cfg-options``.

    Args:
        scale: The sizes and the recipe.
        arch: The net.
        S: The paper's.
        data: The images.
        seed: Of all random numbers.
        processes: How many share a batch.
        further: More settings, which win.
    """
    cfg = _papers(config_file(arch, S))
    c, train = scale.crop, "train_dataloader.dataset.dataset"
    s, q = scaled(S, c), scaled(cfg.Q, c)
    wanted: dict[str, object] = {
        "S": s,
        "Q": q,
        "model.backbone.width": scale.width,
        "model.head.in_channels": 8 * scale.width,
        "model.head.channels": scale.channels,
        "model.head.kernel_size": scale.kernel,
        "model.head.num_classes": data.classes,
        "train_dataloader.batch_size": scale.batch // processes,
        f"{train}.pipeline.0.S": s,
        f"{train}.pipeline.0.size": c,
        "val_dataloader.dataset.pipeline.1.Q": q,
        "val_dataloader.dataset.pipeline.2.size": c,
        "tta_pipeline.1.scales": [q],
        "tta_model.crop_size": c,
        "optim_wrapper.optimizer.lr": scale.lr,
        "start_from_lr": scale.lr / 10,
        "train_cfg.max_epochs": scale.epochs,
        "randomness.seed": seed,
    }
    for dataset in (train, "val_dataloader.dataset", "test_dataloader.dataset"):
        wanted |= {f"{dataset}.type": data.type, f"{dataset}.data_root": data.root}
    if data.mean:
        wanted["model.data_preprocessor.mean"] = list(data.mean)
        wanted[f"{train}.pipeline.1.eigval"] = list(data.eigval)
        wanted[f"{train}.pipeline.1.eigvec"] = [list(row) for row in data.eigvec]
    if not scale.plateau:
        drops = [round(share * scale.epochs) for share in (0.75, 0.93)]
        wanted |= {
            "train_cfg.val_interval": scale.epochs,
            "default_hooks.checkpoint.interval": max(1, scale.epochs // 10),
            "param_scheduler._delete_": True,
            "param_scheduler.type": "MultiStepLR",
            "param_scheduler.milestones": drops,
        }
    wanted |= scale.options | (further or {})
    return {key: value for key, value in wanted.items() if _get(cfg, key) != value}


@cache
def _papers(file: str) -> Config:
    return Config.fromfile(file)


def _get(cfg: Config, key: str) -> object:
    """The config's value of a dotted key, or the net's default; Ellipsis where it has none."""
    value = cfg
    try:
        for part in key.split("."):
            value = value[int(part) if isinstance(value, list) else part]
    except KeyError:
        return DEFAULTS.get(key, Ellipsis)
    return value


def as_arguments(options: dict[str, object]) -> Sequence[str]:
    """The options as one would type them."""
    pairs = (f"{key}={value}".replace(" ", "").replace("'", "") for key, value in options.items())
    return ["--cfg-options", *pairs] if options else []
