"""The scope ``vgg_mm``: ``type='vgg_mm.VGG'`` works in any OpenMMLab config without imports.

mmengine imports this module by its name at the first look-up, and ``locations`` at the second.
"""

from mmengine import registry as root
from mmengine.registry import Registry

from vgg_mm.environment import check
from vgg_mm.upstream import (
    load_weights_only,
    read_foreign_weights,
    trust_mmengines_checkpoints,
)

check()
trust_mmengines_checkpoints()
load_weights_only()
read_foreign_weights()

_DATA = ["vgg_mm.data"]
_MODELS = ["vgg_mm.models", "vgg_mm.testing"]
_TRAINING = ["vgg_mm.training"]
_WEIGHTS = ["vgg_mm.weights"]
_TESTING = ["vgg_mm.testing"]


def _child(name: str, parent: Registry, locations: list[str]) -> Registry:
    return Registry(name, parent=parent, scope="vgg_mm", locations=locations)


DATASETS = _child("dataset", root.DATASETS, _DATA)
DATA_SAMPLERS = _child("data sampler", root.DATA_SAMPLERS, _DATA)
TRANSFORMS = _child("transform", root.TRANSFORMS, _DATA)
FUNCTIONS = _child("function", root.FUNCTIONS, _DATA)
MODELS = _child("model", root.MODELS, _MODELS)
MODEL_WRAPPERS = _child("model wrapper", root.MODEL_WRAPPERS, _TRAINING)
WEIGHT_INITIALIZERS = _child("weight initializer", root.WEIGHT_INITIALIZERS, [*_MODELS, *_WEIGHTS])
LOOPS = _child("loop", root.LOOPS, _TRAINING)
PARAM_SCHEDULERS = _child("parameter scheduler", root.PARAM_SCHEDULERS, _TRAINING)
HOOKS = _child("hook", root.HOOKS, [*_TRAINING, *_WEIGHTS])
METRICS = _child("metric", root.METRICS, _TESTING)
