"""The front door: a net that carries its own input, in three lines of Python.

net = vgg_mm.load("D", weights="torchvision://vgg16")
net.predict("cat.jpg")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vgg_mm import demo
from vgg_mm.cli.configs import get_config
from vgg_mm.data import ImageNet
from vgg_mm.data.classes import differences, of_config, positions
from vgg_mm.data.given import Images, is_one, samples
from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.models import VGG, BoxHead, VGGHead
from vgg_mm.models.cpu import laid_out
from vgg_mm.paper import TABLE_1
from vgg_mm.testing.evaluation import Evaluation, finds_boxes, multi_scale
from vgg_mm.testing.features import FeatureExtractor, layer_maps
from vgg_mm.testing.localisation import Localizer
from vgg_mm.testing.plain import Labelled, Plain, PlainEvaluation
from vgg_mm.testing.scores import Scores
from vgg_mm.weights.checkpoint import check_fit
from vgg_mm.weights.files import format_of, hub_folder, local, read_tensors
from vgg_mm.weights.folder import WEIGHTS, plain_model, read_config, read_folder, write_folder
from vgg_mm.weights.source import Source, fit, is_net, open_source, settings

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
        return next(step["scales"] for step in self.pipeline if _is_multi_scale(step))

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
        self, images: Images, scales: Sequence[int] | None = None, batch_size: int = 1
    ) -> Iterator[dict[str, list]]:
        """What a test-time model takes: ``inputs``, a list of images a scale, ``data_samples``."""
        run, found = self.transform(scales), samples(images)
        for start in range(0, len(found), batch_size):
            yield pseudo_collate([run(each) for each in found[start : start + batch_size]])

    def transform(self, scales: Sequence[int] | None = None) -> Compose:
        """The test-time pipeline at the net's scales, or others."""
        chosen = dict(scales=[*(scales or self.scales)])
        steps = [{**step, **chosen} if _is_multi_scale(step) else step for step in self.pipeline]
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            return Compose(steps)

    def posteriors(
        self,
        images: Images,
        views: str | None = None,
        scales: Sequence[int] | None = None,
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
        scales: Sequence[int] | None,
        batch_size: int = 1,
        classes: Sequence[str] = (),
    ) -> list[tuple[Tensor, list[Guess]]]:
        """Of each image the posteriors (V, classes), and what a :class:`Localizer` found."""
        found, classes = [], classes or self.classes
        for batch in self.batches(images, scales, batch_size):
            for sample in model.test_step(batch):
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

    def look(self, images: Images, scales: Sequence[int] | None = None) -> Any:
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
        scales: Sequence[int] | None = None,
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
        scales: Sequence[int] | None = None,
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
            steps = [model.test_step(batch)[0] for batch in self.batches(images, scales)]
            vectors = torch.stack([each.features.float().cpu() for each in steps])  # (N, channels)
            vectors = vectors[0] if is_one(images) else vectors
            return dict(zip(names, vectors.split(model.channels, -1), strict=True))
        if len(scales or self.scales) > 1:
            raise UserError("features: maps are of one scale: say scales=[Q], or pooled=True.")
        found = []
        for x in self._seen(model, images, scales):
            with torch.no_grad():
                maps = layer_maps(self.model, laid_out(self.model, x), names, before_relu)
            found.append({name: maps[name][0].float().cpu() for name in names})
        return found[0] if is_one(images) else found

    def _seen(
        self, model: Evaluation, images: Images, scales: Sequence[int] | None
    ) -> Iterator[Tensor]:
        """What the net sees (1, 3, H, W) of each image at each scale, one after the other."""
        for batch in self.batches(images, scales):
            with blamed(batch["data_samples"][0].img_path):
                for image in batch["inputs"]:
                    x = model.module.data_preprocessor({"inputs": image[0][None]})["inputs"]
                    yield model.seen(x)

    @torch.no_grad()
    def score_map(self, images: Images, scales: Sequence[int] | None = None) -> Any:
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
        maps = [
            net.head.score_map(net.extract_feat(x)).softmax(1)[0].float().cpu()
            for x in self._seen(Evaluation(net), images, scales)
        ]
        number = len(scales or self.scales)
        found = [maps[i : i + number] for i in range(0, len(maps), number)]
        return found[0] if is_one(images) else found

    def localise(
        self, images: Images, classifier: Net | None = None, scales: Sequence[int] | None = None
    ) -> Any:
        """Where the things are, by a net that predicts boxes (Appendix A).

        The ``classifier`` tells the best five classes, and rates their boxes; by default it is the
        config's, whose further nets' boxes join. Of an image it is a list of :class:`Guess`, the
        most probable class first.

        Raises:
            UserError: If this net predicts no boxes, or the other one no classes.
        """
        if classifier is None:
            model, classes = self.evaluation(), self.classes
        else:
            flip = self.protocol.get("flip", True)
            model = Localizer(self.model, classifier=classifier.model, flip=flip)
            classes = classifier.classes
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


