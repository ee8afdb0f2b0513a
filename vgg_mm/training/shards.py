"""The FC layers split over the processes by outputs, beside data-parallel convs.

Net D's FC layers have 89% of its weights and 1% of its arithmetic, the convs the reverse. So convs
send their weights' gradients, and FC layers what goes through them, in a step of B images (B x
25,088 and B x 4,096 numbers for 123 millions): Krizhevsky's "one weird trick" (2014), where every
layer still sees the whole batch. N processes take the steps of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine import hooks
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.optim import Optimizer

from vgg_mm.errors import UserError
from vgg_mm.training.distributed import fc_layers, unwrapped


class Gather(torch.autograd.Function):
    """The rows of all processes, one process's after the other's: (n, ...) to (N * n, ...).

    The gradient is the sum of the processes' gradients of one's own rows.
    """

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:  # noqa: D102
        rows = own.new_empty(get_world_size() * len(own), *own.shape[1:])
        dist.all_gather(list(rows.chunk(get_world_size())), own.contiguous())
        return rows

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # noqa: D102
        # A reduce-scatter, of as many bytes, on backends that lack it too.
        parts = grad.new_empty(grad.shape)
        dist.all_to_all_single(parts, grad.contiguous())
        return parts.unflatten(0, (get_world_size(), -1)).sum(0)


class Scaler(ShardedGradScaler):
    """A loss scale at which all processes skip a step if the gradients of one overflow."""

    def step(self, optimizer: Optimizer, *args, **kwargs) -> float | None:
        """Takes a step; torch's leaves fused optimisers to look at their own gradients alone."""
        if self._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
            self.unscale_(optimizer)
        return super().step(optimizer, *args, **kwargs)


