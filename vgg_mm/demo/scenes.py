"""Drawing a scene: an image of one or several things of a class, and what is seen of each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vgg_mm.demo.cutouts import distractors, pyramid

MIN_SHORT = 32  # pixels
# Longest sides, of the image's short side. Large things are drawn more often than small ones.
THING_SIZES = 1 / 3, 1.0
DISTRACTOR_SIZES = 0.15, 0.45
NUMBERS = 0.7, 0.2, 0.1  # the shares of scenes with one, two and three things, at most
BEHIND = 3  # distractors behind them, at most
COVERED = 0.4  # the share of scenes in which a distractor may be in front of a thing
TURN = 20  # degrees, at most, to either side
OUTSIDE = 0.15  # of its own size that a thing may be moved out of the image
MIN_VISIBLE = 0.5  # of a thing: it is never covered or cut off by more
TRIES = 5  # to find a place for what need not be there
GAIN, TINT = (0.65, 1.25), (0.9, 1.1)


@dataclass(frozen=True, eq=False)
class Thing:
    """What is seen of a thing: covered pixels and those outside of the image do not belong to it.

    Attributes:
        mask: (H, W) bool: where its alpha exceeds 0.5, and that of nothing in front of it does.
        visible: The mask's share of the whole thing, ``MIN_VISIBLE`` to 1.
    """

    mask: np.ndarray
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(xmin, ymin, xmax, ymax) of the mask as in ILSVRC's XML: inclusive, counted from 0."""
        xs, ys = (np.flatnonzero(self.mask.any(axis)) for axis in (0, 1))
        return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


@dataclass(frozen=True, eq=False)
class Scene:
    """An image, BGR uint8 (H, W, 3), and the things in it, all of one class."""

    image: np.ndarray
    things: list[Thing]


def draw(
    rng: np.random.Generator,
    name: str,
    split: str,
    short: int = 80,
    photo: np.ndarray | None = None,
) -> Scene:
    """Draws a scene, 4:3 or 3:4.

    Args:
        rng: All that is random comes from it.
        name: The class, one of :func:`vgg_mm.demo.things`.
        split: Whose distractors and backgrounds to use.
        short: The short side in pixels, ``MIN_SHORT`` or more.
        photo: A part of it, BGR uint8, is the background; default: a gradient, noise or an
            enlarged distractor.
    """
    long = round(short * 4 / 3)
    shape = (short, long) if rng.random() < 0.5 else (long, short)
    image = _part(rng, photo, shape) if photo is not None else _background(rng, split, shape)
    for _ in range(rng.integers(BEHIND, endpoint=True)):
        _paste(rng, image, _distractor(rng, split, shape)[0])

    # From the back to the front: where each is opaque, and how many pixels it has as a whole.
    opaque: list[np.ndarray] = []
    wholes: list[float] = []

    def add(layer: np.ndarray, whole: float) -> bool:
        """Puts something in front, unless too little of a thing would be seen."""
        masks = _seen([*opaque, layer[..., 3] > 127])
        if any(
            mask.sum() < MIN_VISIBLE * all_of_it
            for mask, all_of_it in zip(masks, [*wholes, whole], strict=True)
        ):
            return False
        _paste(rng, image, layer)
        opaque.append(layer[..., 3] > 127)
        wholes.append(whole)
        return True

    while not add(*_thing(rng, name, shape)):
        pass
    for _ in range(rng.choice(len(NUMBERS), p=NUMBERS)):
        any(add(*_thing(rng, name, shape)) for _ in range(TRIES))
    number = len(opaque)
    if rng.random() < COVERED:
        any(add(_distractor(rng, split, shape)[0], 0) for _ in range(TRIES))
    masks = _seen(opaque)[:number]
    things = [
        Thing(mask, min(1.0, float(mask.sum() / whole)))
        for mask, whole in zip(masks, wholes, strict=False)
    ]
    return Scene(np.rint(image.clip(0, 255)).astype(np.uint8), things)


def _seen(opaque: list[np.ndarray]) -> list[np.ndarray]:
    """What is seen of each layer, given where each is opaque, from the back to the front."""
    masks, front = [], np.zeros_like(opaque[0])
    for mask in reversed(opaque):
        masks.append(mask & ~front)
        front = front | mask
    return masks[::-1]


