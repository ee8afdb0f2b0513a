"""VGG, the whole paper, as a plugin of the OpenMMLab stack.

``type='vgg_mm.VGG'`` works in any OpenMMLab config: the registry imports what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cli.configs import get_config
from .environment import advice

if TYPE_CHECKING:
    from .api import Net, evaluate, load
    from .models import PerceptualLoss

__version__ = "0.1.0"
__all__ = ["Net", "PerceptualLoss", "evaluate", "get_config", "load"]

# What needs torch, and where it is.
_LAZY = {"Net": "api", "load": "api", "evaluate": "api", "PerceptualLoss": "models"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vgg_mm' has no attribute '{name}'")
    try:
        return getattr(import_module(f"vgg_mm.{_LAZY[name]}"), name)
    except Exception as error:
        if line := advice(error):
            raise ImportError(line) from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
