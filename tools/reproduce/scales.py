"""How large the paper is to be: its geometry divided by a factor, and the recipe at that size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vgg_mm.data.scenes import Settings
from vgg_mm.paper import ROWS

# Narrow nets on a CPU, one thread a process.
NARROW = {
    "model.backbone.channels_last": True,
    "model.head.channels_last": True,
    **{
        f"{loader}.{key}": value
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader")
        for key, value in (("num_workers", 0), ("persistent_workers", False))
    },
    # The input as in configs/demo.py: with the mean alone so narrow a net wants a lower rate.
    "model.data_preprocessor.mean": [127, 127, 127],
    "model.data_preprocessor.std": [60, 60, 60],
    # The paper's 0.01 suits layers of 64 to 512 channels; through narrower ones no signal passes.
    "init_from_a_std": None,
    "model.backbone.init_cfg": dict(type="Kaiming", layer="Conv2d"),
    # So narrow a net learns no images by heart in eight passes: with dropout net A's error after a
    # trial was more than twice as large.
    "model.head.dropout": 0,
    "default_hooks.checkpoint.minutes": 2,
    "default_hooks.checkpoint.keep": 1,
}
# Decoded once: 0.8 GB for the 30,000 small scenes, in each of the processes side by side.
IN_MEMORY = {"train_dataloader.dataset.dataset.pipeline.0.in_memory": True}


@dataclass(frozen=True)
class Scale:
    """The paper's lengths in the ratio of ``crop`` to 224, and the recipe at that size.

    S and Q follow from ``crop`` (:func:`vgg_mm.paper.scaled`), the side of fc6's kernel from
    ``crop`` and ``pools``.

    Attributes:
        name: What ``--scale`` calls it.
        crop: The crops' side in pixels.
        pools: How many of the stages end in a pool, the first ones.
        width: Channels of stage 1.
        channels: Outputs of fc6 and fc7.
        batch: Images a step, over all processes.
        lr: The rate of nets that start new or from net A, where no trial says another; a model
            that goes on from its like starts at a tenth.
        passes: Through the training images of a net that starts new or from net A.
        fine_passes: Of one that goes on from its like.
        full_passes: Of ``passes`` those before the rate falls to a tenth, which then is that of a
            net that goes on from its like; 0: it falls on plateaus, the paper's, and the passes are
            the most that there are.
        seeds: How often all is trained.
        scenes: The images, those to test on of their own; None: ILSVRC, tested on ``val``.
        trial: How many of the training images a trial of a rate takes.
        rates: The rates to try, ascending, each twice the one before; none: ``lr`` stands.
        multi_crop: The nets that are tested on crops too; the paper's are D and E.
        speed: Multiply-adds a second of a training, until a step has shown it.
        options: Further settings of the configs, key -> value.
    """

    name: str
    crop: int
    pools: int
    width: int
    channels: int
    batch: int
    lr: float
    passes: int
    fine_passes: int
    full_passes: int = 0
    seeds: int = 1
    scenes: Settings | None = None
    trial: int = 0
    rates: tuple[float, ...] = ()
    multi_crop: tuple[str, ...] = ("D", "E")
    speed: float = 2.5e10
    options: dict = field(default_factory=dict, hash=False)

    @property
    def stride(self) -> int:
        """Pixels between the last map's positions."""
        return 2**self.pools

    @property
    def kernel(self) -> int:
        """The side of fc6's kernel."""
        return self.crop // self.stride

    def positions(self, Q: int) -> tuple[int, int]:
        """The size of the class score map of a 4:3 image whose short side is the paper's ``Q``."""
        sides = (round(side * self.crop / 224) for side in (Q, Q * 4 / 3))
        short, long = (side // self.stride - self.kernel + 1 for side in sides)
        return short, long

    @property
    def degenerate(self) -> list[int]:
        """The paper's Q whose maps are not the full-size net's: their dense tests say nothing."""
        sides = sorted({Q for row in ROWS for *_, scales in row.models for Q in scales})
        return [Q for Q in sides if self.positions(Q) != FULL.positions(Q)]


FULL = Scale(
    "imagenet",
    crop=224,
    pools=5,
    width=64,
    channels=4096,
    batch=256,
    lr=1e-2,
    passes=74,
    fine_passes=74,
    speed=5e12,
)
_SMALL = Scale(
    "small",
    crop=28,
    pools=2,
    width=8,
    channels=128,
    batch=32,
    lr=5e-3,
    passes=8,
    fine_passes=2,
    full_passes=6,
    seeds=3,
    scenes=Settings(images=(30_000, 2_000, 10_000), short=(66, 99)),
    trial=12_000,
    rates=(2.5e-3, 5e-3, 1e-2),
    multi_crop=("D",),
    speed=2.1e10,
    options=NARROW | IN_MEMORY,
)
SCALES = {
    scale.name: scale
    for scale in (
        FULL,
        _SMALL,
        # Twice its lengths, at four times its cost and more: with a GPU.
        replace(
            _SMALL,
            name="quarter",
            crop=56,
            pools=3,
            width=16,
            channels=512,
            batch=64,
            scenes=Settings(images=(100_000, 5_000, 10_000), short=(132, 198)),
            multi_crop=("D", "E"),
            speed=1e12,
            options=NARROW,
        ),
        # All steps, to see that they work.
        replace(
            _SMALL,
            name="micro",
            width=2,
            channels=8,
            batch=8,
            passes=2,
            fine_passes=1,
            full_passes=1,
            seeds=1,
            scenes=Settings(images=(32, 16, 16), classes=8, short=(66, 99)),
            trial=16,
            rates=(5e-3,),
            speed=2e8,
        ),
    )
}
