"""How fast crops of JPEGs become float batches, beside other libraries (Sec. 3.1).

These are mmpretrain, torchvision and, where they are installed, DALI and SPDL, which is run with
its own decoder and with simplejpeg's (pip install -e '.[peers]').
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset, DefaultSampler, default_collate, pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from tools.benchmarks import interleaved, parser, write
from tools.benchmarks.input_peers import PEERS, Batches, Work
from tools.data.tiling import TILED, check_jpegtran, tile
from tools.printing import as_text
from vgg_mm import get_config, paper
from vgg_mm.data import EpochSampler, LoadScaledCrop, SeededDataset, collate_crops, decode
from vgg_mm.data.files import find_images
from vgg_mm.data.images import decode_cut
from vgg_mm.data.jpeg import Jpeg, decode_window
from vgg_mm.data.jpeg.partial import library
from vgg_mm.errors import UserError

S, SIZE, BATCH, WORKERS = (256, 512), 224, 50, 2
MEAN = list(paper.MEAN_RGB)
PCA = dict(eigval=list(paper.IMAGENET_EIGVAL), eigvec=[list(row) for row in paper.IMAGENET_EIGVEC])

STOCK = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResize", scale=[(10**6, S[0]), (10**6, S[1])], keep_ratio=True),
    dict(type="RandomCrop", crop_size=SIZE),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Lighting", alphastd=0.1, **PCA),
    dict(type="PackInputs"),
]
OURS = [
    dict(type="vgg_mm.LoadScaledCrop", S=S, size=SIZE),
    dict(type="vgg_mm.DrawLighting", **PCA),
]


class Images(BaseDataset):
    """Image files as a data set of the toolbox's.

    Args:
        paths: The files' names.
        pipeline: The transforms' configs.
    """

    def __init__(self, paths: Sequence[str], pipeline: Sequence[dict]) -> None:
        self.paths = paths
        super().__init__(pipeline=pipeline)

    def load_data_list(self) -> list[dict]:
        """A dict for each file."""
        return [dict(img_path=path, gt_label=0) for path in self.paths]


def generate(folder: Path, number: int = 200, width: int = 500, interval: int = 0) -> list[str]:
    """Writes JPEGs of 4 : 3, 4:2:0 and 4 bits a pixel, detailed at every scale."""
    rng, paths = np.random.default_rng(0), []
    height = width * 3 // 4
    options = [cv2.IMWRITE_JPEG_QUALITY, 96, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    for i in range(number):
        image, cells = np.full((height, width, 3), 128, np.float32), width
        while cells >= 4:
            octave = rng.normal(0, 75 / cells**0.5, (cells * 3 // 4, cells, 3)).astype(np.float32)
            image += cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
            cells //= 2
        paths.append(str(folder / f"{i}.jpg"))
        cv2.imwrite(paths[-1], image.clip(0, 255).astype(np.uint8), options)
    return paths


def stock(
    paths: Sequence[str], workers: int = 0, collate: Callable = pseudo_collate
) -> Callable[[], None]:
    """What makes float batches of all images as mmpretrain does.

    mmpretrain's VGG configs name no ``collate_fn``; a runner then takes mmengine's
    ``pseudo_collate``, which sends images one by one. Others name ``default_collate``, which
    stacks them in the worker.
    """
    dataset = Images(paths, STOCK)
    preprocessor = dict(
        type="mmpretrain.ClsDataPreprocessor", mean=MEAN, std=[1, 1, 1], to_rgb=True
    )
    sampler = DefaultSampler(dataset, seed=0)
    return _float_batches(dataset, sampler, collate, preprocessor, workers)


def ours(paths: Sequence[str], workers: int = 0) -> Callable[[], None]:
    """The same as our configs do."""
    dataset = SeededDataset(Images(paths, OURS))
    preprocessor = dict(type="vgg_mm.VGGPreprocessor", mean=MEAN, to_rgb=True)
    sampler = EpochSampler(dataset, seed=0)
    return _float_batches(dataset, sampler, collate_crops, preprocessor, workers)


def _float_batches(
    dataset: Dataset, sampler: Sampler, collate: Callable, preprocessor: dict, workers: int
) -> Callable[[], None]:
    preprocess = MODELS.build(preprocessor)
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )

    def run() -> None:
        for batch in loader:
            preprocess(batch, training=True)

    return run


def decoding(paths: Sequence[str]) -> Callable[[], None]:
    """What decodes the windows of a crop of each image that can be cut, and does nothing else."""
    load, todo = LoadScaledCrop(S, SIZE), []
    for i, path in enumerate(paths):
        if jpeg := Jpeg.parse(Path(path).read_bytes()):
            _, window, reduced = load.draw(np.random.default_rng(i), jpeg.shape, True)
            todo.append((jpeg, window, reduced, jpeg.cut(window, reduced), path))

    def run() -> None:
        for jpeg, window, reduced, cut, path in todo:
            if decode_window(jpeg, window, reduced) is None:
                decode_cut(cut, path)

    return run


def in_torchvision(paths: Sequence[str]) -> Callable[[], Tensor]:
    """The same with torchvision's transforms of tensors, without lighting, which it lacks."""
    crop_and_flip = v2.Compose([v2.RandomCrop(SIZE), v2.RandomHorizontalFlip()])
    offset = torch.tensor(MEAN)[:, None, None]

    def load(path: str) -> Tensor:
        image = decode_image(read_file(path), ImageReadMode.RGB)
        scale = int(torch.randint(S[0], S[1] + 1, ()))
        return crop_and_flip(v2.functional.resize(image, [scale], antialias=True))

    def run() -> None:
        for start in range(0, len(paths), BATCH):
            torch.stack([load(path) for path in paths[start : start + BATCH]]).float().sub_(offset)

    return run


