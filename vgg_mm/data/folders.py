"""Data sets that are folders of classes, with errors that say what is missing."""

from __future__ import annotations

import os

from mmengine import fileio
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets import ImageNet as _ImageNet

from vgg_mm.demo import unpack
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


class _CheckedFolders:
    """Checks that there are class folders, and a picture in each."""

    layout = "one folder a class, each with its pictures"
    remedy = "Set data_root in the config, or with --cfg-options."

    def _find_samples(self) -> list[tuple[str, int]]:
        """Lists (file, label); mmpretrain calls it where no ``ann_file`` lists them.

        Raises:
            UserError: If the folder is missing, or has no, too many or empty class folders.
        """
        root = os.path.abspath(self.img_prefix) if "://" not in self.img_prefix else self.img_prefix
        folders = []
        if fileio.isdir(root):
            folders = sorted(fileio.list_dir_or_file(root, list_dir=True, list_file=False))
        if not folders:
            raise UserError(f"no pictures in {root}: expected {self.layout}. {self.remedy}")
        if self.CLASSES and len(self.CLASSES) != len(folders):
            raise UserError(
                f"{root} has {len(folders)} class folders, but {type(self).__name__} has "
                f"{len(self.CLASSES)} classes. Complete the folders, or use "
                "type='vgg_mm.Folders', which takes the classes from them."
            )
        try:
            samples = super()._find_samples()
        except RuntimeError:  # no file at all
            samples = []
        filled = {label for _, label in samples}
        empty = [folder for label, folder in enumerate(folders) if label not in filled]
        if empty:
            raise UserError(
                f"no picture ({', '.join(sorted(self.extensions))}) in {len(empty)} class folder(s)"
                f" of {root}: {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}. Fill or "
                "remove them."
            )
        return samples


@DATASETS.register_module()
class Folders(_CheckedFolders, CustomDataset):
    """Your own pictures, a folder a class: ``data_root/split/class_x/any.jpg``.

    The classes are the folders, sorted.

    Args:
        data_root: The folder of the data set.
        split: The folder in it, such as ``'train'``, as ImageNet's; empty where there is none.
        kwargs: Further arguments of mmpretrain's ``CustomDataset``.
    """

    def __init__(self, data_root: str = "", split: str = "", **kwargs) -> None:
        super().__init__(data_root=data_root, data_prefix=split, **kwargs)


@DATASETS.register_module()
class ImageNet(_CheckedFolders, _ImageNet):
    """ILSVRC-2012 as mmpretrain's ``ImageNet`` reads it, with errors that say what is missing."""

    layout = "1000 folders such as n01440764, each with its .JPEG files"
    remedy = (
        "Make them from ILSVRC's tar files with 'python tools/data/prepare_imagenet.py TAR_FOLDER "
        "data/imagenet', link data/imagenet to where they are, or set data_root in the config. "
        "Without ImageNet, try configs/demo.py."
    )


@DATASETS.register_module()
class DemoPictures(Folders):
    """The pictures that ship with the package, unpacked at ``data_root`` on first use.

    Args:
        data_root: Where to unpack them.
        kwargs: Further arguments of :class:`Folders`.
    """

    def __init__(self, data_root: str = "data/demo", **kwargs) -> None:
        unpack(data_root)
        super().__init__(data_root=data_root, **kwargs)
