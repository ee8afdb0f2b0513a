"""Lists in text files: of images with a label a line, of classes, and PASCAL VOC's many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine import fileio
from mmpretrain.datasets import BaseDataset

from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


def read_lines(file: str, what: str = "images") -> list[tuple[int, str]]:
    """The lines of a file that are not empty, each with its number.

    Args:
        file: On any of mmengine's storage backends.
        what: What the lines name, for errors.

    Raises:
        UserError: If the file is missing, no text or empty.
    """
    try:
        lines = fileio.list_from_file(file, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"no list of {what} {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of {what}: {error}.") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{file} lists no {what}.")
    return found


def read_labels(file: str) -> Iterator[tuple[int, str, int]]:
    """Yields the line number, path and label of each image that a file lists.

    Raises:
        UserError: As :func:`read_lines`, or if a line is no path and one label behind white space.
    """
    for number, line in read_lines(file):
        found = re.fullmatch(r"(.*\S)\s+([+-]?[0-9]+)", line)
        if not found or re.search(r"\s[+-]?[0-9]+$", found[1]):
            raise UserError(
                f"{file}, line {number}: {line!r} is no image's path and the number of its class."
            )
        yield number, found[1], int(found[2])


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
        end = f"_{Path(ann_file).name}"
        files = sorted(Path(ann_file).parent.glob(f"*{end}"))
        self.files = {file.name.removesuffix(end): file for file in files}
        metainfo = dict(classes=[*self.files], multi_label=True)
        super().__init__(ann_file, metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Lists the images.

        Raises:
            UserError: If a file is missing, or lacks an image's label.
        """
        names = [line.split()[0] for _, line in read_lines(self.ann_file)]
        ann_file = Path(self.ann_file)
        if not self.files:
            raise UserError(
                f"no labels beside {ann_file}: expected a file CLASS_{ann_file.name} for each "
                "class, with lines of an image's name and 1, 0 or -1."
            )
        columns = []
        for file in self.files.values():
            labels = {}
            for number, line in read_lines(str(file), "labels"):
                name, *label = line.split()
                if label not in (["1"], ["0"], ["-1"]):
                    raise UserError(f"{file}, line {number}: {line!r} is no name and 1, 0 or -1.")
                labels[name] = int(label[0])
            if missing := [name for name in names if name not in labels]:
                raise UserError(f"{file} has no label for {missing[0]}, which {ann_file} lists.")
            columns.append([labels[name] for name in names])
        folder = (ann_file.parent / "../../JPEGImages").resolve()
        return [
            dict(img_path=str(folder / f"{name}.jpg"), gt_label=np.array(labels))
            for name, *labels in zip(names, *columns, strict=True)
        ]
