"""A classifier with its own input, looked at by the paper's protocols (Sec. 3.2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from vgg_mm.data import ImageNet
from vgg_mm.data.classes import differences, positions
from vgg_mm.data.given import Images, is_one, samples
from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.models import VGG, BoxHead, VGGHead
from vgg_mm.models.cpu import laid_out
from vgg_mm.testing.evaluation import Evaluation
from vgg_mm.testing.features import FeatureExtractor, layer_maps
from vgg_mm.testing.localisation import Localizer, check_classes
from vgg_mm.testing.scores import Scores
from vgg_mm.weights.folder import plain_model, write_folder

IMAGENET: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in ImageNet.METAINFO.items()}
PIPELINE: list[dict] = [
    dict(type="vgg_mm.LoadImage"),
    dict(type="vgg_mm.MultiScale", scales=[256]),
    dict(type="PackInputs", meta_keys=["img_path", "ori_shape"]),
]


class Guess(NamedTuple):
    """A class, and where a net sees it: ``box`` is x1, y1, x2, y2 in the image's pixels."""

    name: str
    box: tuple[float, float, float, float]
    rating: float
    label: int


@contextmanager
def answering(net: nn.Module) -> Iterator[None]:
    """Within it a net is in eval mode; then all of its modules are in the mode that they were."""
    modes = [(each, each.training) for each in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


class Net:
    """A classifier with the input that it was trained on, and a protocol (Sec. 3.2) to look by.

    Images are given as :func:`vgg_mm.data.given.samples` takes them. For one image a method returns
    what it found, for several a list of that. ``scales`` are the images' shortest sides Q, by
    default the net's own; a smaller image is scaled up. One that cannot be read, or is too small or
    too large, is a :class:`vgg_mm.data.CorruptImageError`.

    Args:
        model: An ImageClassifier, whose data_preprocessor makes its input of BGR images.
        config: Its config.
        classes: The classes' names, in the order of its outputs.
        protocol: The config of a :class:`vgg_mm.Evaluation`, without a module.
        pipeline: The test-time pipeline's config, with a :class:`vgg_mm.MultiScale`.

    Attributes:
        model: The plain ``nn.Module``, from its input (N, 3, H, W) to class scores (N, classes),
            for hooks, gradients and ``torch.compile``.
        localizer: The test-time model of a config that predicts boxes and tells a classifier.
        measured: What :meth:`save` was told that it reached, in words.
    """

    def __init__(
        self,
        model: ImageClassifier,
        config: Mapping[str, Any],
        classes: Sequence[str] = (),
        protocol: Mapping[str, Any] | None = None,
        pipeline: Sequence[Mapping[str, Any]] = PIPELINE,
    ) -> None:
        self.model = model.eval()
        self.localizer: Localizer | None = None
        self.measured = ""
        self.config = config
        outputs = getattr(getattr(model, "head", None), "num_classes", 0)
        names = classes or (IMAGENET["classes"] if outputs == 1000 else ())
        self.named = bool(names)
        self.classes = tuple(names or map(str, range(outputs)))
        self.protocol = {"type": "vgg_mm.Evaluation", **(protocol or {})}
        self.pipeline: list[dict[str, Any]] = [{**step} for step in pipeline]

    @property
    def input(self) -> Input:
        """What the net sees: the order of colours, their range, mean and deviation."""
        return Input.of_config(self.config)

    @property
    def scales(self) -> list[int]:
        """The image's shortest sides Q in pixels, unless a call says otherwise."""
        return next(step["scales"] for step in self.pipeline if is_multi_scale(step))

    @property
    def arch(self) -> str:
        """The net's name in Table 1, or else its kind's."""
        return getattr(self.model.backbone, "arch", type(self.model.backbone).__name__)

    def __repr__(self) -> str:
        views = self.protocol.get("views", "dense")
        told = f"{len(self.classes)} classes, {self.input.settings()}, {views} at {self.scales}"
        return f"Net({self.arch}, {told})"

    def to(self, *args: Any, **kwargs: Any) -> Net:
        """Moves or casts the net as ``nn.Module.to`` does."""
        (self.localizer or self.model).to(*args, **kwargs)
        return self

    @property
    def namer(self) -> ImageClassifier:
        """The module that names classes: of a config that predicts boxes its classifier."""
        return self.localizer.classifier if self.localizer else self.model

    def numbers_of(self, meta: Mapping[str, Any]) -> list[int] | None:
        """The net's number of each class of a data set, by names; None if either has none.

        Raises:
            UserError: If the net lacks a class.
        """
        if not self.named or not meta.get("classes"):
            return None
        ours = dict(classes=self.classes)
        if self.classes == IMAGENET["classes"]:
            ours["folders"] = IMAGENET["folders"]
        if (rows := positions(ours, meta)) is None:
            said = differences("the data", meta, "the net", ours)
            raise UserError(f"{said} Name them alike.")
        return rows

    def evaluation(self, views: str | None = None) -> Evaluation:
        """The test-time model: the net's protocol, or another one's ``views``."""
        if self.localizer and views in (None, "dense"):
            return self.localizer
        if isinstance(self.model.head, BoxHead):
            raise UserError(
                "this net predicts boxes, no classes: use localise. Densely, a classifier names "
                "what is in them: set tta_model.classifier=dict(config=..., checkpoint=...) in the "
                "config."
            )
        if self.model.head is None:
            raise UserError("the net has no classifier, for its file has none: use features.")
        changed = {} if views is None else dict(views=views)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            return MODELS.build({**self.protocol, **changed, "module": self.model})

    def batches(
        self, images: Images, scales: Sequence[int] | int | None = None, batch_size: int = 1
    ) -> Iterator[dict[str, list]]:
        """What a test-time model takes: ``inputs``, a list of images a scale, ``data_samples``."""
        run, found = self.transform(scales), samples(images)
        for start in range(0, len(found), batch_size):
            yield pseudo_collate([run(each) for each in found[start : start + batch_size]])

    def sides(self, scales: Sequence[int] | int | None = None) -> list[int]:
        """The shortest sides Q that a call names, one or several, or else the net's own."""
        return np.atleast_1d(self.scales if scales is None else scales).tolist()

    def transform(self, scales: Sequence[int] | int | None = None) -> Compose:
        """The test-time pipeline at the net's scales, or others."""
        chosen = dict(scales=self.sides(scales))
        steps = [{**step, **chosen} if is_multi_scale(step) else step for step in self.pipeline]
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            return Compose(steps)

    def posteriors(
        self,
        images: Images,
        views: str | None = None,
        scales: Sequence[int] | int | None = None,
        batch_size: int = 1,
    ) -> Tensor:
        """The class posteriors (N, V, classes) of N images by V pairs of a view and a scale.

        They are float32 on the CPU, all scales of the first view, then of the second. ``views`` is
        ``"dense"``, ``"crops"`` or ``"both"``, by default the net's own. ``batch_size`` images run
        together, which changes posteriors by rounding alone.

        Raises:
            UserError: If they are no numbers.
        """
        found = self._looked(self.evaluation(views), images, scales, batch_size)
        return torch.stack([posteriors for posteriors, _ in found])

    def _looked(
        self,
        model: Evaluation,
        images: Images,
        scales: Sequence[int] | int | None,
        batch_size: int = 1,
        classes: Sequence[str] = (),
    ) -> list[tuple[Tensor, list[Guess]]]:
        """Of each image the posteriors (V, classes), and what a :class:`Localizer` found."""
        found, classes = [], classes or self.classes
        if isinstance(model, Localizer):  # whose further nets may have scales of their own
            model.scales = self.sides(scales)
            scales = model.all_scales
        for batch in self.batches(images, scales, batch_size):
            with answering(model):
                tested = model.test_step(batch)
            for sample in tested:
                posteriors = sample.posteriors.float().cpu()
                if not posteriors.isfinite().all():
                    raise UserError(
                        f"{sample.img_path}: the net's probabilities are no numbers (NaN): its "
                        "training went astray; use an earlier checkpoint."
                    )
                rows = sample.guesses.tolist() if "guesses" in sample else []  # seven numbers each
                guesses = [Guess(classes[int(k)], tuple(b), r, int(k)) for k, *b, r, _ in rows]
                found.append((posteriors, guesses))
        return found

    def look(self, images: Images, scales: Sequence[int] | int | None = None) -> Any:
        """The probabilities (classes,) of an image, and a list of :class:`Guess`.

        The most probable class is first in it; it is empty unless the net's config predicts boxes.
        """
        found = self._looked(self.evaluation(), images, scales)
        means = [(posteriors.mean(0), guesses) for posteriors, guesses in found]
        return means[0] if is_one(images) else means

    def predict(
        self,
        images: Images,
        top: int = 5,
        views: str | None = None,
        scales: Sequence[int] | int | None = None,
        batch_size: int = 1,
    ) -> Any:
        """The ``top`` most probable classes of an image: a list of (name, probability).

        What else it takes is as for :meth:`posteriors`.
        """
        posteriors = self.posteriors(images, views, scales, batch_size).mean(1)  # (N, classes)
        named = [self.ranked(each, top) for each in posteriors]
        return named[0] if is_one(images) else named

    def ranked(self, posterior: Tensor, top: int) -> list[tuple[str, float]]:
        """As :meth:`predict`, of an image's probabilities (classes,)."""
        if len(posterior) != len(self.classes):
            raise UserError(
                f"the net has {len(posterior)} classes, but the config's data set names "
                f"{len(self.classes)}, and the checkpoint names none."
            )
        values, labels = posterior.sort(descending=True, stable=True)
        best = zip(labels[:top].tolist(), values[:top].tolist(), strict=True)
        return [(self.classes[label], value) for label, value in best]

    def features(
        self,
        images: Images,
        layers: str | Sequence[str],
        pooled: bool = False,
        before_relu: bool = False,
        scales: Sequence[int] | int | None = None,
    ) -> Any:
        """What layers put out for whole images.

        Args:
            images: The images.
            layers: Names of convs and pools (``"conv5_3"``, ``"pool5"``), ``"fc6"``, ``"fc7"`` and
                ``"fc8"``.
            pooled: Whether to describe an image by one vector a layer, as appendix B does: averaged
                over space, the mirror image and the scales, of L2 norm 1.
            before_relu: Whether to take convs, fc6 and fc7 before their ReLU.
            scales: The shortest sides Q; maps are of one. By default the net's own.

        Returns:
            float32 on the CPU by layer: for an image its maps (C, h, w), or ``pooled`` (C,); for
            several images a list of that, or ``pooled`` (N, C).

        Raises:
            UserError: If the net has no such layer.
        """
        names = [layers] if isinstance(layers, str) else [*layers]
        model = FeatureExtractor(
            self.model, names, flip=self.protocol.get("flip", True), before_relu=before_relu
        )
        if pooled:
            with answering(model):
                steps = [model.test_step(batch)[0] for batch in self.batches(images, scales)]
            vectors = torch.stack([each.features.float().cpu() for each in steps])  # (N, channels)
            vectors = vectors[0] if is_one(images) else vectors
            return dict(zip(names, vectors.split(model.channels, -1), strict=True))
        if len(self.sides(scales)) > 1:
            raise UserError("features: maps are of one scale: say scales=[Q], or pooled=True.")

        def maps_of(x: Tensor) -> dict[str, Tensor]:
            maps = layer_maps(self.model, laid_out(self.model, x), names, before_relu)
            return {name: maps[name][0].float().cpu() for name in names}

        found = [maps for (maps,) in self._run(maps_of, model, images, scales)]
        return found[0] if is_one(images) else found

    @torch.no_grad()
    def _run(
        self,
        run: Callable[[Tensor], Any],
        model: Evaluation,
        images: Images,
        scales: Sequence[int] | int | None,
    ) -> list[list]:
        """Of each image, what ``run`` makes of what the net sees (1, 3, H, W) at each scale."""
        found = []
        for batch in self.batches(images, scales):
            with blamed(batch["data_samples"][0].img_path), answering(model):
                inputs = [image[0][None] for image in batch["inputs"]]
                seen = [model.module.data_preprocessor({"inputs": x})["inputs"] for x in inputs]
                found.append([run(model.seen(x)) for x in seen])
        return found

    def score_map(self, images: Images, scales: Sequence[int] | int | None = None) -> Any:
        """The posteriors at every position: the score map's soft-max over the classes (Sec. 3.2).

        Of an image it is a list, for each Q (classes, h, w), float32 on the CPU.

        Raises:
            UserError: If the net is no :class:`vgg_mm.VGG` with a :class:`vgg_mm.VGGHead`.
        """
        net = self.namer
        for part, kind in ((net.backbone, VGG), (net.head, VGGHead)):
            if not isinstance(part, kind):
                raise UserError(
                    f"a {type(part).__name__} has no class score map: use a net with vgg_mm.VGG "
                    "and vgg_mm.VGGHead."
                )

        def posteriors_of(x: Tensor) -> Tensor:
            return net.head.score_map(net.extract_feat(x)).softmax(1)[0].float().cpu()

        found = self._run(posteriors_of, Evaluation(net), images, scales)
        return found[0] if is_one(images) else found

    def localise(
        self,
        images: Images,
        classifier: Net | None = None,
        scales: Sequence[int] | int | None = None,
    ) -> Any:
        """Where the things are, by a net that predicts boxes (Appendix A).

        The ``classifier`` tells the best five classes, and rates their boxes; by default it is the
        config's, whose further nets' boxes join. Of an image it is a list of :class:`Guess`, the
        most probable class first.

        Raises:
            UserError: If this net predicts no boxes, or the other one no classes, or others.
        """
        if classifier is None:
            model, classes = self.evaluation(), self.classes
        else:
            flip = self.protocol.get("flip", True)
            model = Localizer(self.model, classifier=classifier.model, flip=flip)
            classes = classifier.classes
            if self.named and self.model.head.per_class:
                check_classes("the classifier", classes, self.classes)
        found = [guesses for _, guesses in self._looked(model, images, scales, classes=classes)]
        return found[0] if is_one(images) else found

    def save(self, folder: str | os.PathLike, scores: Scores | None = None) -> None:
        """Writes a new folder, all or nothing, which :func:`load` reads back bit for bit.

        It holds ``model.safetensors``, ``config.json`` and ``README.md``, a model card.

        Args:
            folder: Its name.
            scores: What the net reached (:func:`evaluate`), for the card; by default ``measured``.

        Raises:
            UserError: If the folder is there already or cannot be written, or the net is none of
                vgg_mm's parts.
        """
        model = plain_model(self.config, "the net")
        trained_on = asdict(Input.of_config(model))
        model.pop("data_preprocessor")
        said = dict(
            library_name="vgg_mm",
            model=model,
            input=trained_on,
            protocol={key: value for key, value in self.protocol.items() if key in PROTOCOL},
            scales=self.scales,
            classes=self.classes if self.named else None,
            measured=self.measured,
        )
        if scores:
            errors = ", ".join(f"{k} error {v:.2f}%" for k, v in scores.metrics().items())
            how = zip(*(scores.protocols[0][key] for key in ("views", "scales")), strict=True)
            looked = ", ".join(f"{view} at {Q}" for view, Q in how)
            said["measured"] = f"measured on {len(scores.labels)} images: {errors} ({looked})"
        write_folder(folder, self.model, said)


PROTOCOL = {*signature(Evaluation).parameters} - {"module"}


def is_multi_scale(step: Mapping[str, Any]) -> bool:
    """Whether a step of a test-time pipeline is the one that has the scales Q."""
    return step["type"] == "vgg_mm.MultiScale"
