"""Several processes: one process a GPU, or on CPUs."""

from __future__ import annotations

from typing import cast

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseTTAModel, MMDistributedDataParallel, is_model_wrapper
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from vgg_mm.errors import UserError
from vgg_mm.registry import MODEL_WRAPPERS

COMPRESSORS = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}


def together(*values: int) -> list[int]:
    """The largest of all processes', for each value: what they decide upon as one."""
    if get_world_size() == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.int64)
    all_reduce(largest, "max")
    return largest.tolist()


def unwrapped(model: nn.Module) -> nn.Module:
    """The net in a data-parallel or a test-time model."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


@MODEL_WRAPPERS.register_module()
class DDP(MMDistributedDataParallel):
    """mmengine's data-parallel wrapper, on CPUs too, with compressed gradients if one likes.

    Args:
        module: The model.
        compress: ``'fp16'`` or ``'bf16'``: what gradients are rounded to on their way between the
            processes, half of the bytes; None sends float32.
        device_ids: The process's GPU; torch wants none where the model is on a CPU.
        kwargs: torch's: ``bucket_cap_mb``, ``gradient_as_bucket_view``, ``static_graph``, ...
    """

    def __init__(
        self,
        module: nn.Module,
        compress: str | None = None,
        device_ids: list[int] | None = None,
        **kwargs,
    ) -> None:
        if compress not in (None, *COMPRESSORS):
            raise UserError(f"DDP: compress={compress!r}; use one of {', '.join(COMPRESSORS)}.")
        on_cpu = next(module.parameters()).device.type == "cpu"
        super().__init__(module=module, device_ids=None if on_cpu else device_ids, **kwargs)
        if compress:
            self.register_comm_hook(None, COMPRESSORS[compress])
