"""What a net's input is: the order of colours, the range, the mean and the deviation of pixels.

A net that was trained on ``(p * top / 255 - mean) / std`` gives the same logits on
``p - mean * 255 / top``, this project's input, once conv1_1's weights are multiplied by
``top / 255 / std`` for each colour and put in the order of RGB. This is exact. The mean cannot
follow them: a difference of means would be a constant in conv1_1's bias where the kernel lies
inside the image, but its zero padding, which stands for a pixel of the mean colour, would change
too. So a mean stays what it was, and is the ``data_preprocessor``'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from vgg_mm.errors import UserError
from vgg_mm.paper import MEAN_RGB

if TYPE_CHECKING:  # torch takes seconds, which a --help spares
    from torch import nn


@dataclass(frozen=True)
class Input:
    """A net's input, ``(p * top / 255 - mean) / std`` of pixels ``p`` from 0 to 255.

    Args:
        order: Of the colours, ``"RGB"`` or ``"BGR"``.
        top: What a white pixel becomes before the mean is subtracted: 1 or 255.
        mean: Of each colour, in this order and range.
        std: Likewise.

    Raises:
        UserError: If a value is impossible.
    """

    order: str
    top: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = [self.top, *self.mean, *self.std]
        if (
            self.order not in ("RGB", "BGR")
            or (len(self.mean), len(self.std)) != (3, 3)
            or not all(isinstance(n, int | float) and isfinite(n) for n in numbers)
            or min(self.top, *self.std) <= 0
        ):
            raise UserError(
                f"{self!s:.200} is no input of a net: the order is RGB or BGR, mean and std are "
                "three numbers, and top and std positive."
            )

    @classmethod
    def of(cls, saved: Any, name: str | os.PathLike) -> Input:
        """The input that the ``asdict(input)`` in the file ``name`` says.

        Raises:
            UserError: If it says something else.
        """
        try:
            return cls(**saved)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name}: its note of its input is none.") from None

    @classmethod
    def of_config(cls, model: Mapping[str, Any]) -> Input:
        """The input that a config's ``model`` makes of BGR images with its data_preprocessor."""
        given = model.get("data_preprocessor") or {}
        rgb = given.get("to_rgb") or given.get("bgr_to_rgb")
        ours = given.get("type") == "vgg_mm.VGGPreprocessor"
        usual = (MEAN_RGB if rgb else MEAN_RGB[::-1]) if ours else (0, 0, 0)
        mean, std = given.get("mean") or usual, given.get("std") or (1, 1, 1)
        return cls("RGB" if rgb else "BGR", 255, tuple(mean), tuple(std))

    @classmethod
    def of_preprocessor(cls, module: nn.Module) -> Input:
        """The input that a data_preprocessor, ours or another toolbox's, makes of BGR images."""
        switches = ("rgb", "to_rgb", "_channel_conversion", "channel_conversion")
        rgb = any(getattr(module, name, False) for name in switches)
        mean = getattr(module, "mean", 0 - getattr(module, "shift", np.zeros(3)))
        std = getattr(module, "std", np.ones(3))
        # A float32 buffer's digits beyond the config's are none of its.
        mean, std = ([float(f"{x:.7g}") for x in t.flatten().tolist()] for t in (mean, std))
        return cls("RGB" if rgb else "BGR", 255, tuple(mean), tuple(std))

    @classmethod
    def note(cls, model: Any) -> dict:
        """``input`` for a checkpoint's meta: what the model's data_preprocessor makes.

        That of a net of other channels than three has no such note.
        """
        try:
            model = getattr(model, "module", model)  # in a wrapper
            return dict(input=asdict(cls.of_preprocessor(model.data_preprocessor)))
        except (UserError, AttributeError):
            return {}

    def same_as(self, other: Input, tolerance: float = 1e-4) -> bool:
        """Whether a net sees the same, the mean within ``tolerance`` grey levels."""
        return (
            self.order == other.order
            and np.allclose(self.mean_rgb, other.mean_rgb, rtol=0, atol=tolerance)
            and np.allclose(self.scale_rgb, other.scale_rgb, rtol=1e-6)
        )

    def settings(self, rgb: str = "to_rgb") -> str:
        """The data_preprocessor that makes it of BGR images, whose switch is called ``rgb``."""
        mean, std = ([round(v * 255 / self.top, 4) for v in x] for x in (self.mean, self.std))
        return f"mean={mean}, std={std}, {rgb}={self.order == 'RGB'}"

    def preprocessor(self) -> dict[str, Any]:
        """The config of a data_preprocessor that makes it of BGR images."""
        mean, std = ([v * (255 / self.top) for v in x] for x in (self.mean, self.std))
        return dict(type="vgg_mm.VGGPreprocessor", mean=mean, std=std, to_rgb=self.order == "RGB")

    @property
    def mean_rgb(self) -> list[float]:
        """The mean of (R, G, B) from 0 to 255."""
        return [round(value * 255 / self.top, 6) for value in self._rgb(self.mean)]

    @property
    def scale_rgb(self) -> np.ndarray:
        """By what (R, G, B) from 0 to 255 are multiplied: (3,), float64."""
        return self.top / 255 / np.array(self._rgb(self.std), np.float64)

    def _rgb(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values) if self.order == "RGB" else tuple(values)[::-1]


def check_input(meta: object, model: Mapping[str, Any], name: str) -> None:
    """Compares a checkpoint's note of its input, if its ``meta`` has one, with a config's.

    Raises:
        UserError: If they differ; it calls the checkpoint ``name``.
    """
    if not isinstance(meta, dict) or "input" not in meta or not model.get("data_preprocessor"):
        return
    wanted, given = Input.of(meta["input"], name), Input.of_config(model)
    if not wanted.same_as(given):
        raise UserError(
            f"{name} is for another input than the config's: set model.data_preprocessor to "
            f"{wanted.settings()}."
        )


INPUTS = {
    "torchvision": Input("RGB", 255, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": Input("BGR", 255, MEAN_RGB[::-1], (1, 1, 1)),
    "vgg_mm": Input("RGB", 255, MEAN_RGB, (1, 1, 1)),
}
