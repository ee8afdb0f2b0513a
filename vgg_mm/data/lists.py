"""Data sets given as lists of images: a label a line, or PASCAL VOC's many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine import fileio
from mmpretrain.datasets import BaseDataset

from vgg_mm.data.classes import shortened
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


def read_list(file: str, labelled: bool) -> Iterator[tuple[int, str, int | None]]:
    """Yields the lines of a list of pictures as (line number, path, label).

    Args:
        file: The list, on any of mmengine's storage backends; empty lines do not count.
        labelled: Whether a line ends with a label, after white space.

    Raises:
        UserError: If the list is missing, lists nothing, or has a line of another kind.
    """
    try:
        lines = fileio.list_from_file(file, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"no list of pictures {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of pictures: {error}.") from error
    if not any(line.strip() for line in lines):
        raise UserError(f"{file} lists no picture.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not labelled:
            yield number, line.strip(), None
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not path or not re.fullmatch(r"[+-]?[0-9]+", label):
            raise UserError(
                f"{file}, line {number}: {line!r} is no picture's path and the number of its class."
            )
        yield number, path.rstrip(), int(label)


def check_label(label: object, classes: Sequence | None, place: str, path: str) -> None:
    """Raises UserError if a label is no number of a class; ``place`` says where it stands."""
    most = f" to {len(classes) - 1} ({shortened(classes)})" if classes else " or more"
    if not isinstance(label, int) or label < 0 or (classes and label >= len(classes)):
        raise UserError(
            f"{place}: the label {label!r} of {path} is no class. Labels count from 0: 0{most}."
        )


@DATASETS.register_module()
class VOCList(BaseDataset):
    """A list of images in VOC's layout, each with 1, 0 or -1 for every class.

    ``VOC2007/ImageSets/Main/trainval.txt`` lists names, ``JPEGImages`` has their files
    ``NAME.jpg``, and ``aeroplane_trainval.txt``, ``bicycle_trainval.txt`` ... beside the list have
    lines such as ``000005 -1``: 1 where the class is in the image, -1 where it is not, 0 where it
    is too difficult to count. The classes are those files', sorted.

    Args:
        ann_file: The list.
        kwargs: Further arguments of mmpretrain's ``BaseDataset``.
    """

    def __init__(self, ann_file: str, **kwargs) -> None:
        files = sorted(Path(ann_file).parent.glob(f"*_{Path(ann_file).name}"))
        names = [file.name.removesuffix(f"_{Path(ann_file).name}") for file in files]
        self.files = dict(zip(names, files, strict=True))
        super().__init__(ann_file, metainfo=dict(classes=names, multi_label=True), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Lists the images.

        Raises:
            UserError: If a file is missing, or lacks an image's label.
        """
        ann_file = Path(self.ann_file)
        if not ann_file.is_file():
            raise UserError(f"no list of images {ann_file}.")
        if not self.files:
            raise UserError(
                f"no labels beside {ann_file}: expected a file CLASS_{ann_file.name} for each "
                "class, with lines of an image's name and 1, 0 or -1."
            )
        names = [line.split()[0] for line in ann_file.read_text().splitlines() if line.strip()]
        columns = [_labels(file) for file in self.files.values()]
        folder = (ann_file.parent / "../../JPEGImages").resolve()
        images = []
        for name in names:
            path = folder / f"{name}.jpg"
            for file, column in zip(self.files.values(), columns, strict=True):
                if name not in column:
                    raise UserError(f"{file} has no label for {name}, which {ann_file} lists.")
            images.append(
                dict(img_path=str(path), gt_label=np.array([column[name] for column in columns]))
            )
        return images


def _labels(file: Path) -> dict[str, int]:
    """An image's name -> its label, 1, 0 or -1."""
    labels = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match line.split():
            case [name, "1" | "0" | "-1" as label]:
                labels[name] = int(label)
            case [_, *_]:
                raise UserError(f"{file}, line {number}: {line!r} is no name and 1, 0 or -1.")
    return labels
