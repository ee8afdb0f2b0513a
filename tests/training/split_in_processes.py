"""What split FC layers do besides plain steps, in two processes: one of its own, for it forks.

Prints, as JSON, what each case found in each process.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from torch import nn
from torch.amp import GradScaler

from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGHead
from vgg_mm.training import DDP
from vgg_mm.training.shards import Shards

PROCESSES = 2
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = VGG("A", width=2)
        self.head = VGGHead(5, in_channels=16, channels=7, kernel_size=1, dropout=0)
        self.backbone.init_weights()
        self.head.init_weights()

    def forward(self, x):
        return self.head(self.backbone(x)).square().mean()


def whole_step(net):
    """The loss of all images in this process; their gradients are in ``net``."""
    loss = net(IMAGES)
    loss.backward()
    return loss


def run(net, scaler=None, **wrapping):
    """A stand-in for a Runner of ``net``, and its shards."""
    model = DDP(net, shard_fc=True)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, fused=True)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1e9))
    wrapper.loss_scaler = scaler
    runner = SimpleNamespace(model=model, hooks=[], optim_wrapper=wrapper)
    return runner, Shards(runner)


def own_step(model):
    """The mean over the processes of the loss of each one's images; their gradients are there."""
    loss = model(IMAGES.chunk(PROCESSES)[dist.get_rank()])
    loss.backward()
    loss = loss.detach()
    dist.all_reduce(loss)
    return loss / PROCESSES


def norms() -> list:
    """Whether the norms of the gradients are one process's, and half of them is left of a half."""
    one, found = Net(), []
    whole_step(one)
    runner, shards = run(Net())
    with shards.split():
        own_step(runner.model)
        assert runner.optim_wrapper.clip_func == shards.clip_grad_norm_
        params = list(runner.model.parameters())
        for kind in (1.0, 2.0, torch.inf):
            expected = nn.utils.clip_grad_norm_(one.parameters(), 1e9, kind)
            found.append(torch.allclose(shards.clip_grad_norm_(params, 1e9, kind), expected))
        half = nn.utils.clip_grad_norm_(one.parameters(), 1e9).item() / 2
        left = []
        for clip, weights in (
            (nn.utils.clip_grad_norm_, [*one.parameters()]),
            (shards.clip_grad_norm_, params),
        ):
            clip(weights, half)
            left.append(clip(weights, 1e9))
        found.append(left[0] < 1.1 * half and torch.allclose(*left))
    return [bool(each) for each in found]


def overflow_in_one() -> list:
    """Whether the weights stay, then go on, and the scales."""
    runner, shards = run(Net(), GradScaler("cpu", init_scale=8.0))
    scaler, optimizer = runner.optim_wrapper.loss_scaler, runner.optim_wrapper.optimizer
    before = [weight.detach().clone() for weight in runner.model.parameters()]
    found = []
    with shards.split():
        for spoilt in (True, False):
            optimizer.zero_grad()
            scaler.scale(runner.model(IMAGES.chunk(PROCESSES)[dist.get_rank()])).backward()
            if spoilt and dist.get_rank() == 1:
                runner.model.module.head.fc7.weight.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            found.append(scaler.get_scale())
            found.append(runner.model.module.backbone.conv1_1.weight.equal(before[0]))
    whole = [*runner.model.parameters()]
    return [*found, all(torch.isfinite(weight).all().item() for weight in whole)]


def frozen() -> list:
    """Whether a frozen fc6 and conv stay, and the others' gradients are one process's."""
    one, two = Net(), Net()
    for net in (one, two):
        net.head.fc6.requires_grad_(False)
        net.backbone.conv1_1.requires_grad_(False)
    whole_step(one)
    runner, shards = run(two)
    with shards.split():
        own_step(runner.model)
        gradient = two.head.fc7.weight.grad
        return [
            two.head.fc6.weight.grad is None,
            torch.allclose(gradient, one.head.fc7.weight.grad.chunk(PROCESSES)[dist.get_rank()]),
            torch.allclose(two.backbone.conv2_1.weight.grad, one.backbone.conv2_1.weight.grad),
        ]


def compiled() -> list:
    """By how much the losses of two epochs' steps differ from those of whole_step."""
    one, net = Net(), Net()
    net.backbone.compile(backend="aot_eager")
    net.head.compile(backend="aot_eager")
    runner, shards = run(net)
    expected, found = whole_step(one), []
    for _ in range(2):
        with shards.split():
            found.append(own_step(runner.model))
        found.append(net.eval()(IMAGES).detach())
        net.train()
    return [(loss - expected).abs().item() for loss in found]


def autocast() -> list:
    """The loss in bfloat16 over that in float32."""
    expected = whole_step(Net())
    runner, shards = run(Net())
    with shards.split(), torch.autocast("cpu", torch.bfloat16):
        return [(own_step(runner.model) / expected).item()]


def channels_last() -> list:
    """Whether weights are as before when they are whole again, in memory too."""
    net = Net().to(memory_format=torch.channels_last)
    before = {
        name: (value.detach().clone(), value.stride()) for name, value in net.named_parameters()
    }
    runner, shards = run(net)
    with shards.split():
        own_step(runner.model)
        held = net.head.fc7.weight.shape[0]
    return [held] + [
        value.equal(before[name][0]) and value.stride() == before[name][1]
        for name, value in net.named_parameters()
    ]


def refused() -> list:
    """What is said of that which would not do."""
    headless, frozen = nn.ModuleDict(dict(conv=nn.Conv2d(1, 1, 1))), Net()
    frozen.backbone.requires_grad_(False)
    runner, _ = run(Net())
    runner.hooks = [CheckpointHook()]
    found = []
    for call in (
        lambda: DDP(headless, shard_fc=True),
        lambda: DDP(frozen, shard_fc=True),
        lambda: Shards(runner),
        lambda: runner.model.train_step({}, runner.optim_wrapper),
    ):
        try:
            call()
        except UserError as error:
            found.append(str(error))
    return found


CASES: list[Callable[[], list]] = [norms, overflow_in_one, frozen, compiled, autocast]
CASES += [channels_last, refused]


def main(folder: Path) -> None:
    """Runs all cases in each process."""
    torch.set_num_threads(1)
    pids = []
    for rank in range(PROCESSES):
        if (pid := os.fork()) == 0:
            store = dist.FileStore(str(folder / "store"), PROCESSES)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
            found = {case.__name__: case() for case in CASES}
            (folder / f"{rank}.json").write_text(json.dumps(found))
            dist.barrier()
            sys.stderr.flush()
            os._exit(0)
        pids.append(pid)
    assert all([os.waitpid(pid, 0)[1] == 0 for pid in pids])
    print(json.dumps([json.loads((folder / f"{i}.json").read_text()) for i in range(PROCESSES)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
