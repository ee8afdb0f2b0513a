"""A trained net on images of your own, by the config's protocol (Sec. 3.2), and its drawing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from tools.analysis.drawing import draw_box, legible
from vgg_mm.data import read_image, rescale
from vgg_mm.data.classes import metainfo
from vgg_mm.data.images import blamed
from vgg_mm.data.wrappers import levels
from vgg_mm.errors import UserError
from vgg_mm.inputs import check_input
from vgg_mm.testing.evaluate import finds_boxes
from vgg_mm.weights.checkpoint import check_fit, read_checkpoint


@dataclass(frozen=True)
class Thing:
    """What a net that predicts boxes finds of a class.

    Attributes:
        label: The class's number.
        box: Its corners x1, y1, x2, y2 in pixels of the file.
        size: The file's width and height.
        rating: The sum of the classifier's posteriors in the windows that say so.
    """

    label: int
    box: np.ndarray
    size: tuple[int, int]
    rating: float

    def in_image(self, height: int, width: int) -> np.ndarray:
        """The box in pixels of the image at another size."""
        return self.box * np.array([width / self.size[0], height / self.size[1]] * 2)


class Predictor:
    """A net that names what is on an image, by its config's ``tta_model`` and ``tta_pipeline``.

    Of a config that predicts boxes its classifier names it, and the net says where it is.

    Args:
        cfg: The config that the net was trained with.
        checkpoint: The file of its weights.

    Attributes:
        classes: The classes' names: the checkpoint's, or else those of the config's data.

    Raises:
        UserError: If the checkpoint is missing, damaged or another net's, the classes' names are
            not to be found, or a config that predicts boxes tells no classifier.
    """

    def __init__(self, cfg: Config, checkpoint: str | os.PathLike) -> None:
        if missing := {"tta_model", "tta_pipeline"} - cfg.keys():
            raise UserError(f"the config lacks {' and '.join(sorted(missing))}: how to test.")
        if finds_boxes(cfg):
            cfg = deepcopy(cfg)
            cfg.tta_model.scores = None  # they are of other images
            if not cfg.tta_model.get("classifier"):
                raise UserError(
                    "the config's net finds boxes, and a classifier names what is in them: set "
                    "tta_model.classifier=dict(config=..., checkpoint=...) in the config."
                )
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
        if finds_boxes(cfg):
            self.model.check_files()
            self.model.load(self.classes)

    def __call__(self, image: str | os.PathLike) -> Tensor:
        """The probability (classes,) of each class, 0 to 1, for an image file of any size.

        Raises:
            CorruptImageError: If the image cannot be read or decoded, is too small for the net,
                or too large for it or the memory.
            UserError: If there are more or fewer names than classes, or the probabilities are no
                numbers.
        """
        return self.look(image)[0]

    def look(self, image: str | os.PathLike) -> tuple[Tensor, list[Thing]]:
        """As calling it, and what it finds of the most probable classes, the first one's first.

        A net that predicts no boxes finds nothing.
        """
        with blamed(str(image)):
            packed = self.pipeline(dict(img_path=str(image)))
            sample = self.model.test_step(pseudo_collate([packed]))[0]
        posterior = sample.pred_score.cpu()
        if len(posterior) != len(self.classes):
            raise UserError(
                f"the net has {len(posterior)} classes, but the config's data set names "
                f"{len(self.classes)}, and the checkpoint names none."
            )
        if not posterior.isfinite().all():
            raise UserError(
                f"{image}: the net's probabilities are no numbers (NaN): its training went "
                "astray; use an earlier checkpoint."
            )
        things = [
            Thing(int(guess[0]), guess[1:5], sample.ori_shape[::-1], float(guess[5]))
            for guess in np.asarray(sample.get("guesses", np.empty((0, 7))))
        ]
        return posterior, things

    def top(self, image: str | os.PathLike, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes' names and probabilities, or all there are.

        Raises:
            As calling does.
        """
        return self.ranked(self(image), k)

    def ranked(self, posterior: Tensor, k: int) -> list[tuple[str, float]]:
        """As :meth:`top`, of probabilities (classes,)."""
        values, labels = posterior.sort(descending=True, stable=True)
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
        if data:
            data = next(each for each in levels(data) if {"dataset", "datasets"}.isdisjoint(each))
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
    image: str | os.PathLike,
    top: Sequence[tuple[str, float]],
    out: str | os.PathLike,
    classes: Sequence[str],
    thing: Thing | None = None,
) -> None:
    """Draws an image, its most probable classes under it, to be read on a phone too.

    Args:
        image: The image's file.
        top: Names and probabilities, the most probable first; 20 are drawn at most.
        out: The PNG to write, 1000 pixels wide; its folder is made.
        classes: All classes' names.
        thing: What was found of the most probable class, to be framed.
    """
    top = top[:20]
    names, values = zip(*top, strict=True)
    families, names = legible(names, [list(classes).index(name) for name in names])
    pixels = read_image(str(image))
    pixels = rescale(pixels, min(800, *pixels.shape[:2]))[..., ::-1]
    height, width = pixels.shape[:2]
    heights = 5 * min(max(height / width, 0.3), 1.2), 0.4 * len(top)  # inches
    figure = Figure(figsize=(5, sum(heights)), dpi=200)
    margins = dict(left=0.02, right=0.98, bottom=0.02, top=0.98, hspace=0.05)
    above, below = figure.subplots(2, height_ratios=heights, gridspec_kw=margins)
    above.imshow(pixels)
    if thing:
        draw_box(above, thing.in_image(height, width), "#1a7f37")
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