def _is_multi_scale(step: Mapping[str, Any]) -> bool:
    return step["type"] == "vgg_mm.MultiScale"


def load(
    what: str | os.PathLike | Config,
    weights: str | os.PathLike | None = None,
    *,
    input: Input | str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Net:
    """A net with its weights, its input and its classes' names.

    Nothing that is in a file is run.

    Args:
        what: A net of Table 1 (``"D"``); a config, its path or its name (``"vgg16_d_jitter"``);
            without ``weights`` ``"demo"``, the package's own small net (:mod:`vgg_mm.demo`); a
            folder that :meth:`Net.save`, timm or transformers wrote, here or on the Hub
            (``"hf://org/name"``, ``"hf://org/name@revision"``); or a file of weights: a run's
            checkpoint, which knows its config, or another, whose net is told by its layers.
        weights: A file or an address for an arch or a config, of any kind that ``Pretrained`` takes
            (:func:`vgg_mm.weights.files.local`). Without it the weights are random.
        input: What the weights were trained on, where neither their file tells nor a config:
            ``"torchvision"``, ``"caffe"``, ``"vgg_mm"`` or an :class:`vgg_mm.inputs.Input`.
        device: Where to put the net; by default the CPU.
        dtype: Its type; bfloat16 rather than float16, whose range the activations may leave.

    Returns:
        The net, in eval mode. The input is the file's where it tells, else the config's. The
        classes' names are the file's, else those of the config's data, else ImageNet's where there
        are 1000, else numbers.

    Raises:
        UserError: If there is no such thing, or the weights do not fit.
    """
    net = _load(what, weights, _input(input))
    return net.to(*[each for each in (device, dtype) if each is not None])


def _load(
    what: str | os.PathLike | Config, weights: str | os.PathLike | None, given: Input | None
) -> Net:
    if isinstance(what, Config):
        return _of_config(what, weights, given)
    name = os.fspath(what)
    if name in TABLE_1:
        return _of_arch(name, weights, given)
    if name == "demo" and weights is None and not os.path.exists(name):
        name = str(demo.NET)
    folder = hub_folder(name) if name.startswith("hf://") else name
    if os.path.isdir(folder):
        said, file = read_folder(folder), os.path.join(folder, WEIGHTS)
        given = given or said["input"]
        if "arch" in said:
            return _of_arch(said["arch"], file, given, said["classes"])
        return _ours(said, file, given)
    if "://" not in name and (name.endswith(".py") or not os.path.isfile(name)):
        return _of_config(get_config(name), weights, given)
    if weights is not None:
        raise UserError(f"{name} is a file of weights, and {weights} another: name one.")
    path = local(name)
    meta = read_tensors(path)[1] if format_of(path) == "torch" else {}
    if isinstance(text := meta.get("cfg"), str) and text:
        said = read_config(text)
        model = plain_model(said.get("model") or {}, path)
        scales = [step["scales"] for step in said.get("tta_pipeline") or () if step.get("scales")]
        told = dict(model=model, protocol=said.get("tta_model"), scales=scales and scales[0])
        return _ours(told, path, given)
    source = open_source(path)
    nets = [meta["arch"]] if meta.get("arch") in TABLE_1 else []
    nets = nets or [arch for arch in TABLE_1 if is_net(source, arch)]
    if len(nets) != 1:
        raise UserError(
            f"{path} fits {'nets ' + ' and '.join(nets) if nets else 'no net of Table 1'}: say "
            f"which, load(ARCH, weights={name!r})."
        )
    return _of_arch(nets[0], path, given)


def _of_arch(
    arch: str,
    weights: str | os.PathLike | None,
    given: Input | None,
    classes: Sequence[str] | None = None,
) -> Net:
    """A net of Table 1, in the sizes of its file."""
    source, backbone, head = None, dict(arch=arch), dict[str, Any]()
    if weights is not None:
        source = open_source(weights)
        only = not source.match(source.tensors, arch).fcs
        backbone, head = settings(source, arch, features_only=only)
        given = given or source.input
        if given is None:
            raise UserError(
                f"{weights} does not say what its input is: input='torchvision' (RGB from 0 to 1, "
                "mean and deviation), 'caffe' (BGR from 0 to 255, mean) or 'vgg_mm' (RGB, 0 to "
                "255, mean)."
            )
    model = dict(
        type="ImageClassifier",
        backbone=dict(type="vgg_mm.VGG", **backbone),
        head=dict(type="vgg_mm.VGGHead", **head) if head or source is None else None,
        data_preprocessor=(given or INPUTS["vgg_mm"]).preprocessor(),
    )
    return _ours(dict(model=model, classes=classes), source, given)


def _of_config(cfg: Config, weights: str | os.PathLike | None, given: Input | None) -> Net:
    """A config's net, of any kind, and its protocol."""
    multi_scale(cfg)
    model = cfg.model.to_dict()
    if "data_preprocessor" in cfg:
        model.setdefault("data_preprocessor", cfg.data_preprocessor.to_dict())
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmpretrain")):
        net, config, names = _filled(model, weights, given)
        protocol, pipeline = cfg.tta_model.to_dict(), [each.to_dict() for each in cfg.tta_pipeline]
        found = Net(net, config, names or of_config(cfg), protocol, pipeline)
        if finds_boxes(cfg) and protocol.get("classifier"):
            protocol["scores"] = None  # they are of other images
            localizer: Localizer = MODELS.build({**protocol, "module": net}).eval()
            localizer.check_files()
            localizer.load(found.classes if found.named else ())
            found.localizer = localizer
        return found


def _filled(
    model: dict[str, Any], weights: str | os.PathLike | Source | None, given: Input | None
) -> tuple[ImageClassifier, dict[str, Any], Sequence[str]]:
    """A config's net with weights, or random ones; its config with the input; the file's classes.

    The input is the given one, else the file's, else the config's.
    """
    config, names = deepcopy(model), ()
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        net = MODELS.build(model)
    if weights is None:
        net.init_weights()
    else:
        meta, told = _give(net, weights)
        given, names = given or told, (meta.get("dataset_meta") or {}).get("classes") or ()
    if given and not given.same_as(Input.of_config(config)):
        config["data_preprocessor"] = given.preprocessor()
        net.data_preprocessor = MODELS.build(given.preprocessor())
    return net, config, names


def _ours(
    said: Mapping[str, Any], weights: str | os.PathLike | Source | None, given: Input | None
) -> Net:
    """A net of vgg_mm's own parts, by what is ``said``, or else the paper's protocol.

    Besides ``model`` that may be ``protocol``, ``scales`` and ``classes``.
    """
    net, config, told = _filled(said["model"], weights, given)
    crop = 224 if net.head is None else net.head.fc6.kernel_size[0] * net.backbone.stride
    how = dict(views="dense", flip=True, grid=5, crop_size=crop)
    how |= {key: v for key, v in (said.get("protocol") or {}).items() if key in PROTOCOL}
    scales = said.get("scales") or [round(crop * 8 / 7)]  # S = 256, and its like
    pipeline = [{**step, "scales": scales} if _is_multi_scale(step) else step for step in PIPELINE]
    found = Net(net, config, told or said.get("classes") or (), how, pipeline)
    found.measured = said.get("measured") or ""
    return found


def _give(
    net: ImageClassifier, weights: str | os.PathLike | Source
) -> tuple[Mapping[str, Any], Input | None]:
    """Gives a net its weights; returns their file's meta, and the input that it tells."""
    if not isinstance(weights, Source):
        path = local(weights)
        if format_of(path) in ("torch", "safetensors"):
            groups, meta = read_tensors(path)
            state = groups.get("state_dict") or groups.get("") or {}
            if not net.state_dict().keys().isdisjoint(state):
                check_fit(net, state, str(path))
                net.load_state_dict(state)
                return meta, Input.of(meta["input"], path) if "input" in meta else None
        weights = open_source(path)
    found = fit(net, weights)
    if found.new:
        raise UserError(f"{weights.path} is incomplete: {found}.")
    net.load_state_dict(found.weights, strict=False)
    return dict(dataset_meta=weights.meta), weights.input


def evaluate(
    model: Net | nn.Module,
    data: Any,
    views: str | None = None,
    scales: Sequence[int] | None = None,
    *,
    input: Input | str | None = None,
    flip: bool = True,
    grid: int = 5,
    crop_size: int = 224,
    batch_size: int = 16,
    workers: int = 0,
) -> Scores:
    """Tests any classifier by the paper's protocols (Sec. 3.2), without a config.

    Args:
        model: A :class:`Net`, whose own protocol holds unless ``views`` or ``scales`` are given; or
            a module from images (N, 3, H, W) to logits (N, classes), torchvision's, timm's or
            yours, where it is.
        data: A folder with a folder a class; a list of (image, label), images as
            :func:`vgg_mm.data.given.samples` takes one; or a data set of mmpretrain's, or of
            torchvision's kind, that yields whole images.
        views: ``"dense"``, ``"crops"`` or ``"both"``; by default dense.
        scales: The shortest sides Q; by default 256.
        input: A module's, as :func:`load` takes it; timm's nets tell theirs.
        flip: Whether to average with the mirror image; like what follows, of a module.
        grid: Crops along each side.
        crop_size: Their side in pixels.
        batch_size: How many images are tested together.
        workers: Processes that read images.

    Returns:
        The posteriors (N, V, classes) in the data's order, and the errors: ``scores.metrics()``,
        ``scores.error(5)``. ``scores.save("x.npz")`` is for tools/analysis/fuse.py and tables.py.

    Raises:
        UserError: If a module is to run densely and is not convolutional, does not tell its input,
            or the data's classes are not the net's.
        CorruptImageError: If an image cannot be read, or is too small or too large.
    """
    module = model.model if isinstance(model, Net) else model
    training, done = module.training, list[DataSample]()
    try:
        if isinstance(model, Net):
            net = model
        else:
            plain = Plain(model, _input(input))
            how = dict(type=PlainEvaluation, flip=flip, grid=grid, crop_size=crop_size)
            net = Net(plain, plain.config, protocol=how)
        found, evaluation = Labelled(data, net.transform(scales)), net.evaluation(views)
        if isinstance(evaluation, Localizer):
            raise UserError("evaluate tests classifiers; tools/test.py tests a config's boxes.")
        rows = net.numbers_of(found.meta)
        for batch in DataLoader(found, batch_size, num_workers=workers, collate_fn=pseudo_collate):
            done += evaluation.test_step(batch)
    finally:
        module.train(training)
    labels = np.array([rows[i] if rows else i for i in (int(each.gt_label) for each in done)])
    posteriors = torch.stack([each.posteriors.float().cpu() for each in done]).numpy()
    outputs = posteriors.shape[-1]
    if not 0 <= labels.min() <= labels.max() < outputs:
        raise UserError(
            f"labels are {labels.min()} to {labels.max()}, and the net has {outputs} classes, from "
            "0 on."
        )
    names = [each.img_path for each in done]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
    tested = dict(config="", arch=net.arch, S=None, checkpoint="", sha256="")
    return Scores(
        posteriors=posteriors,
        labels=labels,
        names=np.array([os.path.relpath(name, root) for name in names]),
        classes=np.array(net.classes or found.meta.get("classes") or [*map(str, range(outputs))]),
        root=root,
        protocols=[evaluation.protocol(scales or net.scales, **tested)],
    )


def _input(given: Input | str | None) -> Input | None:
    """An input by its name among INPUTS."""
    if isinstance(given, str) and given not in INPUTS:
        raise UserError(f"input={given!r}: use one of {', '.join(INPUTS)}, or an Input.")
    return INPUTS[given] if isinstance(given, str) else given
