"""Other libraries that make the input benchmark's float batches, where they are installed.

Each peer is a function of files, of how many threads it gets, and of the work to do. It raises
ImportError where a library is missing, and returns what yields the batches (n, 3, size, size) of
all files, minus the mean; DALI overwrites each with the next. What is decoded ahead is of the same
call, so that batches made are batches counted. All cut the window out before they resize it, as we
do: that is their fastest way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

Batches = Callable[[], Iterator[Tensor]]


class Work(NamedTuple):
    """What is to be done with each file.

    Attributes:
        S: The range that the rescaled image's shortest side is drawn from.
        size: The crop's side.
        batch: How many images are one batch.
        mean: What is subtracted, RGB.
    """

    S: tuple[int, int]
    size: int
    batch: int
    mean: Sequence[float]


def dali(paths: Sequence[str], threads: int, work: Work) -> Batches:
    """NVIDIA's DALI, on the CPU: its decoder skips what is outside of the window."""
    from nvidia.dali import fn, math, pipeline_def, types

    # Without running ahead of what is asked for.
    ahead = dict(prefetch_queue_depth=1, exec_async=False, exec_pipelined=False)

    @pipeline_def(batch_size=work.batch, num_threads=threads, device_id=None, **ahead)
    def pipeline():
        data, _ = fn.readers.file(files=list(paths), pad_last_batch=True)
        sides = fn.cast(fn.peek_image_shape(data), dtype=types.FLOAT)[:2]
        S = fn.random.uniform(range=work.S)
        window = work.size * math.min(sides[0], sides[1]) / S
        corner = fn.random.uniform(range=(0, 1), shape=2) * (sides - window)
        image = fn.decoders.image_slice(
            data,
            fn.cast(corner, dtype=types.INT32),
            fn.cast(fn.stack(window, window), dtype=types.INT32),
            axes=(0, 1),
        )
        image = fn.resize(image, size=(work.size, work.size))
        return fn.crop_mirror_normalize(
            image, mirror=fn.random.coin_flip(), mean=list(work.mean), output_layout="CHW"
        )

    built = pipeline()
    built.build()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(paths), work.batch):
            (images,) = built.run()
            yield torch.from_dlpack(images.as_tensor())[: len(paths) - start]

    return batches


def spdl(paths: Sequence[str], threads: int, work: Work) -> Batches:
    """SPDL with its own decoder, FFmpeg's, and its filters."""
    from spdl import io

    rng = np.random.default_rng(0)

    def load(path: str) -> np.ndarray:
        S = rng.integers(*work.S, endpoint=True)
        y, x = rng.random(2)
        side = f"{work.size / S}*min(iw\\,ih)"
        filters = [
            f"crop=w={side}:h={side}:x={x}*(in_w-out_w):y={y}*(in_h-out_h)",
            f"scale=w={work.size}:h={work.size}:flags=bilinear",
            *["hflip"] * int(rng.integers(2)),
            "format=pix_fmts=rgb24",
        ]
        return io.to_numpy(io.load_image(path, filter_desc=",".join(filters)))

    try:
        load(paths[0])
    except RuntimeError as error:
        raise ImportError(f"no FFmpeg for SPDL: {error}") from error
    return _by_spdl(paths, threads, work, load)


def spdl_simplejpeg(paths: Sequence[str], threads: int, work: Work) -> Batches:
    """SPDL with simplejpeg's decoder and OpenCV's resizing."""
    from simplejpeg import decode_jpeg

    rng = np.random.default_rng(0)

    def load(path: str) -> np.ndarray:
        image = decode_jpeg(Path(path).read_bytes())
        side = round(work.size * min(image.shape[:2]) / rng.integers(*work.S, endpoint=True))
        y, x = (rng.integers(0, room - side, endpoint=True) for room in image.shape[:2])
        how = cv2.INTER_AREA if side > work.size else cv2.INTER_LINEAR
        window = image[y : y + side, x : x + side]
        image = cv2.resize(window, (work.size, work.size), interpolation=how)
        return cv2.flip(image, 1) if rng.random() < 0.5 else image

    return _by_spdl(paths, threads, work, load)


def _by_spdl(
    paths: Sequence[str], threads: int, work: Work, load: Callable[[str], np.ndarray]
) -> Batches:
    """Batches of loaded images (size, size, 3), by as many threads."""
    from spdl.pipeline import PipelineBuilder

    offset = torch.tensor(work.mean)[:, None, None]

    def collate(images: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().sub_(offset)

    def batches() -> Iterator[Tensor]:
        builder = PipelineBuilder().add_source(paths).pipe(load, concurrency=threads)
        builder = builder.aggregate(work.batch).pipe(collate).add_sink()
        pipeline = builder.build(num_threads=threads, max_failures=0)
        with pipeline.auto_stop():
            yield from pipeline

    return batches


PEERS = {"DALI": dali, "SPDL": spdl, "SPDL, simplejpeg": spdl_simplejpeg}
