"""Any torch classifier under the paper's protocols."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from vgg_mm.data import Folders
from vgg_mm.data.classes import metainfo
from vgg_mm.data.given import sample
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.testing.evaluation import Evaluation


class Plain(BaseModel):
    """A classifier from images (N, 3, H, W) to logits (N, classes), as Evaluation takes one.

    Args:
        net: The classifier.
        trained_on: Its input; None: what its ``pretrained_cfg`` says, as timm's nets have it.

    Raises:
        UserError: If nothing tells its input.
    """

    def __init__(self, net: nn.Module, trained_on: Input | None = None) -> None:
        told: Any = getattr(net, "pretrained_cfg", None)
        if trained_on is None and told:
            trained_on = Input("RGB", 1, tuple(told["mean"]), tuple(told["std"]))
        if trained_on is None:
            raise UserError(
                f"{type(net).__name__} does not tell its input: say input={' or '.join(INPUTS)}, "
                "or a vgg_mm.inputs.Input."
            )
        super().__init__(trained_on.preprocessor())
        self.config = dict(data_preprocessor=trained_on.preprocessor())
        self.backbone, self.head = net, nn.Identity()
        weight = next(net.parameters())
        self.data_preprocessor.to(weight.device, weight.dtype)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor"
    ) -> Tensor:
        """The net's logits (N, classes) of images (N, 3, H, W)."""
        return self.backbone(inputs)


class PlainEvaluation(Evaluation):
    """The evaluation of a :class:`Plain`; ``dense`` is refused where the net is not convolutional.

    Takes :class:`Evaluation`'s arguments.
    """

    @torch.no_grad()
    def _check_net(self) -> None:
        if "dense" not in self.views:
            return
        net, why = self.module.backbone, ""
        pools = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
        sizes = [m.output_size for m in net.modules() if isinstance(m, pools)]
        if odd := [size for size in sizes if size not in (1, (1, 1))]:
            why = f"it pools its last map to {odd[0]}, which is no average of what windows score"
        weight = next(net.parameters())
        sides = (self.crop_size + 64, self.crop_size + 32)
        try:
            self.module.eval()(weight.new_zeros(1, 3, *sides))
        except (RuntimeError, AssertionError, ValueError) as error:
            why = why or f"an image of {sides} is an error: {error!s:.120}".split("\n")[0]
        if why:
            raise UserError(
                f"{type(net).__name__} cannot run densely, for {why}. Use views='crops', or of a "
                "VGG vgg_mm.load(ARCH, weights=FILE)."
            )


class Labelled(Dataset):
    """Images with labels, from wherever they come, through a test-time pipeline.

    Args:
        data: See :func:`vgg_mm.evaluate`.
        run: The pipeline.

    Attributes:
        meta: The data set's ``metainfo``, with its ``classes`` if it names them.

    Raises:
        UserError: If there is no image.
    """

    def __init__(self, data: Any, run: Callable[[dict], dict]) -> None:
        self.data = Folders(data_root=os.fspath(data)) if isinstance(data, str | Path) else data
        self.run = run
        self.meta = metainfo(self.data)
        if not self.meta and isinstance(names := getattr(data, "classes", None), list | tuple):
            # torchvision's ImageNet has a class's words in a tuple, and the folders in wnids.
            names = [", ".join(each) if isinstance(each, tuple) else each for each in names]
            self.meta = dict(classes=names)
            if hasattr(data, "wnids"):
                self.meta["folders"] = data.wnids
        if not len(self):
            raise UserError("there is no image to test on: the list is empty.")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        """An image's ``inputs``, a list of uint8 (3, H, W), and ``data_samples`` with its label."""
        if hasattr(self.data, "get_data_info"):
            info = self.data.get_data_info(index)
            start, label = {k: info[k] for k in ("img_path", "file") if k in info}, info["gt_label"]
        else:
            image, label = self.data[index]
            start = sample(image, f"image {index}")
        packed = self.run(start)
        packed["data_samples"].set_gt_label(int(label))
        return packed
