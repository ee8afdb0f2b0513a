"""How weights begin at random (Sec. 3.1)."""

from __future__ import annotations

from mmengine.model import BaseInit, update_init_info
from torch import nn

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
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info="Glorot: N(0, 2 / (n_in + n_out)), bias 0")
