"""Images and where in them the things of their class are (Appendix A).

A sample has ``gt_bboxes``, float32 (n, 4): corners x1, y1, x2, y2 in pixels of the file, pixel i
reaching from i to i + 1, as mmcv has them. ILSVRC's xmin and xmax count pixels from 0 and
inclusively, so that x1 is xmin and x2 is xmax + 1; COCO's x, y, w, h become x, y, x + w, y + h.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from mmengine.logging import print_log

from vgg_mm.data.classes import shortened
from vgg_mm.data.files import files_below
from vgg_mm.data.folders import Folders, ImageNet, read_lines
from vgg_mm.data.images import CorruptImageError, described, other_size, read_bytes
from vgg_mm.errors import UserError
from vgg_mm.processes import in_processes
from vgg_mm.registry import DATASETS

MOST_BYTES = 1 << 20  # of an XML file; ILSVRC's have a thousand
FEW = 20_000  # files that a process reads in a second or two
ENDS = ("xmin", "ymin", "xmax", "ymax")
LOOKED_AT = 64  # images whose headers are compared with their boxes at the start


class Things(NamedTuple):
    """What is written of an image.

    Attributes:
        size: Its width and height in pixels; None where that is not said.
        names: The things' classes.
        boxes: Their corners, as they were found, x2 and y2 not inclusive.
    """

    size: tuple[int, int] | None
    names: list[str]
    boxes: list[tuple[float, float, float, float]]


def read_xml(file: str) -> Things:
    """Reads a VOC-style XML file, an ``<object>`` a thing.

    Raises:
        UserError: If it is missing, no XML, too large, or lacks something; it is named.
    """
    try:
        with open(file, "rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}.") from None
    if len(data) > MOST_BYTES or b"<!" in data.replace(b"<!--", b""):
        raise UserError(f"{file} is no file of boxes: it is very large, or defines entities.")
    try:
        root = ElementTree.fromstring(data)
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        names, boxes = [], []
        for thing in root.iterfind("object"):
            names.append((thing.findtext("name") or "").strip())
            boxes.append(_exclusive([thing.findtext(f"bndbox/{end}", "") for end in ENDS]))
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML: {error}.") from None
    except ValueError as error:
        raise UserError(
            f"{file} is no file of boxes: <size> and <bndbox> hold whole numbers, and here {error}."
        ) from None
    return Things((width, height) if width and height else None, names, boxes)


def _exclusive(ends: Sequence[str]) -> tuple[float, float, float, float]:
    """The corners of a box whose last pixel counts: of one that is turned, it is the first."""
    x1, y1, x2, y2 = map(float, ends)
    return x1 + (x1 > x2), y1 + (y1 > y2), x2 + (x1 <= x2), y2 + (y1 <= y2)


def read_csv(file: str) -> dict[str, Things]:
    """Reads Kaggle's ``LOC_train_solution.csv`` or ``LOC_val_solution.csv``, by the images' names.

    Raises:
        UserError: If it is missing or has a line of another kind.
    """
    found = {}
    for number, line in read_lines(file, "boxes"):
        name, comma, text = line.partition(",")
        words = text.split()
        if number == 1 and name == "ImageId":
            continue
        try:
            if not comma or len(words) % 5:
                raise ValueError
            boxes = [_exclusive(words[i + 1 : i + 5]) for i in range(0, len(words), 5)]
        except ValueError:
            raise UserError(
                f"{file}, line {number}: {line[:80]!r} is no image's name, a comma and, for each "
                "thing, its class, xmin, ymin, xmax and ymax."
            ) from None
        found[name] = Things(None, words[::5], boxes)
    return found


def read_coco(file: str) -> dict[str, Things]:
    """Reads COCO's JSON, by the images' ``file_name`` without its ending; crowds are left out.

    Raises:
        UserError: If it is missing or something else.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            content: Any = json.load(stream)
        classes = {each["id"]: str(each["name"]) for each in content["categories"]}
        found, by_id = {}, {}
        for image in content["images"]:
            size = (int(image["width"]), int(image["height"])) if "width" in image else None
            things = by_id[image["id"]] = Things(size, [], [])
            found[os.path.splitext(image["file_name"])[0]] = things
        for thing in content["annotations"]:
            if not thing.get("iscrowd"):
                x, y, w, h = map(float, thing["bbox"])
                things = by_id[thing["image_id"]]
                things.names.append(classes[thing["category_id"]])
                things.boxes.append((x, y, x + w, y + h))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is no JSON file of COCO's boxes: {reason}.") from None
    return found


