"""VGG, the whole paper, as a plugin of the OpenMMLab stack.

``type='vgg_mm.VGG'`` works in any OpenMMLab config: the registry imports what it needs.
"""

from importlib import import_module

from .cli.configs import get_config

__version__ = "0.1.0"
__all__ = ["PerceptualLoss", "get_config"]  # noqa: F822


def __getattr__(name: str) -> object:
    """What wants torch is imported when it is asked for."""
    if name == "PerceptualLoss":
        return import_module("vgg_mm.models").PerceptualLoss
    raise AttributeError(f"module 'vgg_mm' has no attribute {name!r}")
