"""Where a net's weights start: in a file, from anywhere, whole or in part (Sec. 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, is_model_wrapper, update_init_info
from mmengine.runner import Runner
from torch import nn

from vgg_mm.data.classes import metainfo, positions, shortened
from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.models import VGG, VGGFC, BoxHead
from vgg_mm.registry import HOOKS, WEIGHT_INITIALIZERS
from vgg_mm.weights.checkpoint import read_checkpoint
from vgg_mm.weights.files import local
from vgg_mm.weights.layouts import FCS
from vgg_mm.weights.source import Fit, Source, fit, open_source, take

FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", *FCS)


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
    _tell(source, found)
    if source.input:
        print_log(f"Its data_preprocessor: {source.input.settings()}.", "current")
    for part in parts:
        part.trained_on = source
    return True


def check_preprocessor(model: nn.Module) -> None:
    """Warns if a model's data_preprocessor is not what its VGG's weights were trained on."""
    sources = {id(s): s for m in model.modules() if (s := vars(m).pop("trained_on", None))}
    for source in sources.values():
        _warn_of_input(model, source)


def _tell(source: Source, found: Fit, model: nn.Module | None = None) -> None:
    """Logs what a file gave; warns of what starts new, but for fc8, and of another input."""
    level = logging.WARNING if found.new.keys() - {"fc8", "head.fc8"} else logging.INFO
    print_log(f"{source.path} ({source.kind}): {found}.", "current", level)
    _warn_of_input(model, source)


def _warn_of_input(model: nn.Module | None, source: Source) -> None:
    """Warns in the toolbox's own terms if ``model`` gets another input than a file's net."""
    preprocessor = getattr(model, "data_preprocessor", None)
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


@HOOKS.register_module()
class StartFrom(Hook):
    """Starts a training with a file's weights, of any kind that ``Pretrained`` takes.

    FC layers of another shape start new, and so does fc8 where the file's classes are others, by
    their names, than the training set's; the log names them. Of the same classes in another order,
    fc8's rows go by name. A :class:`vgg_mm.BoxHead`'s fc8 always starts new. The convs and norms
    must fit. A resumed run does not come here.

    Args:
        checkpoint: A path or an address, see :func:`vgg_mm.weights.source.open_source`.
        prefix: What stands before the net's names in a file that holds several.
    """

    def __init__(self, checkpoint: str, prefix: str = "") -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.origin = f"the weights of {checkpoint}"

    def before_train(self, runner: Runner) -> None:
        """Initialises the model, on every process alike."""
        if not runner._resume:
            runner.message_hub.update_info("started_from", self.origin)
            wrapped = is_model_wrapper(runner.model)
            self.start(runner.model.module if wrapped else runner.model, runner)

    def start(self, model: nn.Module, runner: Runner) -> None:
        """Gives ``model`` its weights; where it holds no VGG, as mmengine loads a checkpoint."""
        if not any(isinstance(module, VGG) for module in model.modules()):
            path = local(self.checkpoint)
            read_checkpoint(path)  # for its errors
            runner.load_checkpoint(str(path))
            return
        source = open_source(self.checkpoint, self.prefix)
        meta = metainfo(runner.train_dataloader.dataset)
        _tell(source, start_from(model, source, meta), model)


def start_from(
    model: nn.Module, source: Source, meta: Mapping[str, tuple] = MappingProxyType({})
) -> Fit:
    """Starts ``model``, whose classes ``meta`` names, as :class:`StartFrom` says."""
    found = fit(model, source, may_be_new=FCS)
    fc8 = [name for name in found.weights if name.rpartition(".")[0].endswith("fc8")]
    if heads := [name for name, part in model.named_modules() if isinstance(part, BoxHead)]:
        for name in fc8:
            del found.weights[name]
        if heads[0] not in found.new:
            found.new[f"{heads[0]}.fc8"] = "it predicts boxes, no classes"
    elif fc8 and source.meta.get("classes") and meta.get("classes"):
        rows = positions(source.meta, meta)
        for name in fc8:
            weight = found.weights.pop(name)
            if rows is not None:
                found.weights[name] = weight[rows]
        if rows is None:
            names = shortened(source.meta["classes"])
            found.new[fc8[0].rpartition(".")[0]] = f"the file's classes are others: {names}"
    model.load_state_dict(found.weights, strict=False)
    return found


@HOOKS.register_module()
class InitFromA(StartFrom):
    """Copies net A's first four convs and its three FC layers; the other layers are random.

    Random are weights from N(0, 0.01^2) and zero biases. All layers then learn at the same rate. A
    resumed run does not come here.

    Args:
        checkpoint: Net A's weights, of the same width and classes, as for :class:`StartFrom`.
        std: The random weights' standard deviation; None leaves these layers as the config
            initialises them, for in nets much narrower than the paper's 0.01 lets no signal pass.
        prefix: As for :class:`StartFrom`.
    """

    def __init__(self, checkpoint: str, std: float | None = 0.01, prefix: str = "") -> None:
        super().__init__(checkpoint, prefix)
        self.std = std
        others = "the config's initialisation" if std is None else f"N(0, {std:g}^2)"
        self.origin = f"net A's {', '.join(FROM_A)} in {checkpoint}, {others} else"

    def start(self, model: nn.Module, runner: Runner) -> None:
        """Gives ``model`` its weights, with the same random numbers on every process."""
        source = open_source(self.checkpoint, self.prefix)
        _tell(source, init_from_a(model, source, runner.seed, self.std), model)


@torch.no_grad()
def init_from_a(model: nn.Module, source: Source, seed: int, std: float | None = 0.01) -> Fit:
    """Starts ``model`` as :class:`InitFromA` says."""
    found = fit(model, source, only=FROM_A, arch="A")
    taken = {name.rpartition(".")[0] for name in found.weights}
    if {name.rpartition(".")[2] for name in taken} != {*FROM_A}:
        raise UserError("Only a vgg_mm.VGG with a vgg_mm.VGGHead starts from net A.")
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name not in taken and std is not None:
            layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, std, generator=generator))
            assert layer.bias is not None
            layer.bias.zero_()
    model.load_state_dict(found.weights, strict=False)
    return found


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
    def __call__(self, module: VGGFC) -> None:
        """Initialises ``module``'s fc6 and fc7."""
        source = open_source(self.checkpoint, self.prefix or "")
        own = {k: v for k, v in module.state_dict().items() if not k.startswith("fc8")}
        matched = source.match(source.tensors, "D")
        names = {ours: matched.theirs(ours) for ours in own}
        for ours, value in take(source, names, module.fc6.in_channels).items():
            shape = own[ours].shape
            # Every n-th entry, n being the smallest that leaves at most as many.
            steps = [-(-n // m) for n, m in zip(value.shape, shape, strict=False)]
            kept = value[tuple(slice(None, None, step) for step in steps)]
            if kept.shape != shape:
                raise UserError(
                    f"{source.path}: {names[ours]} ({ours}) is {tuple(value.shape)}, which cannot "
                    f"be subsampled to {tuple(shape)}: dimensions may be divided by whole numbers, "
                    "such as 4096 to 1024 and 7 to 3."
                )
            own[ours].copy_(kept)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"SubsampledFC: from {self.checkpoint}")
