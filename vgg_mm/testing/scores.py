"""Stored posteriors: what a test leaves behind, for reports, fusion and tables."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vgg_mm.arrays import At, Rows, blocks, read_arrays, write_arrays
from vgg_mm.errors import UserError
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
