"""How weights begin as a file's, from anywhere: all of a net's, or parts of fc6 and fc7."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_INITIALIZERS
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.models.head import VGGFC
from vgg_mm.models.vgg import VGG
from vgg_mm.registry import WEIGHT_INITIALIZERS
from vgg_mm.weights.files import local, read_tensors
from vgg_mm.weights.source import FOREIGN, Source, open_source, take


# The name is mmengine's, for it defers no other one to after the children's initialisation, which
# would overwrite a classifier's weights.
@ROOT_INITIALIZERS.register_module(name="Pretrained", force=True)
class Pretrained(PretrainedInit):
    """mmengine's initialiser, which for nets with a VGG of ours also takes foreign files.

    The VGG's layers, :class:`vgg_mm.VGG`'s and :class:`vgg_mm.VGGFC`'s, get the file's numbers as
    they are: nothing is folded, so the ``data_preprocessor`` must be what the weights were trained
    on, which the log tells. A file under the module's own names is loaded as mmengine loads it.
    Nothing in a file is run.

    Args:
        checkpoint: A path, a URL or ``torchvision://vgg16``; see
            :func:`vgg_mm.weights.source.open_source`.
        prefix: What stands before the module's names in the file.
        map_location: Is mmengine's, for nets without a VGG of ours.
    """

    @property
    def before(self) -> str:
        """The prefix with its dot, as mmengine reads it."""
        return f"{self.prefix.rstrip('.')}." if self.prefix else ""

    def __call__(self, module: nn.Module) -> None:
        """Initialises ``module``.

        Raises:
            UserError: If the file is damaged, unsafe or no VGG, or lacks a layer of ``module`` or
                has it in another shape. fc8 alone starts new where the numbers of classes differ.
        """
        parts = {n: m for n, m in module.named_modules() if isinstance(m, VGG | VGGFC)}
        if not parts:
            super().__call__(module)
            return
        print_log(f"load model from: {self.checkpoint}", logger="current")
        if not self._load_own(module, parts):
            arch = next((part.arch for part in parts.values() if isinstance(part, VGG)), "D")
            source = open_source(self.checkpoint, arch, self.before)
            for name, part in parts.items():
                _load_part(part, source, source.names(arch), name)
            if source.input:
                print_log(f"They expect {source.input} as the data_preprocessor's.", "current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def _load_own(self, module: nn.Module, parts: dict[str, nn.Module]) -> bool:
        """Loads a file of the whole detector's weights; False if the file is something else."""
        own = [k for k in module.state_dict() if not any(k.startswith(f"{n}.") for n in parts)]
        if "" in parts or not own:
            return False
        path = local(self.checkpoint)
        if path.suffix in FOREIGN:
            return False
        tensors, _ = read_tensors(path)
        cut = len(self.before)
        tensors = {k[cut:]: v for k, v in tensors.items() if k.startswith(self.before)}
        if tensors.keys().isdisjoint(own):
            return False
        load_state_dict(module, tensors, strict=False, logger="current")
        return True


def _load_part(part: nn.Module, source: Source, names: dict[str, str], name: str) -> None:
    own = part.state_dict()
    wanted = {ours: names.get(ours, ours) for ours in own}
    if name and source.tensors.keys().isdisjoint(wanted.values()):
        _warn(f"{name} starts new, for {source.path} has no such layers.")
        return
    weights = take(source, wanted, part.fc6.in_channels if isinstance(part, VGGFC) else 0)
    for ours, value in weights.items():
        if value.shape != own[ours].shape and not ours.startswith("fc8"):
            raise UserError(
                f"{source.path}: {wanted[ours]} ({ours}) is {list(value.shape)}, and the net wants "
                f"{list(own[ours].shape)}."
            )
    if "fc8.bias" in own and len(own["fc8.bias"]) != len(weights["fc8.bias"]):
        classes = len(weights["fc8.bias"])
        _warn(f"fc8 starts new, for {source.path} has {classes} classes.")
        weights = {ours: value for ours, value in weights.items() if not ours.startswith("fc8")}
    part.load_state_dict(weights, strict=False)


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)


@WEIGHT_INITIALIZERS.register_module()
class SubsampledFC(Pretrained):
    """A classifier's fc6 and fc7 for a smaller :class:`vgg_mm.VGGFC`, as SSD and DeepLab take them.

    Of the outputs, rows and columns, and of fc7's inputs, every n-th is kept, from the first on:
    fc6's 4096 x 512 x 7 x 7 become 1024 x 512 x 3 x 3 by keeping every 4th output and every 3rd row
    and column.

    Args:
        checkpoint: A classifier's, as for :class:`Pretrained`.
        prefix: Likewise.
    """

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Initialises ``module``'s fc6 and fc7.

        Raises:
            UserError: If the file is damaged or unsafe or lacks them, or no step gives the module's
                size.
        """
        source = open_source(self.checkpoint, "D", self.before)
        own = {k: v for k, v in module.state_dict().items() if not k.startswith("fc8")}
        names = source.names("D")
        weights = take(source, {ours: names[ours] for ours in own}, module.fc6.in_channels)
        for ours, value in own.items():
            name = f"{source.path}: {names[ours]} ({ours})"
            value.copy_(_subsample(weights[ours], value.shape, name))
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
