"""The images of a reproduction: scenes, or a tree of folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tools.data.stats import dataset_statistics
from vgg_mm.data.files import find_images
from vgg_mm.data.scenes import Settings, draw_scenes
from vgg_mm.errors import UserError

ILSVRC = (1_281_167, 50_000)  # training and validation images
SCENES = Settings(images=(1_152, 288, 0), classes=8)


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
    return Data("vgg_mm.ImageNet", str(root), train=1_281_167, val=50_000, classes=1000)


def folders(root: str | Path, measure: bool = True) -> Data:
    """A tree of folders; ``measure`` its colours too, for the net's input (Sec. 3.1).

    Raises:
        UserError: If there are no images, or ``train`` and ``val`` have different classes.
    """
    root = Path(root)
    images = [find_images(root / split) for split in ("train", "val")]
    classes, others = (
        {Path(file).relative_to(root / split).parts[0] for file in files}
        for split, files in zip(("train", "val"), images, strict=True)
    )
    if classes != others:
        raise UserError(
            f"{root}: train and val must have the same class folders, but "
            f"{', '.join(sorted(classes ^ others)[:5])} is only in one of them."
        )
    train, val = map(len, images)
    data = Data("vgg_mm.Folders", str(root), train, val, len(classes))
    if not measure:
        return data
    stats = dataset_statistics(images[0])
    return replace(  # rounded, for they are typed in commands
        data,
        mean=tuple(stats.mean.round(2).tolist()),
        eigval=tuple(stats.eigval.round(4).tolist()),
        eigvec=tuple(map(tuple, stats.eigvec.round(4).tolist())),
    )


def drawn(root: Path, folds: int) -> list[Path]:
    """Scenes (:mod:`vgg_mm.demo`) below ``root``: each fold is drawn anew, for both its parts.

    Raises:
        UserError: If they cannot be drawn.
    """
    return [draw_scenes(root / f"fold{k}", replace(SCENES, seed=k)) for k in range(folds)]


def drawn_to_choose_on(root: Path) -> Path:
    """Scenes that are in no fold."""
    return draw_scenes(root / "chosen_on", replace(SCENES, seed=1_000_000))