def peers(paths: Sequence[str], threads: int) -> dict[str, Callable[[], object]]:
    """The same with each of ``PEERS`` that is installed, also without lighting."""
    work = Work(S, SIZE, BATCH, MEAN)

    def run(batches: Batches) -> Callable[[], object]:
        return lambda: deque(batches(), maxlen=0)

    runs = {}
    for name, peer in PEERS.items():
        try:
            runs[name] = run(peer(paths, threads, work))
        except ImportError as error:
            print(f"without {name}: {str(error).splitlines()[0]:.90}")
    return runs


@contextmanager
def cores(n: int) -> Iterator[None]:
    """Keeps what the code within starts, threads and processes, on n cores, if the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[-n:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def _tile(paths: Sequence[str], folder: str) -> tuple[list[str], float]:
    """Tiles the files into ``folder``: their names there, and their bytes over the sources'."""
    before = after = fast = 0
    tiled = []
    for i, path in enumerate(paths):
        original = Path(path).read_bytes()
        result, what = tile(original, name=path)
        before += len(original)
        after += len(result)
        fast += what == TILED
        tiled.append(f"{folder}/{i}_tiled{Path(path).suffix}")
        Path(tiled[-1]).write_bytes(result)
    print(f"{before / len(paths) / 1000:.0f} KB on average; {fast} of {len(paths)} tiled")
    return tiled, after / before


