"""An image of one's content and another's style (Gatys et al., CVPR 2016)."""

from __future__ import annotations

import os

import numpy as np
import torch
from mmengine.device import get_device
from torch import Tensor

from vgg_mm import PerceptualLoss
from vgg_mm.data import read_image, rescale
from vgg_mm.paper import TABLE_1, convs

CONTENT, STYLE = "conv4_2", ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


def paint(
    content: str | os.PathLike,
    style: str | os.PathLike,
    arch: str,
    weights: str,
    side: int,
    steps: int,
    content_weight: float,
    input: str | None = None,
) -> tuple[np.ndarray, str]:
    """Paints ``content`` in the style of ``style``.

    Args:
        content: An image file.
        style: Likewise.
        arch: The net.
        weights: Its weights, as :class:`PerceptualLoss` takes them.
        side: The images' shortest side, in pixels.
        steps: Of Adam, where the paper has L-BFGS.
        content_weight: The paper's alpha, beta being 1.
        input: What the weights want, where their file does not tell.

    Returns:
        The image, BGR uint8 (H, W, 3), and a line on the style's loss before and after.

    Raises:
        UserError: If an image cannot be read, or the weights do not fit.
    """
    channels = {conv.name: conv.channels for conv in convs(arch)} if arch in TABLE_1 else {}
    loss = PerceptualLoss(
        {CONTENT: 1.0},
        (0, 255),
        "BGR",
        # The paper's loss is a sum over the matrix, divided by 4, in five layers alike.
        {name: channels.get(name, 0) ** 2 / 4 / len(STYLE) for name in STYLE},
        criterion="mse",
        arch=arch,
        pretrained=weights,
        input=input,
    ).to(get_device())
    images = [_load(path, side) for path in (content, style)]
    with torch.no_grad():
        (seen, painting) = map(loss.see, images)
    wanted = seen._replace(grams=painting.grams)
    alpha = content_weight * seen.maps[CONTENT].numel() / 2  # the paper's is half a sum
    x = images[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=4.0)  # grey levels a step, whatever the loss's scale
    styles: list[float] = []
    for step in range(steps):
        optimizer.zero_grad()
        perceptual, gram = loss.compare(loss.see(x), wanted)
        (alpha * perceptual + gram).backward()
        optimizer.step()
        styles.append(gram.item())
        if step % 20 == 0:
            print(f"{step:4} style {gram:.4g}, content {alpha * perceptual:.4g}", flush=True)
    painted = x.detach()[0].clamp(0, 255).round().byte().permute(1, 2, 0)
    return painted.cpu().numpy(), f"the style's loss fell from {styles[0]:.3g} to {styles[-1]:.3g}"


def _load(path: str | os.PathLike, side: int) -> Tensor:
    """An image (1, 3, H, W), BGR from 0 to 255."""
    image = rescale(read_image(str(path)), side, str(path))
    return (
        torch.tensor(image, dtype=torch.float32, device=get_device())
        .permute(2, 0, 1)[None]
        .contiguous()
    )
