"""Data sets in large files: tars of a gigabyte, here or on a server, and an index of them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import numpy as np

from vgg_mm.arrays import read_arrays
from vgg_mm.data.classes import differences, positions
from vgg_mm.data.folders import Folders
from vgg_mm.data.parts import Part, fetch, is_remote
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS

INDEX = "index.npz"
NAMES = ("utf-8", "surrogateescape")  # their code
SAMPLE = np.dtype(
    [("shard", "<u4"), ("label", "<i4"), ("check", "<u4"), ("start", "<i8"), ("size", "<i8")]
)


class Index(NamedTuple):
    """Where the images of a data set are; a file of it stays on the disk, a row is read at a time.

    Attributes:
        names: (N,) bytes, UTF-8: the images' paths in their folder.
        samples: (N,) of ``SAMPLE``: the number of the shard and what :class:`Part` says. Labels
            count from 0; -1 is none.
        shards: The shards' addresses, or their paths from the index's folder.
        meta: The data set's ``metainfo`` as JSON, with ``classes`` and ``folders`` if they are
            known.
    """

    names: np.ndarray
    samples: np.ndarray
    shards: np.ndarray
    meta: np.ndarray

    @classmethod
    def read(cls, root: str) -> Index:
        """Reads the one in a folder, or at an address, of shards.

        Raises:
            UserError: If it is missing or something else.
        """
        file = f"{root}/{INDEX}"
        try:
            if not is_remote(file):
                return cls(**read_arrays(file))
            with NamedTemporaryFile() as copy:
                copy.write(fetch(file))
                copy.flush()
                return cls(**read_arrays(copy.name))
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"no index of shards {file}: {getattr(error, 'strerror', None) or error}. "
                "tools/data/make_shards.py makes one."
            ) from error


class _Samples(Sequence):
    """A data set's samples, each made when it is asked for."""

    def __init__(self, root: str, index: Index, labels: np.ndarray | None) -> None:
        self.root, self.rows, self.labels = root, index, labels
        self.shards = [
            each if is_remote(each) or os.path.isabs(each) else f"{root}/{each}"
            for each in index.shards.tolist()
        ]

    def __len__(self) -> int:
        return len(self.rows.names)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        shard, label, check, start, size = self.rows.samples[at].tolist()
        path = f"{self.root}/{self.rows.names[at].decode(*NAMES)}"
        sample = dict(img_path=path, file=Part(path, self.shards[shard], start, size, check))
        return sample if self.labels is None else sample | dict(gt_label=int(self.labels[label]))


@DATASETS.register_module()
class Shards(Folders):
    """Images in tars that ``tools/data/make_shards.py`` packed or indexed, webdataset's too.

    Samples are those of the data set that was packed, in its order, with the same bytes: what
    (seed, epoch, index) draws stays the same. An image is read alone, by its place in its tar. Its
    class is known by its name: ``classes`` may bring them into another order, or name them where an
    index only has numbers.

    A shard that is missing, truncated or another makes its images corrupt ones; a server that does
    not answer, however often it is asked, ends a run (:mod:`vgg_mm.data.parts`).

    Args:
        data_root: The folder, or its address: ``https://...``, ``s3://...``, or whatever else
            fsspec has, with its settings from fsspec's files and variables of the environment.
        split: The folder in it, such as ``'train'``.
        kwargs: Further arguments of :class:`Folders`, without ``ann_file``.

    Raises:
        UserError: If the index is missing or something else, or names other classes.
    """

    def __init__(self, data_root: str = "", split: str = "", **kwargs) -> None:
        super().__init__(data_root, split, **{**kwargs, "serialize_data": False})

    def _join_prefix(self) -> None:  # mmengine's joins no http addresses
        prefix = os.path.join(self.data_root, self.img_prefix).rstrip("/")
        self.data_prefix = dict(img_path=prefix)

    def load_data_list(self) -> Any:
        """The index's samples, which stay on the disk."""
        root = self.img_prefix
        index = Index.read(root)
        labels, theirs = index.samples["label"], json.loads(str(index.meta))
        theirs = {key: tuple(names) for key, names in theirs.items()}
        if not self.with_label:
            return _Samples(root, index, None)
        filled = np.unique(labels)
        if not len(filled) or filled[0] < 0:
            raise UserError(f"{root}/{INDEX}: no labels. Set with_label=False.")
        numbers = np.arange(filled[-1] + 1)
        if self._metainfo.get("classes") and theirs.get("classes"):
            if (found := positions(self._metainfo, theirs)) is None:
                raise UserError(differences(root, theirs, "the config", self._metainfo))
            numbers = np.array(found)
        else:
            self._metainfo.update(theirs)
        place = index.names[int(np.argmax(labels))].decode(*NAMES)
        self.largest = int(numbers[filled].max()), f"{root}/{place}"
        self.empty = {*range(len(self._metainfo.get("classes") or ()))} - {*numbers[filled]}
        return _Samples(root, index, numbers)
