"""Measures the paper's evaluation (Sec. 3.2): net D with random weights on a generated photo.

dense_vs_timm                dense evaluation against timm's vgg16 on the same two mirror images
dense_vs_timm_channels_last  the same with timm's net in the memory order that CPUs prefer
crops_vs_stock               50 crops against mmcv's TestTimeAug, mmpretrain's AverageClsScoreTTA
dense_vs_crops               dense evaluation against 50 crops
fraction_of_mm               dense evaluation's multiply-adds a second over a large torch.mm's
time_growth                  the growth of its time over that of the pixels, Q = 256 to 512
peak_mib_Q                   the memory that it takes, besides the net's
worker_bytes_vs_stock        what a data loader's worker sends for the 150 crops of an image

The multiply-adds are those of the convs' definition, of which Winograd's take a quarter. Weights,
images and crops are the same on both sides, and results that differ end it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import RandomFlip, TestTimeAug
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmpretrain.datasets import PackInputs
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.registry import MODELS
from PIL import Image
from torch import Tensor, nn

from tools.analysis.layers import build, describe, total
from tools.benchmarks import interleaved, parser, write
from tools.printing import as_text
from vgg_mm.data import MultiScale, Rescale
from vgg_mm.errors import UserError, library
from vgg_mm.models import Glorot
from vgg_mm.paper import MEAN_RGB
from vgg_mm.testing import Evaluation

SCALES = (256, 384, 512)
Q = 384
CROP, GRID = 224, 5
MM_SIDE = 4096
TOLERANCE = 1e-4


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark.

    Raises:
        UserError: If timm is missing, or its logits or the stock posteriors differ from ours.
    """
    args = parser("testing", __doc__)
    args.add_argument("--width", type=int, default=64, help="a narrower net tries the benchmark")
    args = args.parse_args(argv)
    torch.manual_seed(0)
    with torch.no_grad():
        write(measure(args.width, args.rounds), args.json)


def measure(width: int, rounds: int) -> dict[str, float]:
    """The figures of net D with ``width`` channels in its first stage; prints times on the way."""
    config = dict(
        type="ImageClassifier",
        backbone=dict(type="vgg_mm.VGG", arch="D", width=width),
        head=dict(type="vgg_mm.VGGHead", in_channels=8 * width),
        data_preprocessor=dict(mean=MEAN_RGB, std=[1, 1, 1], to_rgb=True),
    )
    net = MODELS.build(config)
    Glorot()(net)
    net = net.to(get_device()).eval()
    dense, crops, stock = Evaluation(net), Evaluation(net, views="crops"), AverageClsScoreTTA(net)
    timm = timm_vgg16(net, width)
    timm_nhwc = deepcopy(timm).to(memory_format=torch.channels_last)

    photo = generated_photo()
    images = {side: multi_scale(photo, side) for side in SCALES}
    x = net.data_preprocessor(dict(inputs=images[Q]["inputs"]))["inputs"]
    x = torch.cat([x, x.flip(-1)])  # (2, 3, 384, 512)
    x_nhwc = x.contiguous(memory_format=torch.channels_last)
    square = torch.rand(MM_SIDE, MM_SIDE, device=x.device)

    # Each ends with a copy to the CPU, which waits for a GPU.
    runs: dict[str, Callable[[], Tensor]] = {
        f"dense, Q = {side}": partial(posterior, dense, image) for side, image in images.items()
    }
    ours = f"dense, Q = {Q}"
    runs |= {
        "timm": lambda: timm(x).softmax(1).mean(0).cpu(),
        "timm, channels_last": lambda: timm_nhwc(x_nhwc).softmax(1).mean(0).cpu(),
        "50 crops": partial(posterior, crops, images[Q]),
        "50 crops, stock": partial(posterior, stock, test_time_aug(photo, Q)),
        "torch.mm": lambda: (square @ square)[0].cpu(),
    }
    check("timm's logits", timm(x), net(x))
    check("timm's posteriors", runs["timm"](), runs[ours]())
    check("the stock posteriors", runs["50 crops, stock"](), runs["50 crops"]())
    peaks = {side: peak_memory(runs[f"dense, Q = {side}"], x.device) for side in SCALES}

    seconds = interleaved(runs, rounds)
    # What the net runs over: at Q = 256 320 of 341 pixels, at Q = 512 672 of 683.
    shapes = {side: dense.seen(image["inputs"][0]).shape[1:] for side, image in images.items()}
    meta = build(config)
    work = {side: 2 * total(describe(meta, *shapes[side]), "multiply_adds") for side in SCALES}
    rates = {f"dense, Q = {side}": work[side] / seconds[f"dense, Q = {side}"] for side in SCALES}
    rates["torch.mm"] = MM_SIDE**3 / seconds["torch.mm"]
    rows = [
        [name, f"{time:.3f}", f"{rates[name] / 1e9:.1f}" if name in rates else ""]
        for name, time in seconds.items()
    ]
    print(as_text([["", "seconds", "10^9 multiply-adds a second"], *rows]))

    small, large = SCALES[0], SCALES[-1]
    growth = seconds[f"dense, Q = {large}"] / seconds[f"dense, Q = {small}"]
    sent = [
        sum(image.nbytes for image in make(photo, *SCALES)["inputs"])
        for make in (test_time_aug, multi_scale)
    ]
    return {
        "dense_vs_timm": seconds["timm"] / seconds[ours],
        "dense_vs_timm_channels_last": seconds["timm, channels_last"] / seconds[ours],
        "crops_vs_stock": seconds["50 crops, stock"] / seconds["50 crops"],
        "dense_vs_crops": seconds["50 crops"] / seconds[ours],
        "fraction_of_mm": rates[ours] / rates["torch.mm"],
        "time_growth": growth / (shapes[large].numel() / shapes[small].numel()),
        **{f"peak_mib_{side}": peak for side, peak in peaks.items()},
        "worker_bytes_vs_stock": sent[0] / sent[1],
    }