def _paste(rng: np.random.Generator, image: np.ndarray, layer: np.ndarray) -> None:
    """Puts a layer, lit by chance, in front of a float32 image."""
    light = rng.uniform(*GAIN) * rng.uniform(*TINT, 3)
    image *= 1 - layer[..., 3:] / np.float32(255)
    image += layer[..., :3] * light.astype(np.float32)


def _thing(rng: np.random.Generator, name: str, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    small, large = THING_SIZES
    size = small + (large - small) * np.sqrt(rng.random())
    return _layer(rng, pyramid("things", name), size * min(shape), shape, OUTSIDE)


def _distractor(
    rng: np.random.Generator, split: str, shape: tuple[int, int]
) -> tuple[np.ndarray, float]:
    size = rng.uniform(*DISTRACTOR_SIZES) * min(shape)
    return _layer(rng, _any_distractor(rng, split), size, shape, outside=0.5)


def _any_distractor(rng: np.random.Generator, split: str) -> list[np.ndarray]:
    names = distractors(split)
    return pyramid(split, names[rng.integers(len(names))])


def _layer(
    rng: np.random.Generator,
    levels: list[np.ndarray],
    size: float,
    shape: tuple[int, int],
    outside: float,
) -> tuple[np.ndarray, float]:
    """Turns a cut-out, scales it to a longest side of ``size`` pixels and moves it to some place.

    Returns:
        The layer, (H, W, 4) uint8, and how many opaque pixels it has, also outside of the image.
    """
    level = next((x for x in reversed(levels) if max(x.shape) >= size), levels[0])
    scale = size / max(level.shape[:2])
    sides = scale * np.array(level.shape[1::-1])
    room = np.array(shape[::-1]) - sides
    centre = sides / 2 + np.where(room > 0, 0, room) / 2
    low, high = -outside * sides, np.maximum(room, 0) + outside * sides
    x, y = centre + rng.uniform(low, high)
    matrix = cv2.getRotationMatrix2D(
        ((level.shape[1] - 1) / 2, (level.shape[0] - 1) / 2), rng.uniform(-TURN, TURN), scale
    )
    matrix[:, 2] += (x - 0.5 - (level.shape[1] - 1) / 2, y - 0.5 - (level.shape[0] - 1) / 2)
    layer = cv2.warpAffine(level, matrix, shape[::-1], flags=cv2.INTER_LINEAR)
    return layer, float((level[..., 3] > 127).sum() * scale**2)


def _background(rng: np.random.Generator, split: str, shape: tuple[int, int]) -> np.ndarray:
    """A gradient, with noise or an enlarged distractor or neither in front; float32 (H, W, 3)."""
    first, second = rng.uniform(0, 255, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[-1 : 1 : 1j * shape[0], -1 : 1 : 1j * shape[1]]
    along = ((x * np.cos(angle) + y * np.sin(angle)) / 2.83 + 0.5)[..., None]
    image = (first + (second - first) * along).astype(np.float32)
    kind = rng.integers(3)
    if kind == 1:
        cells = rng.integers(2, 17, 2)
        noise = rng.normal(0, rng.uniform(15, 60), (*cells, 3)).astype(np.float32)
        image += cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
    elif kind == 2:
        size = rng.uniform(1.2, 3) * max(shape)
        layer, _ = _layer(rng, _any_distractor(rng, split), size, shape, outside=0.2)
        _paste(rng, image, layer)
    return image


def _part(rng: np.random.Generator, photo: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A part of a photograph, at least half as large as can be, as float32 of this shape."""
    sides = np.array(photo.shape[:2])
    window = (rng.uniform(0.5, 1) * min(sides / shape) * np.array(shape)).astype(int).clip(1)
    y, x = rng.integers(sides - window, endpoint=True)
    cut = photo[y : y + window[0], x : x + window[1]]
    how = cv2.INTER_AREA if window[0] > shape[0] else cv2.INTER_LINEAR
    return cv2.resize(cut, shape[::-1], interpolation=how).astype(np.float32)
