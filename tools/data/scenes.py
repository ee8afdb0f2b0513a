"""Scenes with more than ILSVRC's layout: COCO's, masks, photographs behind the things."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from vgg_mm.data.files import find_images
from vgg_mm.data.images import read_image
from vgg_mm.data.scenes import Settings, write_image
from vgg_mm.data.transforms import rescale
from vgg_mm.demo import Scene
from vgg_mm.errors import UserError

LAYOUTS = ("coco", "masks")


@dataclass(frozen=True)
class AllSettings(Settings):
    """What a data set of scenes is, and what it has besides.

    ``coco`` writes ``coco/instances_train.json``, boxes and masks (RLE) of files named from the
    data set's folder, and ``masks`` writes ``masks/train/CLASS/train_000000.png``: 0 is the
    background, a class its label + 1.

    Attributes:
        layouts: Of ``LAYOUTS``, what to write besides ILSVRC's.
        backgrounds: A folder of photographs, or ``''``. One in four is val's, one test's.
    """

    layouts: tuple[str, ...] = ()
    backgrounds: str = ""

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            UserError: If a setting is impossible.
        """
        super().__post_init__()
        if unknown := {*self.layouts} - {*LAYOUTS}:
            raise UserError(f"scenes: layouts {unknown} are none of {LAYOUTS}.")
        if "masks" in self.layouts and self.classes > 254:
            raise UserError(
                f"scenes: a mask's pixel has 8 bits, 0 is the background and 255 means 'ignore': "
                f"classes={self.classes} must be 254 at most, or leave out the masks."
            )
        if self.backgrounds and len(_photos(self.backgrounds)) < 4:
            raise UserError(
                f"scenes: {self.backgrounds} holds fewer than 4 images, and each split needs "
                "its own."
            )

    def photo(self, rng: np.random.Generator, split: str) -> np.ndarray | None:
        """One of the split's photographs, if there are any."""
        if not self.backgrounds:
            return None
        photos = _photos(self.backgrounds)
        own = dict(train=photos[0::4] + photos[1::4], val=photos[2::4], test=photos[3::4])[split]
        return _shrunk(own[rng.integers(len(own))], 4 * self.shorts[-1])

    def write(self, root: Path, stem: str, scene: Scene) -> dict:
        """Writes a scene's files; returns what COCO's file is to say of it."""
        super().write(root, stem, scene)
        label = self.names.index(stem.split("/")[1]) + 1
        if "masks" in self.layouts:
            seen = np.any([thing.mask for thing in scene.things], 0)
            path = root / f"masks/{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, (seen * label).astype(np.uint8))
        if "coco" not in self.layouts:
            return {}
        things = [(thing.box, int(thing.mask.sum()), rle(thing.mask)) for thing in scene.things]
        size = scene.image.shape[:2]
        return dict(file_name=f"{stem}.JPEG", size=size, label=label, things=things)

    def finish(self, root: Path, split: str, written: Iterable[dict]) -> None:
        """Writes COCO's file, once all scenes are drawn."""
        scenes = [*written]
        if "coco" not in self.layouts:
            return
        images: list[dict] = []
        annotations: list[dict] = []
        for number, scene in enumerate(scenes, 1):
            height, width = scene["size"]
            image = {"id": number, "file_name": scene["file_name"]}
            images.append({**image, "width": width, "height": height})
            for (xmin, ymin, xmax, ymax), area, counts in scene["things"]:
                one = {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": scene["label"],
                    "bbox": [xmin, ymin, xmax - xmin + 1, ymax - ymin + 1],
                    "area": area,
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": counts},
                }
                annotations.append(one)
        names = [{"id": i, "name": name} for i, name in enumerate(self.names, 1)]
        (root / "coco").mkdir(exist_ok=True)
        with open(root / f"coco/instances_{split}.json", "w") as file:
            json.dump({"images": images, "annotations": annotations, "categories": names}, file)


@lru_cache(200)
def _shrunk(photo: str, short: int) -> np.ndarray:
    image = read_image(photo)
    return rescale(image, short, photo) if min(image.shape[:2]) > short else image


@cache
def _photos(folder: str) -> list[str]:
    return find_images(folder)


def rle(mask: np.ndarray) -> str:
    """A mask, (H, W) bool, as COCO's compressed run lengths.

    Runs go down the columns, of 0 and of 1 in turn, and from the third on are told by their
    difference to the one before the last. A number is written from its lowest five bits up, each
    group with a sixth bit that says whether there are more, as the character of the group + 48.
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    runs = np.diff(ends, prepend=0).tolist()
    text = []
    for i, run in enumerate(runs):
        rest, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            group, rest = rest & 31, rest >> 5
            more = rest != (-1 if group & 16 else 0)
            text.append(chr(group + (32 if more else 0) + 48))
    return "".join(text)
