"""A trained net on pictures of your own, by the config's protocol (Sec. 3.2), and its drawing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from vgg_mm.data import read_image, rescale
from vgg_mm.data.classes import metainfo
from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.inputs import check_input
from vgg_mm.testing.drawing import legible
from vgg_mm.weights.checkpoint import check_fit, read_checkpoint


class Predictor:
    """A net that names what is on a picture, by its config's ``tta_model`` and ``tta_pipeline``.

    Args:
        cfg: The config that the net was trained with.
        checkpoint: The file of its weights.

    Attributes:
        classes: The classes' names: the checkpoint's, or else those of the config's data.

    Raises:
        UserError: If the checkpoint is missing, damaged or another net's, or the classes' names
            are not to be found.
    """

    def __init__(self, cfg: Config, checkpoint: str | os.PathLike) -> None:
        if missing := {"tta_model", "tta_pipeline"} - cfg.keys():
            raise UserError(f"the config lacks {' and '.join(sorted(missing))}: how to test.")
        saved = read_checkpoint(checkpoint)
        init_default_scope(cfg.get("default_scope", "mmpretrain"))
        self.pipeline = Compose(cfg.tta_pipeline)
        self.model = MODELS.build(dict(**cfg.tta_model, module=cfg.model))
        weights = saved.get("state_dict", saved)
        check_fit(self.model.module, weights, str(checkpoint))
        check_input(saved.get("meta"), cfg.model, str(checkpoint))
        self.model.module.load_state_dict(weights)
        self.model.to(get_device()).eval()
        meta = saved.get("meta", {}).get("dataset_meta", {})
        self.classes: Sequence[str] = meta.get("classes") or _classes(cfg)

    def __call__(self, picture: str | os.PathLike) -> Tensor:
        """The probability (classes,) of each class, 0 to 1, for a picture file of any size.

        Raises:
            CorruptImageError: If the picture cannot be read or decoded, is too small for the net,
                or too large for it or the memory.
            UserError: If there are more or fewer names than classes, or the probabilities are no
                numbers.
        """
        with blamed(str(picture)):
            sample = self.pipeline(dict(img_path=str(picture)))
            posterior = self.model.test_step(pseudo_collate([sample]))[0].pred_score.cpu()
        if len(posterior) != len(self.classes):
            raise UserError(
                f"the net has {len(posterior)} classes, but the config's data set names "
                f"{len(self.classes)}, and the checkpoint names none."
            )
        if not posterior.isfinite().all():
            raise UserError(
                f"{picture}: the net's probabilities are no numbers (NaN): its training went "
                "astray; use an earlier checkpoint."
            )
        return posterior

    def top(self, picture: str | os.PathLike, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes' names and probabilities, or all there are.

        Raises:
            As calling does.
        """
        values, labels = self(picture).sort(descending=True, stable=True)
        names = (self.classes[label] for label in labels[:k])
        return list(zip(names, values[:k].tolist(), strict=True))


def _classes(cfg: Config) -> Sequence[str]:
    """The names of the config's training data, whose order is the net's, or else of its test data.

    Raises:
        UserError: If neither is here or names its classes.
    """
    errors = []
    for loader in ("train_dataloader", "test_dataloader"):
        data = cfg.get(loader, {}).get("dataset")
        while inner := data and (data.get("dataset") or data.get("datasets", [None])[0]):
            data = inner
        try:
            dataset = DATASETS.build({**data, "pipeline": [], "lazy_init": True}) if data else None
            if data and "classes" not in metainfo(dataset):  # they are its folders
                dataset.full_init()
        except UserError as error:
            errors.append(str(error))
            continue
        if classes := metainfo(dataset).get("classes"):
            return classes
    reason = errors[0] if errors else "The config's data sets name none."
    raise UserError(f"the checkpoint does not name its classes. {reason}")


def draw(
    picture: str | os.PathLike,
    top: Sequence[tuple[str, float]],
    out: str | os.PathLike,
    classes: Sequence[str],
) -> None:
    """Draws a picture, its most probable classes under it, to be read on a phone too.

    Args:
        picture: The picture's file.
        top: Names and probabilities, the most probable first; 20 are drawn at most.
        out: The PNG to write, 1000 pixels wide; its folder is made.
        classes: All classes' names.
    """
    top = top[:20]
    names, values = zip(*top, strict=True)
    families, names = legible(names, [list(classes).index(name) for name in names])
    image = read_image(str(picture))
    image = rescale(image, min(800, *image.shape[:2]))[..., ::-1]
    height, width = image.shape[:2]
    heights = 5 * min(max(height / width, 0.3), 1.2), 0.4 * len(top)  # inches
    figure = Figure(figsize=(5, sum(heights)), dpi=200)
    margins = dict(left=0.02, right=0.98, bottom=0.02, top=0.98, hspace=0.05)
    above, below = figure.subplots(2, height_ratios=heights, gridspec_kw=margins)
    above.imshow(image)
    below.barh(range(len(top)), values, color=["#8ecae6"] + ["#d9e2e8"] * (len(top) - 1))
    below.set(xlim=(0, 1), ylim=(len(top) - 0.5, -0.5))
    style = dict(va="center", fontsize=14, parse_math=False, clip_on=True, family=families)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        below.text(0.18, row, f"{value:.1%}", ha="right", **style)
        below.text(0.21, row, name if len(name) < 34 else f"{name[:32].rstrip(', ')} ...", **style)
    for axes in (above, below):
        axes.axis("off")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png")