def read_folder(folder: str, images: Iterable[str]) -> dict[str, Things]:
    """Reads the XML files of some images, in several processes if they are many.

    One takes 65 us of a core once it is in the system's cache, so that ILSVRC's 544,546 of the
    training set cost a start 36 s of one core, or 5 s of eight.

    Args:
        folder: In which they are, in the images' folders or all in one.
        images: The images' paths below their own folder, without endings.

    Returns:
        By those paths, for the images that have a file.

    Raises:
        UserError: If one is no such file.
    """
    there = {os.path.splitext(path)[0]: path for path in files_below(folder) if path[-4:] == ".xml"}
    files = {}
    for image in images:
        if (found := there.get(image) or there.get(os.path.basename(image))) is not None:
            files[image] = os.path.join(folder, found)
    paths, jobs = [*files.values()], min(8, os.cpu_count() or 1)
    few = len(files) <= FEW
    read = map(read_xml, paths) if few else in_processes(read_xml, paths, jobs, f"Reading {folder}")
    return dict(zip(files, read, strict=True))


class _Boxed:
    """Gives a data set of folders the boxes of its images, see :class:`ImageNetBoxes`."""

    ann_file: str
    img_prefix: str
    data_root: str
    with_label: bool
    _metainfo: dict

    # Where ILSVRC's archives and Kaggle's have them.
    places: tuple[str, ...] = (
        *("Annotations/CLS-LOC/{split}", "../../Annotations/CLS-LOC/{split}"),
        *("Annotations/{split}", "LOC_{split}_solution.csv", "annotations/{split}.json"),
    )

    def __init__(self, *args: Any, boxes: str = "", keep: bool = False, **kwargs: Any) -> None:
        self.boxes = boxes
        self.keep = keep
        self.split = kwargs.get("split", args[1] if len(args) > 1 else "")
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Lists the images, each with its label and its boxes."""
        if not self.with_label:
            raise UserError(
                f"{type(self).__name__}: boxes are those of an image's class, and these images have"
                " no labels (with_label=False, as ILSVRC's test set): use a data set without boxes."
            )
        images = super().load_data_list()  # type: ignore[misc]
        if not self._metainfo.get("classes"):
            raise UserError(
                f"{type(self).__name__}: boxes go by their things' names, and {self.ann_file} "
                "names no classes: give classes=[...]."
            )
        place = self._place()
        root = os.path.join(self.img_prefix, "")
        paths = [os.path.splitext(image["img_path"].removeprefix(root))[0] for image in images]
        found: Mapping[str, Things]
        if os.path.isdir(place):
            found = read_folder(place, paths)
        else:
            found = read_coco(place) if place.endswith(".json") else read_csv(place)
        # COCO's names may be those below the data set's folder, where paths are below the split's.
        below = os.path.relpath(root, self.data_root or ".") if os.path.isdir(root) else ""
        things = [
            found.get(path) or found.get(f"{below}/{path}") or found.get(os.path.basename(path))
            for path in paths
        ]
        if not any(things):
            raise UserError(
                f"{place} has boxes of other images: {shortened([*found], 2) or 'none'}, and in "
                f"{root} there are {shortened(paths, 2)}. Set boxes= to those of these images."
            )
        self._check_sizes(place, images, things)
        counts = self._add_boxes(images, things)
        boxed = [image for image in images if len(image["gt_bboxes"])]
        self._check_classes(place, images, boxed)
        if left := [image["img_path"] for image in images if not len(image["gt_bboxes"])]:
            what = "kept" if self.keep else "left out"
            counts.insert(0, f"{len(left)} images without a box of their class {what} ({left[0]})")
        if counts:
            print_log(f"{place}: {'; '.join(counts)}.", "current", logging.WARNING)
        return images if self.keep else boxed

    def _place(self) -> str:
        """The folder or file of the boxes."""
        root = self.data_root or ""
        places = [self.boxes] if self.boxes else [p.format(split=self.split) for p in self.places]
        for place in places:
            # Not made shorter: two folders above a link is two above what it leads to.
            if os.path.exists(path := os.path.join(root, place)):
                return path
        raise UserError(
            f"no boxes in {os.path.abspath(root)}: {', '.join(places)}. Unpack ILSVRC2012_bbox_"
            "train_v2.tar.gz and ILSVRC2012_bbox_val_v3.tgz there, or set boxes= to a folder of "
            "XML files, Kaggle's CSV or COCO's JSON."
        )

    def _check_sizes(
        self, place: str, images: Sequence[dict], things: Sequence[Things | None]
    ) -> None:
        """Compares some images' headers, for all would have to be read."""
        told = [(i, t) for i, t in zip(images, things, strict=True) if t is not None and t.size]
        for image, thing in told[:: max(1, len(told) // LOOKED_AT)]:
            try:
                height, width, _ = described(read_bytes(image["img_path"]))
            except CorruptImageError:
                continue  # whoever loads it says so
            # Of an image that EXIF turns, the header has the sides of before.
            if height and thing.size not in ((width, height), (height, width)):
                size = width, height
                raise UserError(other_size(image["img_path"], size, thing.size, place))

    def _add_boxes(self, images: list[dict], things: Sequence[Things | None]) -> list[str]:
        """Sets the samples' ``gt_bboxes``, and ``boxes_shape`` where it is told.

        Returns:
            What was wrong with boxes, each how often and where first.
        """
        classes = self._metainfo["classes"]
        folders = self._metainfo.get("folders", classes)
        owners: list[int] = []
        boxes: list[tuple[float, float, float, float]] = []
        limits = np.full((len(images), 2), np.inf)
        for i, (image, thing) in enumerate(zip(images, things, strict=True)):
            if thing is None:
                continue
            label = image["gt_label"]
            own = {classes[label], folders[label]}
            for name, box in zip(thing.names, thing.boxes, strict=True):
                if name in own:
                    owners.append(i)
                    boxes.append(box)
            if thing.size:
                image["boxes_shape"] = thing.size[::-1]
                limits[i] = thing.size
        found = np.array(boxes, np.float64).reshape(-1, 4)
        mended, faults = mend(found, limits[owners])
        usable = (mended[:, 2:] > mended[:, :2]).all(1)
        counts = []
        for what, faulty in (*faults.items(), ("outside of their image dropped", ~usable)):
            if faulty.any():
                first = images[owners[int(faulty.argmax())]]["img_path"]
                counts.append(f"{faulty.sum()} boxes {what} ({first})")
        numbers = np.array(owners, np.int64)[usable]
        ends = np.searchsorted(numbers, np.arange(len(images) + 1))
        kept = mended[usable].astype(np.float32)
        for image, start, stop in zip(images, ends[:-1], ends[1:], strict=True):
            image["gt_bboxes"] = kept[start:stop]
        return counts

    def _check_classes(self, place: str, images: list[dict], boxed: list[dict]) -> None:
        lacking = {image["gt_label"] for image in images} - {image["gt_label"] for image in boxed}
        if lacking:
            names = self._metainfo.get("folders") or self._metainfo["classes"]
            raise UserError(
                f"{place} has no box for images of {shortened([names[i] for i in sorted(lacking)])}"
                ": a thing's name is its image's folder or class. Add boxes, or leave the folder "
                "out."
            )


def mend(boxes: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Turns boxes with min > max round, and cuts off what is beyond the image.

    Args:
        boxes: (n, 4) corners.
        limits: (n, 2), their images' widths and heights; infinite where unknown.

    Returns:
        The boxes, those wholly outside without an area, and the faults, each (n,) bool. A pixel
        too far is none, for some count from 1.
    """
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    beyond = (low < 0).any(1) | (high > limits + 1).any(1)
    outside = (high <= 0).any(1) | (low >= limits).any(1)
    mended = np.concatenate([low.clip(0, limits), high.clip(0, limits)], 1)
    faults = {
        "with min > max turned round": turned,
        "beyond the edge of their image cut off": beyond & ~outside,
    }
    return mended, faults


@DATASETS.register_module()
class ImageNetBoxes(_Boxed, ImageNet):
    """ILSVRC-2012 with its boxes, those of an image's own class.

    Boxes that are the wrong way round or leave their image are mended, those outside dropped;
    images without a box (of the training set more than half) are left out, and one warning counts
    it all. Of 64 images the header is read and compared with the size that the boxes are for; the
    others are compared when they are loaded.

    Args:
        boxes: Below ``data_root``, a folder of XML files, in folders by class or all in one,
            Kaggle's CSV (which tells no sizes, and is read in seconds), or COCO's JSON. By default
            what is found of ``Annotations/CLS-LOC/SPLIT``, there or two folders above,
            ``Annotations/SPLIT``, ``LOC_SPLIT_solution.csv`` and ``annotations/SPLIT.json``.
        keep: Whether to keep images without a box, with ``gt_bboxes`` of shape (0, 4).
        kwargs: Further arguments of :class:`vgg_mm.ImageNet`.
    """


@DATASETS.register_module()
class FolderBoxes(_Boxed, Folders):
    """Your own images, a folder a class, with boxes as :class:`ImageNetBoxes` has them.

    A thing's name is its class's name or folder.

    Args:
        boxes: As :class:`ImageNetBoxes` takes it.
        keep: Likewise.
        kwargs: Further arguments of :class:`vgg_mm.Folders`.
    """
