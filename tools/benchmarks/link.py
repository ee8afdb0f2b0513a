"""The time of a step of hosts at a slow link, FC layers split over them or not (Sec. 3.3).

The net is net D, full-size but for its convs, which are narrow and see one image, so that a CPU
does not take longer than the link; a parameter stands for their other weights, so that as many
bytes are sent.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from tools.benchmarks import environment
from vgg_mm.models import VGG, VGGHead
from vgg_mm.training import DDP
from vgg_mm.training.shards import Shards

HOSTS = Path(__file__).with_name("hosts.sh")
ROOT = Path(__file__).parents[2]
HOST = "from tools.benchmarks.link import host; host()"
PORT = 29571
NARROW = 4  # channels of the first stage, of 64


def allowed() -> bool:
    """Whether this machine may make hosts of its own: Linux, root, iproute2."""
    if not all(map(shutil.which, ("ip", "tc", "unshare"))):
        return False
    return subprocess.run([HOSTS, "2", "1gbit", "true"], capture_output=True).returncode == 0


def seconds(hosts: int, rate: float | None, images: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of steps, in turns, data-parallel and with split FC layers.

    Args:
        hosts: How many, a process each.
        rate: Of their links, in Gbit/s; None: processes of this machine, without a limit.
        images: A step of all of them.
        rounds: How many of each.

    Raises:
        subprocess.CalledProcessError: If a host fails.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder, "seconds.json")
        command = [sys.executable, "-W", "ignore", "-c", HOST]
        command += [str(images // hosts), str(rounds), str(file)]
        env = environment(ROOT) | dict(TORCH_CPP_LOG_LEVEL="ERROR")  # not that a host has no name
        if rate:
            command = [str(HOSTS), str(hosts), f"{rate:g}gbit", *command]
            subprocess.run(command, env=env, check=True)
        else:
            env |= dict(NNODES=str(hosts), MASTER_ADDR="127.0.0.1")
            started = [
                subprocess.Popen(command, env={**env, "NODE_RANK": str(rank)})
                for rank in range(hosts)
            ]
            for each in started:
                if each.wait():
                    raise subprocess.CalledProcessError(each.returncode, command)
        return json.loads(file.read_text())


def ratio(found: dict[str, list[float]]) -> float:
    """How many times as fast a step is with split FC layers: the median of the pairs."""
    return median(a / b for a, b in zip(*found.values(), strict=True))


def host() -> None:
    """A host's process: it takes the steps, and the first host's writes their seconds."""
    images, rounds, file = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    address = f"tcp://{os.environ['MASTER_ADDR']}:{PORT}"
    rank, hosts = int(os.environ["NODE_RANK"]), int(os.environ["NNODES"])
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=hosts)
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"data-parallel": [], "FC layers split": []}
    with _stepping(images, False) as plain, _stepping(images, True) as split:
        for i in range(rounds + 2):  # torch orders its buckets after the first step
            for name, step in zip(found, (plain, split), strict=True):
                dist.barrier()
                start = time.perf_counter()
                step()
                dist.barrier()
                if i > 1:
                    found[name].append(time.perf_counter() - start)
    if rank == 0:
        file.write_text(json.dumps(found))
    dist.destroy_process_group()


@contextmanager
def _stepping(images: int, split: bool) -> Iterator[Callable[[], None]]:
    model = DDP(Net(images), shard_fc=split, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    image = torch.zeros(1, 3, 224, 224)

    def step() -> None:
        optimizer.zero_grad()
        model(image).backward()
        optimizer.step()

    if not split:
        yield step
        return
    runner = SimpleNamespace(model=model, hooks=[], optim_wrapper=OptimWrapper(optimizer))
    with Shards(runner).split():
        yield step


class Net(nn.Module):
    """Net D with narrow convs; its FC layers see ``images``."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.backbone, full = VGG("D", NARROW), VGG("D")
        weights = [sum(w.numel() for w in net.parameters()) for net in (full, self.backbone)]
        self.others = nn.Parameter(torch.zeros(weights[0] - weights[1]))
        self.head = VGGHead(1000, dropout=0)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the scores of an image (1, 3, 224, 224)."""
        (feats,) = self.backbone(x)  # (1, 8 NARROW, 7, 7)
        feats = feats.repeat(1, 64 // NARROW, 1, 1).expand(self.images, -1, -1, -1)
        return self.head((feats,)).mean() + self.others.sum()
