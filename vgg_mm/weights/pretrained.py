"""How weights begin as a file's, from anywhere: all of a net's, or parts of fc6 and fc7."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.models import VGG, VGGFC
from vgg_mm.registry import WEIGHT_INITIALIZERS
from vgg_mm.weights.source import Source, fit, open_source, take


def load(module: nn.Module, checkpoint: str, prefix: str | None = None) -> bool:
    """Stands in for mmengine's ``Pretrained`` in nets with a VGG of ours; takes foreign files too.

    The layers of :class:`vgg_mm.VGG` and :class:`vgg_mm.VGGFC` get the file's numbers as they are:
    nothing is folded, so the ``data_preprocessor`` must be what the weights were trained on, which
    the log tells; another one is warned of. Other layers are taken by their own names. Nothing in
    a file is run.

    Args:
        module: The net.
        checkpoint: A path or an address, see :func:`vgg_mm.weights.source.open_source`.
        prefix: What stands before the module's names in the file.

    Returns:
        Whether it has a VGG, and thus was loaded.

    Raises:
        UserError: If the file is damaged, unsafe or no VGG, or its convs or norms are not those of
            ``module``. fc8 starts new where the numbers of classes differ.
    """
    parts = [part for part in module.modules() if isinstance(part, VGG | VGGFC)]
    if not parts:
        return False
    convs_only = not any(isinstance(part, VGGFC) for part in parts)
    source = open_source(checkpoint, prefix or "", features_only=convs_only)
    found = fit(module, source, may_be_new=("fc8",))
    module.load_state_dict(found.weights, strict=False)
    level = logging.WARNING if found.new else logging.INFO
    print_log(f"{source.path} ({source.kind}): {found}.", "current", level)
    if source.input:
        print_log(f"Its data_preprocessor: {source.input.settings()}.", "current")
    for part in parts:
        part.trained_on = source
    return True


def check_preprocessor(model: nn.Module) -> None:
    """Warns if a model's data_preprocessor is not what its VGG's weights were trained on."""
    preprocessor = getattr(model, "data_preprocessor", None)
    sources = {id(s): s for m in model.modules() if (s := vars(m).pop("trained_on", None))}
    for source in sources.values():
        warn_of_input(preprocessor, source)


def warn_of_input(preprocessor: nn.Module | None, source: Source) -> None:
    """Warns in the toolbox's own terms if ``preprocessor`` makes another input than a file's."""
    if preprocessor is None or not source.input:
        return
    given = Input.of_preprocessor(preprocessor)
    if source.input.same_as(given, tolerance=1):
        return
    theirs = any(hasattr(preprocessor, f"{_}channel_conversion") for _ in ("", "_"))
    switch = "bgr_to_rgb" if theirs else "to_rgb"
    print_log(
        f"{source.path} ({source.kind}) was trained with {source.input.settings(switch)}, and the "
        f"config's data_preprocessor has {given.settings(switch)}.",
        "current",
        logging.WARNING,
    )


@WEIGHT_INITIALIZERS.register_module()
class SubsampledFC(PretrainedInit):
    """A classifier's fc6 and fc7 for a smaller :class:`vgg_mm.VGGFC`, as SSD and DeepLab take them.

    Of the outputs, rows and columns, and of fc7's inputs, every n-th is kept, from the first on:
    fc6's 4096 x 512 x 7 x 7 become 1024 x 512 x 3 x 3 by keeping every 4th output and every 3rd row
    and column.

    Args:
        checkpoint: A classifier's, as for :func:`load`.
        prefix: Likewise.
    """

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Initialises ``module``'s fc6 and fc7.

        Raises:
            UserError: If the file is damaged or unsafe or lacks them, or no step gives the module's
                size.
        """
        source = open_source(self.checkpoint, self.prefix or "")
        own = {k: v for k, v in module.state_dict().items() if not k.startswith("fc8")}
        names = source.match(source.tensors, "D").names
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
