"""Stored posteriors: what a test leaves behind, for reports, fusion and tables."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import barrier, broadcast_object_list, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch.utils.data import Sampler

from vgg_mm.arrays import BLOCK, At, Rows, blocks, read_arrays, write_arrays
from vgg_mm.errors import UserError
from vgg_mm.registry import DATA_SAMPLERS, METRICS
from vgg_mm.writing import replacing

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Protocol:
    """What was tested and how; the key of a row of the paper's tables.

    ``views`` and ``scales`` are lists of equal length: the posteriors' pairs of a view (``dense``
    or ``crops``) and Q.
    """

    config: str
    arch: str
    S: int | list[int] | None
    views: list[str]
    scales: list[int]
    flip: bool
    grid: int
    crop_size: int
    checkpoint: str
    sha256: str


@dataclass(kw_only=True)
class Stored:
    """What a test leaves behind of every image, as a file ``.npz``, of which it reads what is used.

    Args:
        labels: (N,) class numbers.
        names: (N,) the images' paths below ``root``.
        classes: The classes' names.
        root: The folder of the images.
        protocols: Those of the models that made it; several after fusion.
    """

    made_by: ClassVar[str]  # the tool, for messages
    holds: ClassVar[str]  # the field of what was computed

    labels: np.ndarray
    names: np.ndarray
    classes: np.ndarray
    root: str
    protocols: list[dict] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """What a test reports of it: name -> value."""
        raise NotImplementedError

    def no_numbers(self) -> np.ndarray:
        """Whether an image's values hold NaN or an infinity: (N,) bool."""
        values = getattr(self, self.holds)
        finite = (np.isfinite(values[rows]) for rows in blocks(values))
        return ~np.concatenate([block.reshape(len(block), -1).all(1) for block in finite])

    def save(self, path: str | Path) -> None:
        """Writes the arrays as ``.npz``, whole or not at all."""
        arrays = {**vars(self), "protocols": json.dumps(self.protocols)}
        with replacing(path) as file:
            write_arrays(file, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: If the file is missing or is none of ours.
        """
        what = cls.__name__.lower()
        try:
            saved = read_arrays(path)
            arrays: dict[str, Any] = {each.name: saved[each.name] for each in fields(cls)}
        except FileNotFoundError:
            raise UserError(f"no {what} {path}; {cls.made_by} writes them.") from None
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not a file that {cls.made_by} wrote: {error}") from None
        protocols = json.loads(str(arrays.pop("protocols")))
        return cls(**{**arrays, "root": str(arrays["root"])}, protocols=protocols)


@dataclass
class Scores(Stored):
    """The posteriors of a data set.

    Args:
        posteriors: (N, V, classes), one for each pair of a view and a scale.
    """

    made_by = "tools/test.py --out"
    holds = "posteriors"

    posteriors: np.ndarray | Rows

    def metrics(self) -> dict[str, float]:
        """``top1`` and ``top5``, the errors in %."""
        better = self._better()
        return {f"top{k}": 100 * float(np.mean(better >= k)) for k in (1, 5)}

    def mean(self, rows: At = slice(None)) -> np.ndarray:
        """The posteriors (n, classes) of some images, averaged over views and scales."""
        return self.posteriors[rows].mean(1, dtype=np.float64)

    def error(self, k: int) -> float:
        """The top-k error in %; a tie, or a score that is no number, is an error."""
        return 100 * float(np.mean(self.wrong(k)))

    def wrong(self, k: int) -> np.ndarray:
        """Whether each image is an error of top-k: (N,) bool."""
        return self._better() >= k

    def _better(self) -> np.ndarray:
        """How many classes beat an image's own or tie: (N,); infinity if a score is no number."""
        found = []
        for rows in blocks(self.posteriors):
            scores = self.mean(rows)
            own = np.take_along_axis(scores, self.labels[rows, None], 1)
            better = (~(scores < own)).sum(1) - 1
            found.append(np.where(np.isfinite(scores).all(1), better, np.inf))
        return np.concatenate(found)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@DATA_SAMPLERS.register_module()
class RemainingSampler(Sampler):
    """Yields the indices of the images that an interrupted test has not scored yet.

    Of N processes, each takes every N-th.

    Args:
        dataset: The data set to test on.
        parts: The folder where :class:`SaveScores` keeps what is scored.

    Attributes:
        scored: How many images have been scored, by all processes.
    """

    def __init__(self, dataset: BaseDataset, parts: str, seed: int | None = None) -> None:
        rank, world_size = get_dist_info()
        kept = (read_arrays(part)["names"].tolist() for part in Path(parts).glob("*.npz"))
        done = {name for names in kept for name in names}
        names = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
        remaining = [i for i, name in enumerate(names) if name not in done]
        remaining.sort(key=names.__getitem__)  # as in the file: a part then holds neighbours
        self.scored = len(dataset) - len(remaining)
        self.indices = remaining[rank::world_size]
        barrier()  # no process may add parts while another reads them

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


@METRICS.register_module()
class SaveScores(BaseMetric):
    """Keeps the posteriors of every image and writes them, sorted by name.

    While the test runs, what is scored is kept in a folder beside the file, so that a test that is
    interrupted goes on where it was (:class:`RemainingSampler`).

    Args:
        file: The file to write, see :class:`Scores`.
        protocol: The :class:`Protocol` as a dict.
        parts: The folder to keep what is scored in, see :func:`parts_folder`.
        half: Whether to store float16 in place of float32.
        every: How many seconds after it last did so a process keeps what it has scored; after long
            it is a hundredth of the time so far.
    """

    default_prefix = "error"
    stored: type[Stored] = Scores

    def __init__(
        self, file: str, protocol: dict, parts: str, half: bool = False, every: float = 1
    ) -> None:
        super().__init__()
        self.file = Path(file)
        self.protocol = protocol
        self.dtype = np.float16 if half else np.float32
        self.every = every
        self.began = self.kept = time.monotonic()
        self.parts = Path(parts)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's posteriors."""
        self.results += [
            (s["img_path"], np.ravel(s["gt_label"]), s[self.stored.holds].float().cpu().numpy())
            for s in data_samples
        ]
        now, numbers = time.monotonic(), len(self.results) * self.results[-1][2].size
        if numbers >= BLOCK or now - self.kept >= max(self.every, (now - self.began) / 100):
            self._keep()
            self.kept = now

    def _keep(self) -> None:
        if self.results:
            names, labels, values = zip(*self.results, strict=True)
            name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
            with replacing(self.parts / f"{name}.npz") as file:
                rows = np.array(values, self.dtype)
                write_arrays(file, dict(names=names, labels=labels, values=rows))
            self.results.clear()

    def evaluate(self, size: int) -> dict[str, float]:
        """Puts all processes' parts together and writes the file.

        Returns:
            What the file's own ``metrics`` are: ``error/top1`` and ``error/top5`` in %.
        """
        self._keep()
        barrier()
        metrics: list[dict[str, float]] = [{}]
        if is_main_process():
            self._merge(size).save(self.file)
            shutil.rmtree(self.parts)
            stored = self.stored.load(self.file)
            if (bad := stored.no_numbers()).any():
                print_log(
                    f"{bad.sum()} of {size} images have {stored.holds} that are no numbers (NaN or "
                    f"infinite), {stored.names[bad.argmax()]} first: the net's weights may be so "
                    "too.",
                    "current",
                    logging.WARNING,
                )
            metrics = [{f"{self.prefix}/{key}": value for key, value in stored.metrics().items()}]
        broadcast_object_list(metrics)
        return metrics[0]

    def _merge(self, size: int) -> Stored:
        """What all parts hold, sorted by name; the values are read as they are used.

        Raises:
            UserError: If an image is missing or is there twice.
        """
        rows: list[tuple] = []
        for path in sorted(self.parts.glob("*.npz")):
            part = read_arrays(path)
            rows += zip(part["names"].tolist(), part["labels"].tolist(), repeat(path), count())
        names, labels, paths, places = zip(*sorted(rows), strict=True)
        if len(names) != size or len(set(names)) != size:
            raise UserError(
                f"{self.parts} holds {len(names)} images of {size}: remove it, test anew."
            )
        kept = lru_cache(256)(lambda path: read_arrays(path)["values"])

        def make(at: Any) -> np.ndarray:
            return np.stack([kept(p)[i].copy() for p, i in zip(paths[at], places[at], strict=True)])

        values = Rows((size, *part["values"].shape[1:]), self.dtype, make)
        root = os.path.commonpath([os.path.dirname(name) for name in names])
        meta = self.dataset_meta or {}
        each = np.array(labels)
        numbers = range(values.shape[-1] if self.stored is Scores else each.max() + 1)
        return self.stored(
            labels=each if meta.get("multi_label") else each[:, 0],
            names=np.array([os.path.relpath(name, root) for name in names]),
            classes=np.array(meta.get("classes") or [str(number) for number in numbers]),
            root=root,
            protocols=[self.protocol],
            **{self.stored.holds: values},
        )

    def compute_metrics(self, results: list) -> dict:
        """Computes nothing: :meth:`evaluate` reads the results, which are on the disk."""
        return {}


def parts_folder(file: str | Path, *what: object) -> Path:
    """Where a test keeps what is scored: another folder for anything else that is tested."""
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Path(f"{file}.{key}.parts")
