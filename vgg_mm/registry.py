"""The scope ``vgg_mm``: ``type='vgg_mm.VGG'`` works in any OpenMMLab config without imports.

mmengine imports this module by its name at the first look-up, and ``locations`` at the second.
"""

from mmengine import registry as root
from mmengine.registry import Registry

_DATA = ["vgg_mm.data"]
_MODELS = ["vgg_mm.models", "vgg_mm.testing"]
_TRAINING = ["vgg_mm.training"]

DATASETS = Registry("dataset", parent=root.DATASETS, scope="vgg_mm", locations=_DATA)
DATA_SAMPLERS = Registry(
    "data sampler", parent=root.DATA_SAMPLERS, scope="vgg_mm", locations=[*_DATA, "vgg_mm.testing"]
)
TRANSFORMS = Registry("transform", parent=root.TRANSFORMS, scope="vgg_mm", locations=_DATA)
MODELS = Registry("model", parent=root.MODELS, scope="vgg_mm", locations=_MODELS)
WEIGHT_INITIALIZERS = Registry(
    "weight initializer", parent=root.WEIGHT_INITIALIZERS, scope="vgg_mm", locations=_MODELS
)
HOOKS = Registry(
    "hook", parent=root.HOOKS, scope="vgg_mm", locations=[*_TRAINING, "vgg_mm.testing"]
)
METRICS = Registry("metric", parent=root.METRICS, scope="vgg_mm", locations=["vgg_mm.testing"])
