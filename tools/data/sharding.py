"""Packing data sets into tars, and indexing tars that are there (:mod:`vgg_mm.data.shards`)."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from mmengine.registry import init_default_scope

from vgg_mm.arrays import write_arrays
from vgg_mm.data.files import EXTENSIONS, hidden
from vgg_mm.data.parts import HEADER, fetch, is_remote, length
from vgg_mm.data.shards import INDEX, NAMES, SAMPLE, Index
from vgg_mm.errors import UserError
from vgg_mm.processes import in_processes
from vgg_mm.registry import DATASETS
from vgg_mm.writing import replacing

AGAIN = "Mend that, and run this again to go on from here."
KEYS = ("label", "cls", "class")  # of a webdataset's JSON


class File(NamedTuple):
    """An image's file, before it is packed.

    Attributes:
        path: Where it is.
        name: What it is called in the data set.
        label: Its class, or -1.
        size: In bytes.
        changed: When, in nanoseconds.
    """

    path: str
    name: str
    label: int
    size: int
    changed: int

    def header(self) -> bytes:
        """What a tar has before it: the same for the same name and size."""
        info = tarfile.TarInfo(self.name)
        info.size = self.size
        return info.tobuf(tarfile.PAX_FORMAT, *NAMES)


def pack(cfg: dict, out: Path, limit: int, jobs: int = 1) -> Index:
    """Packs a data set's files, as they are, in its order; a progress bar goes to stderr.

    Args:
        cfg: The data set's config.
        out: The folder to fill. A tar appears there whole or not at all, the index last; what is
            there of an earlier run stays.
        limit: Bytes that a tar may have, unless one image has more.
        jobs: How many processes work.

    Raises:
        UserError: If the data set cannot be had, a file cannot be read or written, or ``out`` holds
            something else.
    """
    init_default_scope("mmpretrain")
    dataset: Any = DATASETS.build({**cfg, "pipeline": []})
    if (folder := getattr(dataset, "img_prefix", "")) and out.resolve().is_relative_to(
        Path(folder).resolve()
    ):
        raise UserError(f"{out} is in {folder}, whose folders are classes. Name a folder apart.")
    shards = [*_split(_files(dataset), limit)]
    paths = [out / f"{number:05}.tar" for number in range(len(shards))]
    rows = [_row(i, file, start) for i, files in enumerate(shards) for file, start in files]
    meta = {key: dataset.metainfo[key] for key in ("classes", "folders") if key in dataset.metainfo}
    names = [file.name for files in shards for file, _ in files]
    index = _index(names, rows, [path.name for path in paths], meta)
    _check(out, paths, index)
    for _ in in_processes(_pack, [*zip(paths, shards, strict=True)], jobs, "Packing", chunk=1):
        pass
    _write(index, out)
    return index


def _files(dataset: Any) -> Iterator[File]:
    prefix = getattr(dataset, "img_prefix", "").rstrip("/") + "/"
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path, label = info["img_path"], info.get("gt_label", -1)
        if not isinstance(label, int | np.integer):
            raise UserError(f"{path}: the label {label!r} is no number of a class.")
        name = path[len(prefix) :] if path.startswith(prefix) else os.path.abspath(path).lstrip("/")
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}. {AGAIN}") from None
        yield File(path, name, int(label), found.st_size, found.st_mtime_ns)


def _split(files: Iterator[File], limit: int) -> Iterator[list[tuple[File, int]]]:
    """The files of each tar, and where the header of each, or its last block, begins in it."""
    shard: list[tuple[File, int]] = []
    end = 0
    for file in files:
        header = len(file.header())
        size = header + file.size + -file.size % HEADER
        if shard and end + size > limit:
            yield shard
            shard, end = [], 0
        shard.append((file, end + header - HEADER))
        end += size
    if shard:
        yield shard


def _row(shard: int, file: File, start: int) -> tuple[int, ...]:
    return shard, file.label, crc32(file.header()[-HEADER:]), start, file.size


def _index(names: Sequence[str], rows: Sequence[tuple], shards: Sequence[str], meta: dict) -> Index:
    return Index(
        np.array([name.encode(*NAMES) for name in names]),
        np.array(rows, SAMPLE),
        np.array(shards),
        np.array(json.dumps(meta)),
    )


def _write(index: Index, out: Path) -> None:
    with replacing(out / INDEX) as file:
        write_arrays(file, index._asdict())


def _check(out: Path, paths: Sequence[Path], index: Index) -> None:
    """Raises UserError if ``out`` holds something else; removes what a killed run left."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file: name a folder.")
    for left_over in out.glob(".*.tar.*.tmp"):
        left_over.unlink()
    known = {*paths, out / INDEX}
    other = sorted(path for path in out.iterdir() if path not in known and not hidden(path.name))
    if (out / INDEX).exists():
        there = Index.read(str(out))
        if not all(map(np.array_equal, there, index)):
            other = [out / INDEX, *other]
    if other:
        raise UserError(f"{other[0]} is of something else: name another folder, or remove it.")


