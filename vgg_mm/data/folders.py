"""Data sets that are folders of classes or lists, checked before the first picture is read."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine import fileio
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset, CustomDataset
from mmpretrain.datasets import ImageNet as _ImageNet

from vgg_mm.data.classes import shortened
from vgg_mm.data.files import EXTENSIONS, files_below, folders_in, left_out
from vgg_mm.data.lists import check_label, read_list
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS

WORDNET = tuple(Path(__file__).with_name("imagenet_folders.txt").read_text().split())


class _ByName:
    """Lists pictures by their folders, whose names are their classes', or by an ``ann_file``.

    Attributes:
        empty: The labels of the classes without a picture.
        largest: Of an ``ann_file``, the largest label and where it stands first; else None.
    """

    IMG_EXTENSIONS = EXTENSIONS
    layout = "one folder a class, each with its pictures"
    remedy = "Set data_root in the config, or with --cfg-options."
    largest: tuple[int, str] | None = None

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        """As mmengine's; names for the classes take the place of the folders' names too."""
        loaded = super()._load_metainfo(metainfo)
        if "classes" in (metainfo or {}) and "folders" not in metainfo:
            loaded.pop("folders", None)
        return loaded

    def load_data_list(self) -> list[dict]:
        """Lists the pictures, each with its label.

        Raises:
            UserError: If there are none, a folder is no class, or a list names no class.
        """
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
        """Lists (file, label) below the folder; without labels, all pictures there."""
        root = self.img_prefix if "://" in self.img_prefix else os.path.abspath(self.img_prefix)
        found = folders_in(root) if self.with_label else [""]
        if not found or not fileio.isdir(root):
            raise UserError(f"no pictures in {root}: expected {self.layout}. {self.remedy}")
        labels = self._labels(root, found) if self.with_label else {"": None}
        join = fileio.get_file_backend(root, enable_singleton=True).join_path
        samples, others = [], []
        for folder in found:
            for name in sorted(files_below(join(root, folder) if folder else root)):
                path = join(folder, name) if folder else name
                if self.is_valid_file(name):
                    samples.append((path, labels[folder]))
                else:
                    others.append(path)
        if others:
            print_log(left_out(root, others), logger="current", level=30)
        if not samples:
            raise UserError(
                f"no picture ({', '.join(sorted(self.extensions))}) in {root}, in "
                f"{len(found)} folder(s): {shortened(found)}. Fill them, or name another folder."
            )
        return samples

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
        samples, classes = [], self._metainfo.get("classes")
        for number, path, label in read_list(self.ann_file, self.with_label):
            if label is not None:
                place = f"{self.ann_file}, line {number}"
                check_label(label, classes, place, path)
                self._note(label, place)
            samples.append((path, label))
        if self.with_label and not classes and (names := _parents(samples)):
            self._metainfo["classes"] = names
        return samples

    def _read_json(self) -> list[dict]:
        """Mmengine's own format, ``metainfo`` and ``data_list``."""
        try:
            images = BaseDataset.load_data_list(self)
        except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
            raise UserError(f"{self.ann_file} is no list of mmengine's: {error}") from error
        classes = self._metainfo.get("classes") or self._metainfo.get("categories")
        for i, image in enumerate(images if self.with_label else ()):
            place, path = f"{self.ann_file}, data_list[{i}]", image.get("img_path", "a picture")
            if "gt_label" not in image:
                raise UserError(f"{place}: {path} has no gt_label.")
            check_label(image["gt_label"], classes, place, path)
            self._note(image["gt_label"], place)
        return images

    def _note(self, label: int | list[int], place: str) -> None:
        for each in label if isinstance(label, list | tuple) else [label]:
            if self.largest is None or each > self.largest[0]:
                self.largest = each, place


def _parents(samples: list[tuple[str, int]]) -> tuple[str, ...] | None:
    """The classes' names where labels and the pictures' folders tell the same apart."""
    pairs = {(label, os.path.basename(os.path.dirname(path))) for path, label in samples}
    labels, names = zip(*sorted(pairs), strict=True)
    alike = labels == (*range(len(pairs)),) and len({*names}) == len(pairs) and all(names)
    return names if alike else None


@DATASETS.register_module()
class Folders(_ByName, CustomDataset):
    """Your own pictures, a folder a class: ``data_root/split/class_x/any.jpg``.

    A label is the number of the folder's name among the classes. These are ``classes``, or else the
    folders, sorted; ``metainfo=dict(classes=[...], folders=[...])`` names classes in other words
    than their folders. What is hidden, and other files than pictures
    (:mod:`vgg_mm.data.files`), is left out.

    Args:
        data_root: The folder of the data set.
        split: The folder in it, such as ``'train'``, as ImageNet's; empty where there is none.
        kwargs: Further arguments of mmpretrain's ``CustomDataset``: with ``ann_file``, lines of a
            picture's path and label, or mmengine's JSON, list the pictures. Their classes are
            ``classes``, or else the folders in the paths, if each has one label of its own.
    """

    def __init__(self, data_root: str = "", split: str = "", **kwargs) -> None:
        kwargs = {"data_prefix": split, "extensions": self.IMG_EXTENSIONS, **kwargs}
        super().__init__(data_root=data_root, **kwargs)


@DATASETS.register_module()
class ImageNet(_ByName, _ImageNet):
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
