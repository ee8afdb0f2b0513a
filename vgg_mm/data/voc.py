"""PASCAL VOC's lists of images, and of persons in them, with several labels each (Appendix B)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmpretrain.datasets import BaseDataset

from vgg_mm.data.boxes import read_xml
from vgg_mm.data.lists import read_lines
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


@DATASETS.register_module()
class VOCList(BaseDataset):
    """A list of images in VOC's layout, each with 1, 0 or -1 for every class.

    ``VOC2007/ImageSets/Main/trainval.txt`` lists names, ``JPEGImages`` has their files
    ``NAME.jpg``, and ``aeroplane_trainval.txt``, ``bicycle_trainval.txt`` ... beside the list have
    lines such as ``000005 -1``: 1 where the class is in the image, -1 where it is not, 0 where it
    is too difficult to count. The classes are those files', sorted.

    The lists of actions, ``VOC2012/ImageSets/Action/trainval.txt`` and ``jumping_trainval.txt``
    ..., name a person a line: ``2010_006215 1`` is the first ``<object>`` of
    ``Annotations/2010_006215.xml``. A sample is then a person, with its box as ``gt_bboxes`` (1,
    4), and its ``img_path`` ends with ``#1``; ``file`` is the image's.

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
        names = [" ".join(line.split()[:2]) for _, line in read_lines(self.ann_file)]
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
                *name, label = line.split()
                if label not in ("1", "0", "-1") or len(name) not in (1, 2):
                    raise UserError(f"{file}, line {number}: {line!r} is no name and 1, 0 or -1.")
                labels[" ".join(name)] = int(label)
            if missing := [name for name in names if name not in labels]:
                raise UserError(f"{file} has no label for {missing[0]}, which {ann_file} lists.")
            columns.append([labels[name] for name in names])
        root = (ann_file.parent / "../..").resolve()
        return [
            dict(_place(root, *name.split()), gt_label=np.array(labels))
            for name, *labels in zip(names, *columns, strict=True)
        ]


def _place(root: Path, name: str, number: str = "") -> dict:
    """Where an image, or a thing in it by its number from 1, is in VOC's layout.

    Raises:
        UserError: If there is no such thing.
    """
    file = str(root / f"JPEGImages/{name}.jpg")
    if not number:
        return dict(img_path=file)
    annotation = str(root / f"Annotations/{name}.xml")
    boxes = read_xml(annotation).boxes
    if not (number.isdecimal() and 1 <= int(number) <= len(boxes)):
        raise UserError(f"{annotation} has {len(boxes)} objects, and number {number} is listed.")
    box = np.array([boxes[int(number) - 1]], np.float32) - 1  # VOC counts pixels from 1
    return dict(img_path=f"{file}#{number}", file=file, gt_bboxes=box)
