"""VGG, the whole paper, as a plugin of the OpenMMLab stack.

``type='vgg_mm.VGG'`` works in any OpenMMLab config: the registry imports what it needs.
"""

from .cli.configs import get_config

__version__ = "0.1.0"
__all__ = ["get_config"]
