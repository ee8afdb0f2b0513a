"""The images of a reproduction: the demo's, split into folds, or a tree of folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from tools.data import make_demo
from tools.data.stats import dataset_statistics
from vgg_mm.data.files import find_pictures
from vgg_mm.demo import unpack
from vgg_mm.errors import UserError

ILSVRC = (1_281_167, 50_000)  # training and validation images


@dataclass(frozen=True)
class Data:
    """A data set: ``root/train`` and ``root/val``, a folder a class.

    Attributes:
        type: The data set's type in configs.
        root: Its folder.
        train: How many training images there are.
        val: How many for validation.
        classes: How many classes.
        mean: The training images' mean (R, G, B); empty: ImageNet's, as the configs have it.
        eigval: The eigenvalues for the lighting, likewise.
        eigvec: The eigenvectors, likewise.
    """

    type: str
    root: str
    train: int
    val: int
    classes: int
    mean: tuple[float, ...] = ()
    eigval: tuple[float, ...] = ()
    eigvec: tuple[tuple[float, ...], ...] = ()


def imagenet(root: str | Path) -> Data:
    """ILSVRC-2012 at ``root``, unseen: its numbers are known."""
    return Data("vgg_mm.ImageNet", str(root), *ILSVRC, 1000)


def folders(root: str | Path, measure: bool = True) -> Data:
    """A tree of folders; ``measure`` its colours too, for the net's input (Sec. 3.1).

    Raises:
        UserError: If there are no images, or ``train`` and ``val`` have different classes.
    """
    root = Path(root)
    images = [find_pictures(root / split) for split in ("train", "val")]
    classes, others = (
        {Path(file).relative_to(root / split).parts[0] for file in files}
        for split, files in zip(("train", "val"), images, strict=True)
    )
    if classes != others:
        raise UserError(
            f"{root}: train and val must have the same class folders, but "
            f"{', '.join(sorted(classes ^ others)[:5])} is only in one of them."
        )
    counts = (*map(len, images), len(classes))
    if not measure:
        return Data("vgg_mm.Folders", str(root), *counts)
    stats = dataset_statistics(images[0])
    return Data(
        *("vgg_mm.Folders", str(root), *counts),
        # Rounded, for they are typed in commands.
        tuple(round(x, 2) for x in stats.mean.tolist()),
        tuple(round(x, 4) for x in stats.eigval.tolist()),
        tuple(tuple(round(x, 4) for x in row) for row in stats.eigvec.tolist()),
    )


def demo_folds(root: Path, folds: int) -> list[Path]:
    """The demo's images, split in ``folds`` ways, as trees below ``root``.

    Every image is in the validation part of one fold at most, and of one exactly if there are
    several folds. The first fold is the split that ships; the others split its training part.
    Images that look alike or are variants of one drawing are never on both sides, as
    ``tools/data/make_demo.py`` grouped them.

    Raises:
        UserError: If the images cannot be unpacked, or ``root`` holds another number of folds.
    """
    shipped = unpack(root / "demo")
    trees = [shipped]
    if folds > 1:
        parts = split_groups(shipped / "train", folds - 1)
        for k, part in enumerate(parts, 1):
            trees.append(root / f"fold{k}")
            held_in = [file for other in parts if other is not part for file in other]
            held_in += sorted((shipped / "val").rglob("*.jpg"))
            _link(trees[-1], {"train": held_in, "val": part})
    return trees


def held_out(root: Path, parts: int = 5) -> Path:
    """A tree of the shipped training images alone, one of ``parts`` of them as ``val``."""
    tree = root / "chosen_on"
    part, *others = split_groups(unpack(root / "demo") / "train", parts)
    _link(tree, {"train": [file for other in others for file in other], "val": part})
    return tree


def split_groups(folder: Path, parts: int) -> list[list[Path]]:
    """Splits the images of a folder, class by class, into parts of about equal size.

    A group of images that are alike goes into one part; the same files give the same parts.
    """
    split: list[list[Path]] = [[] for _ in range(parts)]
    for group in _groups(folder):
        label = group[0].parent.name
        smallest = min(split, key=lambda part: sum(file.parent.name == label for file in part))
        smallest += group
    return split


@cache
def _groups(folder: Path) -> list[list[Path]]:
    """The groups of images that are alike or variants of one drawing, the largest first."""
    files = sorted(folder.rglob("*.jpg"))
    images = [make_demo.Picture(f, f.parent.name, Image.open(f).convert("RGB")) for f in files]
    alike = np.argwhere(np.triu(make_demo.likeness(images) >= make_demo.ALIKE, k=1))
    groups = make_demo.connect(len(files), [*alike, *make_demo.stem_pairs(images)])
    # The order of hashes is a fixed one that spreads over the folders.
    groups.sort(key=lambda group: (-len(group), sha256(files[group[0]].stem.encode()).digest()))
    return [[files[item] for item in group] for group in groups]


def _link(tree: Path, splits: dict[str, Sequence[Path]]) -> None:
    """Makes a tree of links to images, aside first; one that is there must be the same.

    Raises:
        UserError: If it is another.
    """
    # Train and val never hold two of one name and class: make_demo tells them apart.
    links = {
        Path(split, file.parent.name, file.name): file.resolve()
        for split, files in splits.items()
        for file in files
    }
    if tree.exists():
        if {link.relative_to(tree) for link in tree.rglob("*.jpg")} != links.keys():
            raise UserError(
                f"{tree} holds another split, as of another number of folds: choose another "
                "--work-dir, or remove it and all that was trained on it."
            )
        return
    aside = tree.with_name(f".{tree.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    for link, file in links.items():
        (aside / link).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file, aside / link)
    aside.rename(tree)