def _pack(task: tuple[Path, list[tuple[File, int]]]) -> None:
    """Writes a tar, unless it is there."""
    path, files = task
    if _is_there(path, files):
        return
    with replacing(path) as tar:
        for file, _ in files:
            try:
                data = Path(file.path).read_bytes()
            except OSError as error:
                raise UserError(f"{file.path}: {error.strerror}. {AGAIN}") from None
            if len(data) != file.size:
                raise UserError(f"{file.path} is being changed: {file.size} bytes are {len(data)}.")
            tar.write(file.header() + data + bytes(-file.size % HEADER))
        tar.write(bytes(2 * HEADER))  # a tar's end


def _is_there(path: Path, files: list[tuple[File, int]]) -> bool:
    """Whether a tar is what would be written, by its headers, size and date."""
    last, start = files[-1]
    size = start + HEADER + last.size + -last.size % HEADER + 2 * HEADER
    if not path.exists() or path.stat().st_size != size:
        return False
    with open(path, "rb", buffering=0) as tar:
        for file, start in files:
            tar.seek(start)
            if (
                file.changed > path.stat().st_mtime_ns
                or tar.read(HEADER) != file.header()[-HEADER:]
            ):
                return False
    return True


def index_tars(tars: Sequence[str], out: Path, jobs: int = 1) -> Index:
    """Writes the index of tars that are there: webdataset's, or with a folder for each class.

    Args:
        tars: Their paths or addresses. Only headers and labels are read.
        out: The folder for the index.
        jobs: How many processes work.

    Raises:
        UserError: If one is missing, truncated or no tar, an image has no label, there is no image,
            or ``out`` has another index.
    """
    found = [*in_processes(_index_tar, tars, jobs, "Indexing", chunk=1)]
    names = [name for images in found for name, *_ in images]
    if not names:
        raise UserError(f"{tars[0]}: no image ({', '.join(EXTENSIONS)}).")
    labels = {label for images in found for *_, label in images}
    numbers, meta = {label: label for label in labels}, {}
    if not all(isinstance(label, int) for label in labels):
        meta = dict(classes=sorted({*map(str, labels)}))
        by_name = {name: i for i, name in enumerate(meta["classes"])}
        numbers = {label: by_name[str(label)] for label in labels}
    rows = [
        (i, numbers[label], check, start, size)
        for i, images in enumerate(found)
        for _, start, size, check, label in images
    ]
    index = _index(names, rows, [_from(out, tar) for tar in tars], meta)
    if (out / INDEX).exists() and not all(map(np.array_equal, Index.read(str(out)), index)):
        raise UserError(f"{out / INDEX} is of something else: name another folder, or remove it.")
    _write(index, out)
    return index


def _from(out: Path, tar: str) -> str:
    if is_remote(tar):
        return tar
    path, folder = Path(tar).resolve(), out.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _index_tar(tar: str) -> list[tuple[str, int, int, int, int | str]]:
    """The name, start, size, check and label of each image of a tar."""
    images, labels = [], {}
    try:
        stream = io.BufferedReader(_Stream(tar), 8 * HEADER)
        with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as members:
            for member in filter(tarfile.TarInfo.isreg, members):
                folder, _, base = member.name.rpartition("/")
                key, _, ending = base.partition(".")
                if ending in ("cls", "json"):
                    text = members.extractfile(member).read()  # type: ignore[union-attr]
                    label = _label(ending, text)
                    if label is not None and (ending == "cls" or (folder, key) not in labels):
                        labels[folder, key] = label
                elif base.lower().endswith(EXTENSIONS) and not hidden(base):
                    start = member.offset_data - HEADER
                    stream.seek(start)
                    check = crc32(stream.read(HEADER))
                    images.append((member.name, start, member.size, check, (folder, key)))
            stream.seek(members.offset)  # tarfile takes a damaged header for the end
            if stream.read(HEADER) != bytes(HEADER):
                raise tarfile.ReadError(f"neither a header nor the end at byte {members.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{tar} is no whole tar of images and labels: {error}.") from None
    # Of a sample KEY.jpg, KEY.mask.png, KEY.cls the first is the image.
    plain = {key for name, *_, key in images if _dots(name) == 1 and key in labels}
    images = [image for image in images if image[4] not in plain or _dots(image[0]) == 1]
    for name, *_, (folder, key) in images:
        if (folder, key) not in labels and not folder.strip("./"):
            raise UserError(f"{tar}: {name} has neither {key}.cls, nor {key}.json, nor a folder.")
    return [(*image[:4], labels.get(image[4], image[4][0].rpartition("/")[2])) for image in images]


def _dots(path: str) -> int:
    return path.rpartition("/")[2].count(".")


def _label(ending: str, text: bytes) -> int | str | None:
    """A class's number or name."""
    if ending == "json":
        content = json.loads(text)
        found = (content.get(key) for key in KEYS) if isinstance(content, dict) else ()
        return next((label for label in found if isinstance(label, int | str)), None)
    word = text.decode().strip()
    return int(word) if word.isdecimal() else word


class _Stream(io.RawIOBase):
    """A file, here or on a server, as a stream."""

    def __init__(self, file: str) -> None:
        self.file, self.length, self.at = file, length(file), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.length)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.length - self.at))
        data = fetch(self.file, self.at, size) if size else b""
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
