"""Nets on a GPU that need not be there: tensors that know their device and hold no numbers."""

from torch import device, empty_strided, nn


def on_cuda(net: nn.Module) -> nn.Module:
    """Moves a net to the GPU, within a ``FakeTensorMode``; its own ``to`` cannot there."""
    for module in net.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    fake = empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device="cuda"
                    )
                    is_weight = isinstance(value, nn.Parameter)
                    store[name] = nn.Parameter(fake, value.requires_grad) if is_weight else fake
        if hasattr(module, "_device"):  # mmengine's data_preprocessor
            module._device = device("cuda")
    return net
