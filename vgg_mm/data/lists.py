"""Multi-label data sets given as lists of images, as PASCAL VOC's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmpretrain.datasets import BaseDataset

from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


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
            UserError: If a file is missing, or lacks an image or its label.
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
            if not path.is_file():
                raise UserError(f"{ann_file} lists {name}, but there is no {path}.")
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