def speed(data: Path | None, rounds: int) -> dict[str, float]:
    """Measures, prints a table in images/s, and returns the ratios.

    Raises:
        UserError: If there is no JPEG that can be tiled, or ``jpegtran`` is missing.
    """
    check_jpegtran()
    found = library()
    print(f"windows of untouched JPEGs by libturbojpeg 3: {found._name if found else 'not there'}")
    with tempfile.TemporaryDirectory() as folder:
        if data:
            found = find_images(data)
            number = min(200, len(found))
            paths = [found[i * len(found) // number] for i in range(number)]
            print(f"{len(paths)} images of {data}")
        else:
            paths = generate(Path(folder))
            print("200 generated JPEGs of 500x375; --data FOLDER measures images of yours")
        tiled, tiled_bytes = _tile(paths, folder)
        passes = 4  # over the images: workers start and end with empty queues
        by_workers = f", {WORKERS} workers"
        many, many_tiled = paths * passes, tiled * passes
        runs = {
            "mmpretrain": stock(paths),
            "torchvision v2": in_torchvision(paths),
            **peers(paths, 1),
            "ours": ours(paths),
            "ours, tiled": ours(tiled),
            "full decode alone": lambda: [decode(Path(p).read_bytes(), p) for p in paths],
            "ours, decoding alone": decoding(paths),
            "ours, tiled, decoding alone": decoding(tiled),
        }
        seconds = interleaved(runs, rounds, time.process_time)
        with cores(WORKERS):
            loaders = {
                "mmpretrain": stock(many, WORKERS),
                "mmpretrain, default_collate": stock(many, WORKERS, default_collate),
                **peers(many, WORKERS),
                "ours": ours(many, WORKERS),
                "ours, tiled": ours(many_tiled, WORKERS),
            }
            runs = {name + by_workers: run for name, run in loaders.items()}
            seconds |= interleaved(runs, rounds)
    print(
        "\nfloat batches, medians of interleaved rounds: one thread, by the CPU's seconds; then by "
        f"the\nclock's, on {WORKERS} cores, {WORKERS} workers of a DataLoader or threads of a peer:"
    )
    rows = [["", "images/s"]]
    for name, value in seconds.items():
        images = len(paths) * (passes if name.endswith(by_workers) else 1)
        rows.append([name, f"{images / value:.0f}"])
    print(as_text(rows))
    names = ("ours", "ours, tiled")
    untouched, tiled = (seconds[f"{name}, decoding alone"] / seconds[name] for name in names)
    print(
        f"\nDecoding windows takes {untouched:.0%} of an untouched image's time, {tiled:.0%} of a "
        "tiled one's.\nThe floats of a batch are written on the device in a training on a GPU, "
        "here on the same core."
    )

    def ratio(theirs: str, own: str, how: str = "") -> float:
        return seconds[theirs + how] / seconds[own + how]

    stacked = "mmpretrain, default_collate"
    others = {}
    for name in [name for name in PEERS if name in loaders]:
        key = name.lower().replace(", ", "_")
        others[f"untouched_vs_{key}"] = ratio(name, "ours")
        others[f"tiled_vs_{key}"] = ratio(name, "ours, tiled")
        others[f"loader_untouched_vs_{key}"] = ratio(name, "ours", by_workers)
        others[f"loader_vs_{key}"] = ratio(name, "ours, tiled", by_workers)
    return {
        "untouched_vs_mmpretrain": ratio("mmpretrain", "ours"),
        "tiled_vs_mmpretrain": ratio("mmpretrain", "ours, tiled"),
        "untouched_vs_torchvision": ratio("torchvision v2", "ours"),
        "tiled_vs_torchvision": ratio("torchvision v2", "ours, tiled"),
        "loader_untouched_vs_mmpretrain": ratio("mmpretrain", "ours", by_workers),
        "loader_vs_mmpretrain": ratio("mmpretrain", "ours, tiled", by_workers),
        "loader_untouched_vs_default_collate": ratio(stacked, "ours", by_workers),
        "loader_vs_default_collate": ratio(stacked, "ours, tiled", by_workers),
        "untouched_decoding": untouched,
        "tiled_decoding": tiled,
        **others,
        "tiled_bytes": tiled_bytes,
    }


def accuracy(seeds: int) -> dict[str, float]:
    """Trains the demo with the reference transforms and with the fast ones, and compares.

    Returns:
        The mean top-1 accuracies (%) and the standard error of their difference.
    """
    top1: dict[str, list[float]] = {"reference": [], "fast": []}
    for seed in range(seeds):
        for name, results in top1.items():
            cfg = get_config("demo")
            cfg.merge_from_dict({"randomness.seed": seed, "launcher": "none"})
            cfg.work_dir = f"work_dirs/input_{name}_{seed}"
            dataset, size = cfg.train_dataloader.dataset.dataset, cfg.tta_model.crop_size
            ways = {
                "reference": [
                    dict(type="vgg_mm.LoadImage", in_memory=True),
                    dict(type="vgg_mm.ScaleJitter", S=cfg.S),
                    dict(type="vgg_mm.RandomCrop", size=size),
                    dict(type="vgg_mm.RandomFlip"),
                ],
                "fast": [dict(type="vgg_mm.LoadScaledCrop", S=cfg.S, size=size)],
            }
            dataset.pipeline = [*ways[name], dataset.pipeline[-1]]
            runner = Runner.from_cfg(cfg)
            runner.train()
            results.append(runner.val_loop.run()["accuracy/top1"])
            print(f"seed {seed}, {name}: {results[-1]:.2f}% top-1", flush=True)
    errors = [stdev(results) / math.sqrt(seeds) for results in top1.values()]
    return {
        **{f"{name}_top1": mean(results) for name, results in top1.items()},
        "standard_error": math.hypot(*errors),
    }


def main(argv: Sequence[str]) -> None:
    """Runs ``tools/benchmarks/benchmark.py input``.

    Raises:
        UserError: If the images are missing or ``jpegtran`` is.
    """
    args = parser("input", __doc__)
    args.add_argument("--data", type=Path, metavar="FOLDER", help="your images, not generated ones")
    args.add_argument(
        "--accuracy",
        type=int,
        metavar="SEEDS",
        help="train the demo instead, with so many seeds, and compare accuracies",
    )
    options = args.parse_args(argv)
    if options.accuracy is not None and options.accuracy < 2:
        raise UserError("--accuracy: 2 seeds at least, for a standard error.")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    init_default_scope("mmpretrain")
    figures = (
        accuracy(options.accuracy) if options.accuracy else speed(options.data, options.rounds)
    )
    write(figures, options.json)
