"""Dropout whose masks are an input (Sec. 3.1): N processes drop what one process would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

# SplitMix64 (Steele, Lea & Flood, 2014), its constants as signed numbers.
STEP, MIX = 0x9E3779B97F4A7C15 - 2**64, (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


class Dropout(nn.Dropout):
    """torch's dropout, but between :func:`seed_dropout` and :func:`free_dropout` without chance.

    What is dropped is then a function of (seed, step, layer, position in the whole batch). No
    generator is drawn from, so a process computes its own rows' numbers alone, CPUs and GPUs the
    same, and a compiled step need not be compiled anew.
    """

    key: Tensor | None = None
    ranks: Sequence[int] = (0,)
    processes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Sets each of (N, ...) to 0 with probability p, or divides it by 1 - p."""
        if self.key is None or not self.training or self.p in (0, 1):
            return super().forward(x)
        # Row i of process r is row i * processes + r of one process's batch.
        own = torch.arange(len(x) // len(self.ranks), device=x.device) * self.processes
        rows = torch.cat([own + rank for rank in self.ranks])
        inner = x[0].numel()
        positions = rows[:, None] * inner + torch.arange(inner, device=x.device)  # (N, inner)
        z = self.key + (positions + 1) * STEP
        for shift, factor in zip((30, 27), MIX, strict=True):
            z = (z ^ _shifted(z, shift)) * factor
        kept = _shifted(z ^ _shifted(z, 31), 11) >= int(self.p * 2**53)
        return x * (kept.view(x.shape).to(x.dtype) / (1 - self.p))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """``z >> bits`` of numbers without a sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def seed_dropout(
    model: nn.Module, seed: int, step: int, ranks: Sequence[int] = (0,), processes: int = 1
) -> None:
    """Sets what ``model``'s next forward passes drop.

    Args:
        model: Holds any number of :class:`Dropout`.
        seed: The run's.
        step: Which of its batches this is.
        ranks: The processes whose rows the layers see, one after the other: a process's own, or of
            all where the batch is gathered.
        processes: How many share the batch; they take its rows in turns.
    """
    for layer, module in enumerate(_dropouts(model)):
        key = np.random.SeedSequence((seed, step, layer)).generate_state(1, np.uint64)
        module.key = torch.tensor(key.view(np.int64).item())
        module.ranks, module.processes = ranks, processes


def free_dropout(model: nn.Module) -> None:
    """Makes ``model`` drop as torch does."""
    for module in _dropouts(model):
        module.key = None


def _dropouts(model: nn.Module) -> list[Dropout]:
    return [module for module in model.modules() if isinstance(module, Dropout)]