def timm_vgg16(net: nn.Module, width: int) -> nn.Module:
    """The vgg16 of timm with the weights of ``net``."""
    theirs = library("timm.models.vgg", "the benchmark", "test")
    timm = theirs.VGG([n if n == "M" else n * width // 64 for n in theirs.cfgs["vgg16"]])
    for own, other in zip(net.parameters(), timm.parameters(), strict=True):
        other.copy_(own.reshape(other.shape))
    return timm.to(next(net.parameters()).device).eval()


def generated_photo() -> np.ndarray:
    """An image (375, 500, 3) uint8 of smooth blotches."""
    blotches = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.array(Image.fromarray(blotches).resize((500, 375), Image.Resampling.BICUBIC))


def multi_scale(photo: np.ndarray, *scales: int) -> dict:
    """What our pipeline sends: one image for each of ``scales``."""
    return PackInputs()(MultiScale(scales)(dict(img=photo)))


def test_time_aug(photo: np.ndarray, *scales: int) -> dict:
    """What the stock pipeline sends: 50 crops for each of ``scales``."""

    def crop(results: dict, i: int, j: int) -> dict:
        h, w = results["img"].shape[:2]
        y, x = round((h - CROP) * i / (GRID - 1)), round((w - CROP) * j / (GRID - 1))
        return results | dict(img=results["img"][y : y + CROP, x : x + CROP])

    return TestTimeAug(
        [
            [Rescale(side) for side in scales],
            [partial(crop, i=i, j=j) for i, j in product(range(GRID), repeat=2)],
            [RandomFlip(prob=0.0), RandomFlip(prob=1.0)],
            [PackInputs()],
        ]
    )(dict(img=photo))


def posterior(model: nn.Module, sample: dict) -> Tensor:
    """The posterior (classes,) of one sample of the test-time pipeline."""
    return model.test_step(pseudo_collate([sample]))[0].pred_score.cpu()


def check(what: str, theirs: Tensor, ours: Tensor) -> None:
    """Prints the largest difference, relative to the largest value.

    Raises:
        UserError: If it is more than rounding explains: float32's or, on a GPU whose convs round to
            TF32's 10 bits, that.
    """
    tf32 = torch.cuda.is_available() and torch.backends.cudnn.allow_tf32
    difference = float((theirs - ours).abs().max() / ours.abs().max())
    print(f"{what} differ from ours by {difference:.1e} at most")
    if not difference <= (2**-10 if tf32 else TOLERANCE):
        raise UserError(f"{what} are not ours: a difference of {difference:.1e}.")


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """The MiB that ``run`` takes at its peak besides what is held before; NaN where unknown."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # gives back what is free, lest it be used unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except (AttributeError, OSError):  # not Linux with glibc
        return float("nan")
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 2**10


def _resident(field: str) -> int:
    """A field of Linux's account of this process, in KiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0])
