"""Data sets that are folders of classes or lists, checked before the first image is read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmengine import fileio
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset, CustomDataset
from mmpretrain.datasets import ImageNet as _ImageNet

from vgg_mm.data.classes import shortened
from vgg_mm.data.files import EXTENSIONS, folders_in, images_below
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS

WORDNET = tuple(Path(__file__).with_name("imagenet_folders.txt").read_text().split())
WARNING = 30  # logging's level


def read_lines(file: str, what: str = "images") -> list[tuple[int, str]]:
    """The lines of a file that are not empty, each with its number; ``what`` is what they name.

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


def check_store(root: str) -> None:
    """Raises UserError unless mmengine lists the folders at ``root``, a path or an address."""
    try:
        fileio.join_path(root, "")
    except (AttributeError, ImportError, KeyError) as error:
        raise UserError(
            f"data_root={root}: mmengine lists no folders there ({error}). Tars at an address are "
            "read with type='vgg_mm.Shards'."
        ) from None


@DATASETS.register_module()
class Folders(CustomDataset):
    """Your own images, a folder a class: ``data_root/split/class_x/any.jpg``.

    A label is the number of the folder's name among the classes. These are ``classes``, or else the
    folders, sorted; ``metainfo=dict(classes=[...], folders=[...])`` names classes in other words
    than their folders. Each may be the name of a file, with a name a line. What is hidden, and
    other files than images (:mod:`vgg_mm.data.files`), is left out.

    Args:
        data_root: The folder of the data set.
        split: The folder in it, such as ``'train'``, as ImageNet's; empty where there is none.
        kwargs: Further arguments of mmpretrain's ``CustomDataset``: with ``ann_file``, lines of an
            image's path and label, or mmengine's JSON, list the images. Their classes are
            ``classes``, or else the folders in the paths, if each has one label of its own.

    Attributes:
        empty: The labels of the classes without an image.
        largest: Of an ``ann_file``, the largest label and where it stands first; else None.
    """

    IMG_EXTENSIONS = EXTENSIONS
    layout = "one folder a class, each with its images"
    remedy = "Set data_root in the config, or with --cfg-options."
    largest: tuple[int, str] | None = None

    def __init__(self, data_root: str = "", split: str = "", **kwargs) -> None:
        kwargs = {"data_prefix": split, "extensions": self.IMG_EXTENSIONS, **kwargs}
        super().__init__(data_root=data_root, **kwargs)

    def _join_prefix(self) -> None:
        check_store(self.data_root)
        super()._join_prefix()

    def _compat_classes(self, metainfo: dict | None, classes: object) -> dict:
        """As mmpretrain's; UserError if a file that should name classes is missing or empty."""
        if isinstance(classes, list | tuple):
            classes = tuple(classes)
        found = ({} if classes is None else {"classes": classes}) | (metainfo or {})
        for key in found.keys() & {"classes", "folders"}:
            if isinstance(found[key], str):
                file = os.path.expanduser(found[key])
                found[key] = [line for _, line in read_lines(file, "classes")]
        return super()._compat_classes(found, None)

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        """As mmengine's; names for the classes take the place of the folders' names too."""
        metainfo = metainfo or {}
        loaded = super()._load_metainfo(metainfo)
        if "classes" in metainfo and "folders" not in metainfo:
            loaded.pop("folders", None)
        return loaded

    def load_data_list(self) -> list[dict]:
        """Lists the images, each with its label."""
        if self.ann_file.endswith(".json"):
            images = self._read_json()
        else:
            samples = self._read_list() if self.ann_file else self._find_samples()
            join = fileio.get_file_backend(self.img_prefix, enable_singleton=True).join_path
            images = [
                {"img_path": join(self.img_prefix, path)}
                | ({} if label is None else {"gt_label": label})
                for path, label in samples
            ]
        classes = self._metainfo.get("classes") if self.with_label else None
        filled = {image.get("gt_label") for image in images} if classes else ()
        self.empty = {*range(len(classes or ()))} - {*filled}
        return images

    def _find_samples(self) -> list[tuple[str, int | None]]:
        """Lists (file, label) below the folder; without labels, all images there."""
        root = self.img_prefix if "://" in self.img_prefix else os.path.abspath(self.img_prefix)
        folders = folders_in(root) if self.with_label else [""]
        if not folders or not fileio.isdir(root):
            raise UserError(f"no images in {root}: expected {self.layout}. {self.remedy}")
        labels = self._labels(root, folders) if self.with_label else {}
        paths, left_out = images_below(root, self.extensions, in_folders=self.with_label)
        if left_out:
            print_log(left_out, logger="current", level=WARNING)
        if not paths:
            raise UserError(
                f"no image ({', '.join(sorted(self.extensions))}) in {root}, in {len(folders)} "
                f"folder(s): {shortened(folders)}. Fill them, or name another folder."
            )
        return [(path, labels.get(path.partition("/")[0])) for path in paths]

    def _labels(self, root: str, found: list[str]) -> dict[str, int]:
        """The label of each class folder, which its name decides."""
        classes = list(self._metainfo.setdefault("classes", tuple(found)))
        folders = list(self._metainfo.get("folders", classes))
        number = {folder: label for label, folder in enumerate(folders)}
        if len(number) != len(classes):
            raise UserError(
                f"{type(self).__name__}: {len(classes)} classes in {len(number)} folders, "
                f"{shortened(classes)} in {shortened(folders)}: give each class a name, or a folder"
                " of metainfo=dict(classes=[...], folders=[...]), of its own."
            )
        if unknown := [folder for folder in found if folder not in number]:
            raise UserError(
                f"{root}: {shortened(unknown)} is no class of {type(self).__name__}. Its folders: "
                f"{shortened(found)}; the classes' folders: {shortened(folders)}. Remove or rename "
                "it, or use type='vgg_mm.Folders' without 'classes', which takes the classes from "
                "the folders."
            )
        return number

    def _read_list(self) -> list[tuple[str, int | None]]:
        if not self.with_label:
            return [(path, None) for _, path in read_lines(self.ann_file)]
        samples: list[tuple[str, int | None]] = []
        pairs = set()
        for number, line in read_lines(self.ann_file):
            place = f"{self.ann_file}, line {number}"
            found = re.fullmatch(r"(.*\S)\s+([+-]?[0-9]+)", line)
            if not found or re.search(r"\s[+-]?[0-9]+$", found[1]):
                raise UserError(
                    f"{place}: {line!r} is no image's path and the number of its class."
                )
            path, label = found[1], int(found[2])
            self._check(label, place, path)
            samples.append((path, label))
            pairs.add((label, os.path.basename(os.path.dirname(path))))
        if not self._metainfo.get("classes"):
            labels, names = zip(*sorted(pairs), strict=True)
            if labels == (*range(len(pairs)),) and len({*names}) == len(pairs) and all(names):
                self._metainfo["classes"] = names
            else:
                print_log(
                    f"{self.ann_file}: the images' folders do not name the classes, so its labels "
                    "are taken for the net's outputs as they stand. Name them with classes=[...].",
                    logger="current",
                    level=WARNING,
                )
        return samples

    def _read_json(self) -> list[dict]:
        """Mmengine's own format, ``metainfo`` and ``data_list``."""
        try:
            images = BaseDataset.load_data_list(self)
        except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
            raise UserError(f"{self.ann_file} is no list of mmengine's: {error}") from error
        for i, image in enumerate(images if self.with_label else ()):
            place, path = f"{self.ann_file}, data_list[{i}]", image.get("img_path", "an image")
            if "gt_label" not in image:
                raise UserError(f"{place}: {path} has no gt_label.")
            self._check(image["gt_label"], place, path)
        return images

    def _check(self, label: object, place: str, path: str) -> None:
        """Raises UserError if a listed label is no number of a class; notes the largest."""
        classes = self._metainfo.get("classes") or self._metainfo.get("categories")
        if not isinstance(label, int) or label < 0 or (classes and label >= len(classes)):
            most = f" to {len(classes) - 1} ({shortened(classes)})" if classes else " or more"
            raise UserError(
                f"{place}: the label {label!r} of {path} is no class. Labels count from 0: 0{most}."
            )
        if self.largest is None or label > self.largest[0]:
            self.largest = label, place


@DATASETS.register_module()
class ImageNet(Folders, _ImageNet):
    """ILSVRC-2012 as mmpretrain's ``ImageNet`` reads it, with errors that say what is missing.

    A folder is named by the WordNet id of its class, whatever other folders there are.
    """

    METAINFO = {**_ImageNet.METAINFO, "folders": WORDNET}
    layout = "1000 folders such as n01440764, each with its .JPEG files"
    remedy = (
        "Make them from ILSVRC's tar files with 'python tools/data/prepare_imagenet.py TAR_FOLDER "
        "data/imagenet', link data/imagenet to where they are, or set data_root in the config. "
        "Without ImageNet, try configs/demo.py."
    )

    def __init__(self, data_root: str = "", split: str = "", **kwargs) -> None:
        if split not in ("", "train", "val", "test"):
            raise UserError(f"{type(self).__name__}: split={split!r} is none of train, val, test.")
        check_store(data_root)
        _ImageNet.__init__(self, data_root, split, **kwargs)
