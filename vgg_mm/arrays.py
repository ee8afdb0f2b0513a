"""Arrays that may be larger than the memory: a few rows at a time are read, made and written."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

BLOCK = 2**22  # numbers that are in memory at once
At = slice | np.ndarray  # some rows of an array


@dataclass(frozen=True)
class Rows:
    """An array whose rows are made as they are read.

    Args:
        shape: The array's.
        dtype: Its numbers'.
        make: Some rows -> (n, ...).
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    make: Callable[[At], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: At) -> np.ndarray:
        return self.make(rows).astype(self.dtype, copy=False)


def blocks(array: np.ndarray | Rows) -> Iterator[slice]:
    """The rows of an array, in order, so many at a time that they are :data:`BLOCK` numbers."""
    step = max(1, BLOCK // max(1, math.prod(array.shape[1:])))
    return (slice(i, i + step) for i in range(0, len(array), step))


def write_arrays(file: IO[bytes], arrays: Mapping[str, ArrayLike | Rows]) -> None:
    """Writes an ``.npz``, byte for byte as NumPy's ``savez`` does."""
    with zipfile.ZipFile(file, "w") as zipped:
        for name, array in arrays.items():
            with zipped.open(f"{name}.npy", "w", force_zip64=True) as member:
                if not isinstance(array, Rows):
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
                    continue
                descr = np.lib.format.dtype_to_descr(np.dtype(array.dtype))
                header = dict(descr=descr, fortran_order=False, shape=array.shape)
                np.lib.format.write_array_header_1_0(member, header)
                for rows in blocks(array):
                    member.write(array[rows].tobytes())


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``, not to be written to; they stay on the disk, unless compressed.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: If it is none, or holds Python objects.
    """
    data, arrays = np.memmap(path, np.uint8, "r"), {}
    with zipfile.ZipFile(path) as zipped:
        for info in zipped.infolist():
            with zipped.open(info) as member:
                if info.compress_type != zipfile.ZIP_STORED:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                else:
                    np.lib.format.read_magic(member)
                    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
                    # A member begins with 30 bytes, its name, and further fields.
                    lengths = data[info.header_offset + 26 :][:4].view("<u2")
                    begin = info.header_offset + 30 + int(lengths.sum()) + member.tell()
                    array = np.frombuffer(data, dtype, math.prod(shape), begin)
                    array = array.reshape(shape, order="F" if fortran else "C")
            arrays[info.filename.removesuffix(".npy")] = array
    return arrays
