"""Measures what a test's results take of the memory, with generated posteriors: Linux.

save_peak_mib   from the first image to the file, besides what the process held before
fuse_peak_mib   reading, averaging with itself, and writing what tools/analysis/fuse.py writes
data_mib        the posteriors
save_seconds    the time of the first
fuse_seconds    and of the second

Counted is memory that only swapping frees (RssAnon); the system's cache of files is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import torch

from tools.analysis.fusion import fuse
from tools.benchmarks import parser, write
from tools.keeping import SaveScores
from vgg_mm.testing import Scores


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark."""
    args = parser("stores", __doc__)
    args.add_argument("--images", type=int, default=200_000)
    args.add_argument("--numbers", type=int, default=4096, help="of an image")
    args.add_argument("--half", action="store_true", help="store float16")
    args.add_argument("--folder", type=Path, help="where there is room for three times the data")
    args = args.parse_args(argv)
    with TemporaryDirectory(dir=args.folder) as folder:
        one, two = (Path(folder, name) for name in ("one.npz", "two.npz"))
        saved, save_seconds = peak(lambda: save(one, args.images, args.numbers, args.half))
        fused, fuse_seconds = peak(lambda: average(one, two))
        data = Scores.load(one).posteriors.nbytes / 2**20
    figures = dict(save_peak_mib=saved, fuse_peak_mib=fused, data_mib=data)
    write(figures | dict(save_seconds=save_seconds, fuse_seconds=fuse_seconds), args.json)


def save(file: Path, images: int, numbers: int, half: bool = False, batch: int = 64) -> None:
    """Makes and stores posteriors (images, 1, numbers), in their names' order, as a test does."""
    saver = SaveScores(str(file), dict(config="generated"), f"{file}.parts", half=half)
    generator = torch.Generator().manual_seed(0)
    for begin in range(0, images, batch):
        posteriors = torch.rand(min(batch, images - begin), 1, numbers, generator=generator)
        posteriors /= posteriors.sum(2, keepdim=True)
        names = (f"/data/{i // 100:05}/{i:07}.jpg" for i in range(begin, images))
        saver.process(
            {},
            [
                dict(img_path=name, gt_label=len(name) % numbers, posteriors=each)
                for name, each in zip(names, posteriors, strict=False)
            ],
        )
    saver.evaluate(images)


def average(file: Path, out: Path) -> None:
    """Fuses posteriors with themselves."""
    scores = Scores.load(file)
    fused = fuse([(file, scores), (file, scores)], [0.5, 0.5])
    fused.metrics()
    fused.save(out)


def peak(run: Callable[[], object]) -> tuple[float, float]:
    """The MiB that ``run`` takes at its peak, looked at every 5 ms, and its seconds."""
    before, ended, seen = _anonymous(), Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.005):
            seen[0] = max(seen[0], _anonymous() - before)

    thread, start = Thread(target=watch), time.perf_counter()
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    return seen[0], time.perf_counter() - start


def _anonymous() -> float:
    (kib,) = (
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )
    return int(kib) / 1024
