"""Measures reading images of a folder and of shards, in random order, as a training does: Linux.

cold_folder, cold_shards   files/s once the system has forgotten the files
warm_folder, warm_shards   files/s out of its cache
cold_ratio, warm_ratio     shards' over the folder's

Files are generated, of random bytes. As root, all that the system keeps in memory of its disks is
dropped before a cold run, which slows whatever else runs there for a while; else these files'
content is, and not their names and places, which favours the folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tools.benchmarks import parser, write
from tools.data.sharding import pack
from vgg_mm.data import Folders, Shards
from vgg_mm.data.images import read_bytes

DROP = Path("/proc/sys/vm/drop_caches")


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark."""
    args = parser("shards", __doc__)
    args.add_argument("--files", type=int, default=20_000)
    args.add_argument("--kb", type=int, default=20, help="of a file, on average")
    args.add_argument("--folder", type=Path, help="on the disk to measure")
    args = args.parse_args(argv)
    with TemporaryDirectory(dir=args.folder) as folder:
        files, shards = Path(folder, "files"), Path(folder, "shards")
        generate(files, args.files, args.kb * 1000)
        pack(dict(type="vgg_mm.Folders", data_root=str(files)), shards, 10**9)
        ways = dict(folder=Folders(str(files)), shards=Shards(str(shards)))
        order = np.random.default_rng(1).permutation(args.files).tolist()
        seconds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, dataset in ways.items():
                forget(folder)
                for state in ("cold", "warm"):
                    run = _reading(dataset, order)
                    seconds.setdefault(f"{state}_{name}", []).append(run())
    figures = {name: args.files / median(times) for name, times in seconds.items()}
    for state in ("cold", "warm"):
        figures[f"{state}_ratio"] = figures[f"{state}_shards"] / figures[f"{state}_folder"]
    write(figures, args.json)


def generate(folder: Path, number: int, size: int) -> None:
    """Writes files of random bytes, half to one and a half ``size``, in ten folders."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / f"class_{i % 10}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(int(rng.integers(size // 2, size * 3 // 2))))


def _reading(dataset: Any, order: Sequence[int]) -> Callable[[], float]:
    samples = [dataset.get_data_info(i) for i in order]

    def run() -> float:
        start = time.perf_counter()
        for sample in samples:
            read_bytes(sample.get("file", sample["img_path"]))
        return time.perf_counter() - start

    return run


def forget(folder: str) -> None:
    """Has the system forget the files in a folder, as far as it allows."""
    os.sync()
    for path in (path for path in Path(folder).rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        DROP.write_text("3")
    except OSError:
        print(f"{DROP}: not allowed; names and places of files stay known.", file=sys.stderr)
