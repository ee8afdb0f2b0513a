"""Measures the perceptual loss, forward and backward, against piq's ContentLoss and StyleLoss.

time_vs_piq, memory_vs_piq              five layers of VGG-19, L1
style_time_vs_piq, style_memory_vs_piq  the same and their Gram matrices
peak_mib, style_peak_mib                what ours takes at its peak, besides the net

More than 1 is in our favour: medians of ratios of runs that take turns. Weights and images are the
same on both sides, piq's net ends at the last layer, and losses that differ end it. Without piq
(pip install --no-deps piq) only ours is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from mmengine.device import get_device
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from tools.benchmarks import parser, write
from tools.benchmarks.testing import check, peak_memory
from vgg_mm.models import Glorot, PerceptualLoss
from vgg_mm.paper import stages

NUMBERS = {"conv1_2": 3, "conv2_2": 8, "conv3_4": 17, "conv4_4": 26, "conv5_4": 35}  # their ReLUs

Run = Callable[[], Tensor]


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark.

    Raises:
        UserError: If piq's losses differ from ours.
    """
    args = parser("perceptual", __doc__)
    args.add_argument("--width", type=int, default=64, help="a narrower net tries the benchmark")
    args.add_argument("--side", type=int, default=256, help="of the images; default: %(default)s")
    args.add_argument("--batch", type=int, default=2, help="images; default: %(default)s")
    args = args.parse_args(argv)
    torch.manual_seed(0)
    x, y = torch.rand(2, args.batch, 3, args.side, args.side, device=get_device())
    x.requires_grad_()
    figures: dict[str, float] = {}
    for prefix, style in (("", False), ("style_", True)):
        figures |= measure(args.width, x, y, style, prefix, args.rounds)
    write(figures, args.json)


def measure(
    width: int, x: Tensor, y: Tensor, style: bool, prefix: str, rounds: int
) -> dict[str, float]:
    """The figures of the maps' loss, and with ``style`` of both."""
    layers = dict.fromkeys(NUMBERS, 1.0)
    ours = PerceptualLoss(
        layers, (0, 1), style_weight=float(style), pretrained=None, input="torchvision", width=width
    )
    Glorot()(ours.net)
    ours.to(x.device)
    runs = {"ours": run(lambda: torch.stack([v for v in ours(x, y) if v is not None]), x)}
    if theirs := piqs(ours, width, x, style):
        runs["piq"] = run(lambda: torch.stack([loss(x, y) for loss in theirs]), x)
        check("piq's losses", runs["piq"](), runs["ours"]())
    peaks = {
        name: median(peak_memory(each, x.device) for _ in range(3)) for name, each in runs.items()
    }
    figures = {f"{prefix}peak_mib": peaks["ours"]}
    if theirs:
        seconds = {name: [] for name in runs}
        for _ in range(rounds):
            for name, each in runs.items():
                start = time.perf_counter()
                each()
                seconds[name].append(time.perf_counter() - start)
        ratios = [a / b for a, b in zip(seconds["piq"], seconds["ours"], strict=True)]
        figures |= {
            f"{prefix}time_vs_piq": median(ratios),
            f"{prefix}memory_vs_piq": peaks["piq"] / peaks["ours"],
        }
    return figures


def run(losses: Callable[[], Tensor], x: Tensor) -> Run:
    """Computes losses and their gradient, and copies them to the CPU, which waits for a GPU."""

    def forward_and_backward() -> Tensor:
        x.grad = None
        values = losses()
        values.sum().backward()
        return values.detach().cpu()

    return forward_and_backward


def piqs(ours: PerceptualLoss, width: int, x: Tensor, style: bool) -> list[nn.Module]:
    """Piq's losses with our weights, scaled to be ours; none where piq is not installed."""
    try:
        import piq
    except ImportError:
        print("piq is not installed: nothing to compare with.")
        return []
    table: list[int | str] = []
    for stage in stages("E", width):
        table += [layer.channels for layer in stage] + ["M"]
    net = make_layers(table)[: max(NUMBERS.values()) + 1].to(x.device)
    net.load_state_dict(dict(zip(net.state_dict(), ours.net.state_dict().values(), strict=True)))
    given = dict(layers=[*map(str, NUMBERS.values())], distance="mae")
    channels = [net[number - 1].out_channels for number in NUMBERS.values()]
    losses = [piq.ContentLoss(net, weights=[1 / c for c in channels], **given)]
    if style:
        pixels = [x[0, 0].numel() // 4**i for i in range(5)]
        weights = [1 / (c * n) for c, n in zip(channels, pixels, strict=True)]
        losses.append(piq.StyleLoss(net, weights=weights, **given))
    return losses
