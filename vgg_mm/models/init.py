"""How weights begin: at random (Sec. 3.1), or as a part of a classifier's."""

from __future__ import annotations

import torch
from mmengine.model import BaseInit, PretrainedInit, update_init_info
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.models.head import FC
from vgg_mm.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class Glorot(BaseInit):
    """Weights from N(0, 2 / (n_in + n_out)), zero biases, for every conv and FC layer.

    It is Glorot & Bengio's, which made the paper's pre-training unnecessary (Sec. 3.1).

    n_in and n_out count the inputs of an output and the outputs of an input: k*k*in and k*k*out
    for a conv, but k*k*in and out for an FC layer, whose kernel meets its map once.
    """

    def __init__(self) -> None:
        super().__init__(layer="Conv2d")

    def __call__(self, module: nn.Module) -> None:
        """Initialises ``module`` and all that it holds."""
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                area = layer.kernel_size[0] * layer.kernel_size[1]
                n_in = layer.in_channels * area
                n_out = layer.out_channels * (1 if isinstance(layer, FC) else area)
                nn.init.normal_(layer.weight, std=(2 / (n_in + n_out)) ** 0.5)
                nn.init.zeros_(layer.bias)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info="Glorot: N(0, 2 / (n_in + n_out)), bias 0")


@WEIGHT_INITIALIZERS.register_module()
class SubsampledFC(PretrainedInit):
    """A classifier's fc6 and fc7 for a smaller :class:`vgg_mm.VGGFC`, as SSD and DeepLab take them.

    Of the outputs, inputs, rows and columns every n-th is kept, from the first on: fc6's 4096 x 512
    x 7 x 7 become 1024 x 512 x 3 x 3 by keeping every 4th output and every 3rd row and column.

    Args:
        checkpoint: A classifier's, as for mmengine's ``Pretrained``.
        prefix: What stands before ``fc6`` in the names of its weights.
    """

    def __init__(self, checkpoint: str, prefix: str = "head.") -> None:
        super().__init__(checkpoint, prefix)

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Initialises ``module``'s fc6 and fc7.

        Raises:
            UserError: If the checkpoint lacks them, or no step gives the module's size.
        """
        weights = CheckpointLoader.load_checkpoint(self.checkpoint, map_location="cpu")
        weights = weights.get("state_dict", weights)
        for layer in ("fc6", "fc7"):
            for name, value in module.get_submodule(layer).named_parameters(layer):
                key = f"{self.prefix}{name}"
                if key not in weights:
                    raise UserError(f"{self.checkpoint} has no {key}; give a classifier's.")
                value.copy_(_subsample(weights[key], value.shape, f"{self.checkpoint}: {key}"))
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"SubsampledFC: from {self.checkpoint}")


def _subsample(value: Tensor, shape: torch.Size, name: str) -> Tensor:
    """Every n-th entry of each dimension, n being the smallest that leaves at most ``shape``."""
    steps = [-(-n // m) for n, m in zip(value.shape, shape, strict=False)]
    kept = value[tuple(slice(None, None, step) for step in steps)]
    if kept.shape != shape:
        raise UserError(
            f"{name} is {tuple(value.shape)}, which cannot be subsampled to {tuple(shape)}: "
            "dimensions may be divided by whole numbers, such as 4096 to 1024 and 7 to 3."
        )
    return kept
