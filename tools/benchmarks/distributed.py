"""What the FC layers cost several processes, split over them or not: bytes and memory (Sec. 3.3).

One process takes a step of the full-size net as one of several, beside torch's fake ones: what it
hands to the collectives has its full size and is counted; only what comes back is not real.

--link 1 10 times the steps of 2 and 4 hosts whose links have 1 and 10 Gbit/s, in turns, with and
without split FC layers: step_vs_ddp_1gbit is how many times as fast a step of 4 is with them,
step_vs_ddp_1gbit_of_2 of 2. A host is a network namespace of this machine, where it is Linux, for
root, and has iproute2; elsewhere hosts are processes without a limit, and the key says loopback.
Convs are narrow, so that a CPU takes less time than the link, but send all their bytes: 10 GB free.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tools.benchmarks import link, parser, write
from tools.printing import as_text
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGHead
from vgg_mm.training import DDP
from vgg_mm.training.shards import Shards

CLASSES = 1000


def main(argv: list[str]) -> None:
    """Prints the figures: ``bytes_vs_ddp`` and ``memory_vs_ddp`` of split FC layers, ..."""
    args = parser("distributed", __doc__)
    args.add_argument("--arch", default="D", help="the paper's name of the net")
    args.add_argument("--width", type=int, default=64, help="channels of the first stage")
    args.add_argument("--processes", type=int, default=4)
    args.add_argument("--batch", type=int, default=256, help="images a step of all processes")
    args.add_argument("--link", type=float, nargs="+", metavar="GBIT", help="time steps at it, too")
    args.add_argument("--link-batch", type=int, default=32, help="images a step there")
    args.add_argument("--hosts", type=int, nargs="+", default=[2, 4], metavar="N", help="there")
    args = args.parse_args(argv)
    if args.batch % args.processes:
        raise UserError(f"--batch {args.batch} is not shared evenly by {args.processes} processes.")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=args.processes)
    try:
        images = args.batch // args.processes
        found = {
            name: step(args.arch, args.width, images, split)
            for name, split in (("data-parallel", False), ("FC layers split", True))
        }
    finally:
        dist.destroy_process_group()
    rows = [["", "MB sent", "MB held", "collectives"]]
    for name, (calls, sent, held) in found.items():
        how = ", ".join(f"{n} {call}" for call, n in calls.items())
        rows.append([name, f"{sent / 1e6:.0f}", f"{held / 1e6:.0f}", how])
    print(
        f"Each of {args.processes} processes, with {args.batch} images a step of all, and what it "
        f"holds in weights, gradients and momentum:\n{as_text(rows, words=(0, 3))}"
    )
    (_, sent, held), (_, sent_split, held_split) = found.values()
    figures = {
        "bytes_vs_ddp": sent_split / sent,
        "memory_vs_ddp": held_split / held,
        "ddp_megabytes": sent / 1e6,
        "split_megabytes": sent_split / 1e6,
    }
    if args.link:
        figures |= timed(args.link, args.hosts, args.link_batch, args.rounds)
    write(figures, args.json)


def timed(rates: list[float], hosts: list[int], images: int, rounds: int) -> dict[str, float]:
    """How many times as fast steps are with split FC layers, at each rate and number of hosts."""
    links: dict[str, float | None] = {f"{rate:g}gbit": rate for rate in rates}
    if not link.allowed():
        print("No rights to network namespaces and tc here: processes of this machine, no limit.")
        links = {"loopback": None}
    figures, rows = {}, [["", "hosts", "data-parallel s", "FC layers split s"]]
    for name, rate in links.items():
        for count in hosts:
            found = link.seconds(count, rate, images, rounds)
            suffix = "" if count == max(hosts) else f"_of_{count}"
            figures[f"step_vs_ddp_{name}{suffix}"] = link.ratio(found)
            rows.append([name, str(count), *(f"{median(s):.2f}" for s in found.values())])
    print(f"Steps of {images} images, medians of {rounds} in turns:\n{as_text(rows)}")
    return figures


class Net(nn.Module):
    """A net whose convs see one image; fc6 gets its map once for each of ``images``."""

    def __init__(self, arch: str, width: int, images: int) -> None:
        super().__init__()
        self.images = images
        self.backbone = VGG(arch, width)
        channels = dict(in_channels=8 * width, channels=64 * width)
        self.head = VGGHead(CLASSES, dropout=0, **channels)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the scores of images (1, 3, H, W)."""
        (feats,) = self.backbone(x)
        return self.head((feats.expand(self.images, -1, -1, -1),)).mean()


class Sent(TorchDispatchMode):
    """Counts a process's collectives, and the bytes that it sends in them, in rings."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes = 0.0

    def count(self, name: str, tensors: Any) -> None:
        """Adds a collective of ``tensors``; of an all-gather, what the process gives."""
        n = dist.get_world_size()
        shares = {"allreduce_": 2 * (n - 1) / n, "allgather_": n - 1, "alltoall_base_": (n - 1) / n}
        self.calls[name.strip("_")] += 1
        self.bytes += shares[name] * sum(tensor.nbytes for tensor in tree_leaves(tensors))

    def bucket(self, _, bucket):  # torch refuses annotations that are strings
        """Stands for the all-reduce of gradients, whose result torch's fake processes lack."""
        self.count("allreduce_", bucket.buffer())
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        """Looks at all other collectives as they are called."""
        if func.namespace == "c10d":
            self.count(func._schema.name.removeprefix("c10d::"), args[1])
        return func(*args, **(kwargs or {}))


def step(arch: str, width: int, images: int, split: bool) -> tuple[Counter[str], float, int]:
    """A process's share of a step.

    Args:
        arch: The net.
        width: Its.
        images: Of a process.
        split: Whether the FC layers are split.

    Returns:
        Its collectives, the bytes that it sends, and those of weights, gradients and momentum that
        it holds at the step's end.
    """
    model = DDP(Net(arch, width, images), shard_fc=split, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    runner = SimpleNamespace(model=model, hooks=[], optim_wrapper=OptimWrapper(optimizer))
    model.register_comm_hook(None, (sent := Sent()).bucket)
    image = torch.zeros(1, 3, 224, 224)
    with Shards(runner).split() if split else nullcontext():
        for counted in (False, False, True):  # torch orders its buckets after the first step
            optimizer.zero_grad()
            sent.calls.clear()
            sent.bytes = 0.0
            with sent if counted else nullcontext():
                model(image).backward()
        optimizer.step()
        held = 0
        for weight in model.parameters():
            assert weight.grad is not None
            held += weight.nbytes + weight.grad.nbytes
            held += optimizer.state[weight]["momentum_buffer"].nbytes
    return sent.calls, sent.bytes, held