class Shards:
    """A run's fc6, fc7 and fc8, of which each process holds as many outputs as any other.

    They are whole but in the training's steps (:meth:`split`), so that all else finds what it
    knows: initialisation, loading, validation of whatever images. The optimiser's state is split
    from the first step on. Averages of the net (mmengine's ``EMAHook``) are split with it.

    Args:
        runner: The run, before its first step.
    """

    def __init__(self, runner: Runner) -> None:
        self.rank, self.processes = get_rank(), get_world_size()
        if any(isinstance(hook, hooks.CheckpointHook) for hook in runner.hooks):
            raise UserError(
                "shard_fc=True: mmengine's CheckpointHook would save a part of the FC layers; use "
                "default_hooks.checkpoint.type='vgg_mm.CheckpointHook'."
            )
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, hooks.EMAHook)]
        self.layers = [*fc_layers(unwrapped(runner.model)).values()]
        every = [*self.layers, *(fc for net in averages for fc in fc_layers(net).values())]
        # Each weight and what it is when whole: shape and strides, no memory.
        self.whole = {
            weight: torch.empty_like(weight, device="meta")
            for layer in every
            for weight in layer.parameters()
        }
        self.optim = runner.optim_wrapper
        self.steps_split = self.weights_split = False
        if getattr(self.optim, "clip_func", None) is nn.utils.clip_grad_norm_:
            self.optim.clip_func = self.clip_grad_norm_
        scaler = getattr(self.optim, "loss_scaler", None)
        if scaler is not None and scaler.is_enabled():
            self.optim.loss_scaler = Scaler(device=scaler._device)
            self.optim.loss_scaler.load_state_dict(scaler.state_dict())

    @contextmanager
    def split(self) -> Iterator[None]:
        """Within it the net can take steps, and no others; all processes enter and leave it."""
        for weight, whole in self.whole.items():
            own, state = self._own(len(whole)), self.optim.optimizer.state.get(weight, {})
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == whole.shape:
                    state[key] = value[own].clone()
            weight.data = weight.data[own].clone()
        self.steps_split = self.weights_split = True
        first = self.layers[0]
        self.handles = [first.register_forward_pre_hook(lambda _, args: Gather.apply(args[0]))]
        for layer in self.layers:
            self.handles.append(layer.register_forward_hook(self._outputs))
            for weight in layer.parameters():
                if weight.requires_grad:  # every process's loss is the mean over its own images
                    self.handles.append(weight.register_hook(lambda grad: grad / self.processes))
        yield
        self.join()

    def join(self) -> None:
        """Makes the layers whole, as :meth:`split` does at its end, but not after an error."""
        for handle in self.handles:
            handle.remove()
        for weight, whole in self.whole.items():
            weight.grad = None  # an epoch leaves none
            weight.data = torch.empty_like(whole, device=weight.device).copy_(
                self._rows(weight.data, len(whole))
            )
        self.weights_split = False

    def _own(self, rows: int, rank: int | None = None) -> slice:
        """Of a layer's outputs the process's, as ``torch.chunk`` would have it."""
        most = -(-rows // self.processes)
        rank = self.rank if rank is None else rank
        return slice(*(min(i * most, rows) for i in (rank, rank + 1)))

    def _rows(self, own: Tensor, rows: int) -> Tensor:
        """All processes' parts of ``rows`` rows; fewer are filled up with zeros on the way."""
        most = -(-rows // self.processes)
        filled = F.pad(own, (0, 0) * (own.dim() - 1) + (0, most - len(own)))
        return Gather.apply(filled)[:rows]

    def _outputs(self, layer: Any, args: tuple, own: Tensor) -> Tensor:
        """A layer's outputs: (B, own, H, W) to (B, all, H, W), of fc8 the process's images'."""
        x = self._rows(own.transpose(0, 1), layer.out_channels).transpose(0, 1)
        return x.chunk(self.processes)[self.rank] if layer is self.layers[-1] else x

    @torch.no_grad()
    def clip_grad_norm_(
        self, weights: Iterable[Tensor], max_norm: float, norm_type: float = 2.0
    ) -> Tensor:
        """torch's, but by the norm of all processes' gradients, which it returns."""
        split: list[Tensor] = []
        alike: list[Tensor] = []
        for weight in weights:
            if weight.grad is not None:
                (split if weight in self.whole else alike).append(weight.grad)
        zero = (split or alike)[0].new_zeros(())

        def norm_of(grads: list[Tensor]) -> Tensor:
            norms = [torch.linalg.vector_norm(g, norm_type) for g in grads if g.numel()]
            return torch.linalg.vector_norm(torch.stack([zero, *norms]), norm_type)

        every = [*Gather.apply(norm_of(split)[None]), norm_of(alike)]
        norm = torch.linalg.vector_norm(torch.stack(every), norm_type)
        for grad in split + alike:
            grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
        return norm

    @contextmanager
    def whole_on_main(self) -> Iterator[None]:
        """Within it net, averages and optimiser are whole in the main process, as for saving.

        One tensor after the other comes to its CPU, from one process after the other.
        """
        weights, states = [], []
        for weight, whole in self.whole.items():
            state = self.optim.optimizer.state.get(weight, {})
            shape = whole[self._own(len(whole))].shape
            for key, value in state.items():
                if self.steps_split and torch.is_tensor(value) and value.shape == shape:
                    states.append((state, key, value))
                    state[key] = self._on_main(value, whole)
            if self.weights_split:
                weights.append((weight, weight.data))
                weight.data = self._on_main(weight.data, whole)
        try:
            yield
        finally:
            for state, key, value in states:
                state[key] = value
            for weight, value in weights:
                weight.data = value

    def _on_main(self, own: Tensor, whole: Tensor) -> Tensor:
        """The whole on the main process's CPU; on others, their own part."""
        if self.rank:
            if len(own):
                dist.send(own.contiguous(), 0)
            return own
        result = torch.empty_like(whole, device="cpu")
        result[self._own(len(whole))] = own.cpu()
        for rank in range(1, self.processes):
            part = result[self._own(len(whole), rank)]
            if len(part):
                theirs = own.new_empty(part.shape)
                dist.recv(theirs, rank)
                part.copy_(theirs)
        return result
