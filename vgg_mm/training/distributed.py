"""Several processes: one process a GPU, or on CPUs."""

from __future__ import annotations

from typing import Any, cast

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseTTAModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from vgg_mm.errors import UserError
from vgg_mm.models import FC
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


def fc_layers(model: nn.Module) -> dict[str, FC]:
    """A classifier's fc6, fc7 and fc8, by their full names."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, FC)}
    if [name.rpartition(".")[2] for name in layers] != ["fc6", "fc7", "fc8"]:
        raise UserError(
            "DDP: shard_fc=True splits the fc6, fc7 and fc8 of a vgg_mm.VGGHead, and the model's "
            f"FC layers are {', '.join(layers) or 'none'}: leave it out."
        )
    return layers


@MODEL_WRAPPERS.register_module()
class DDP(MMDistributedDataParallel):
    """mmengine's data-parallel wrapper, on CPUs too, with compressed gradients if one likes.

    Args:
        module: The model.
        compress: ``'fp16'`` or ``'bf16'``: what gradients are rounded to on their way between the
            processes, half of the bytes; None sends float32.
        shard_fc: Whether the FC layers are split over the processes, and do not send gradients
            (:class:`vgg_mm.training.shards.Shards`): a sixth of the bytes. It needs
            :class:`vgg_mm.TrainLoop`, a :class:`vgg_mm.VGGHead`, and convs that learn.
        device_ids: The process's GPU; torch wants none where the model is on a CPU.
        kwargs: torch's: ``bucket_cap_mb``, ``gradient_as_bucket_view``, ``static_graph``, ...
    """

    def __init__(
        self,
        module: nn.Module,
        compress: str | None = None,
        shard_fc: bool = False,
        device_ids: list[int] | None = None,
        **kwargs,
    ) -> None:
        if compress not in (None, *COMPRESSORS):
            raise UserError(f"DDP: compress={compress!r}; use one of {', '.join(COMPRESSORS)}.")
        on_cpu = next(module.parameters()).device.type == "cpu"
        if shard_fc:
            self._leave_out(module)
        super().__init__(module=module, device_ids=None if on_cpu else device_ids, **kwargs)
        if compress:
            self.register_comm_hook(None, COMPRESSORS[compress])
        self.shard_fc = shard_fc
        self.shards: Any = None  # the loop's

    def _leave_out(self, module: nn.Module) -> None:
        """Lets torch see to the other layers alone."""
        layers = fc_layers(module)
        names = [f"{name}.{kind}" for name in layers for kind, _ in layers[name].named_parameters()]
        if not any(p.requires_grad for name, p in module.named_parameters() if name not in names):
            raise UserError(
                "DDP: shard_fc=True, but all layers below fc6 are frozen: leave it out, or freeze "
                "fewer (model.backbone.frozen_stages)."
            )
        self._set_params_and_buffers_to_ignore_for_model(module, names)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """Takes a step."""
        if self.shard_fc and self.shards is None:
            raise UserError("DDP: shard_fc=True needs train_cfg.type='vgg_mm.TrainLoop'.")
        return super().train_step(data, optim_wrapper)
