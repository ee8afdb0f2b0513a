"""The paper's tests of localisation (Appendix A)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmpretrain.models import ImageClassifier, build_classifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import Dataset

from vgg_mm.arrays import blocks
from vgg_mm.cli.configs import get_config, join_preprocessor
from vgg_mm.data.classes import differences, metainfo
from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.inputs import check_input
from vgg_mm.models import VGG, BoxHead, VGGHead
from vgg_mm.models.cpu import speed_up
from vgg_mm.registry import METRICS, MODELS
from vgg_mm.testing.boxes import THRESHOLD, fits, map_corners, merge, mirrored
from vgg_mm.testing.evaluation import Evaluation
from vgg_mm.testing.scores import Scores, Stored, file_sha256
from vgg_mm.weights.checkpoint import check_fit, read_checkpoint

GUESSES = 5  # that ILSVRC allows for an image


@METRICS.register_module()
class BoxAccuracy(BaseMetric):
    """Test 1: the box of the true class, on the centre crop.

    A sample has ``pred_bboxes`` (:meth:`vgg_mm.BoxHead.predict`), ``gt_label``, and ``gt_bboxes``,
    whole, in the crop's pixels. ``accuracy/top1``, which plateaus and the best checkpoint go by, is
    100 minus the top-1 localisation error in %.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps whether each image's box is right."""
        for sample in data_samples:
            if "gt_bboxes" not in sample:
                raise UserError(
                    "BoxAccuracy: the validation's samples have no gt_bboxes: use a data set with "
                    "boxes, such as vgg_mm.ImageNetBoxes, and pack them, with "
                    "dict(type='PackInputs', algorithm_keys=['gt_bboxes'])."
                )
            label, boxes = int(sample["gt_label"]), _array(sample["pred_bboxes"])
            box = boxes[label if len(boxes) > 1 else 0]
            self.results += [fits(label, _array(sample["gt_bboxes"]), [label], box)[0] >= 0.5]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        """``top1`` in %."""
        return {"top1": 100 * float(np.mean(results))}


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


class Joined:
    """A net that joins a test: a config's, with the weights of a checkpoint.

    Args:
        config: The config's name or path.
        checkpoint: What the Runner saved.
        scales: The test scales Q that it runs at; None: all.
    """

    def __init__(self, config: str, checkpoint: str, scales: Sequence[int] | None = None) -> None:
        self.cfg = get_config(config)
        join_preprocessor(self.cfg)
        self.checkpoint = checkpoint
        self.scales = None if scales is None else [*scales]
        self.net: ImageClassifier = build_classifier(self.cfg.model)

    def load(self, classes: Sequence[str]) -> None:
        """Loads the weights; UserError if they are of another net, input or other ``classes``."""
        saved = read_checkpoint(self.checkpoint)
        meta = saved.get("meta", {})
        check_input(meta, self.cfg.model, self.checkpoint)
        weights = saved.get("state_dict", saved)
        check_fit(self.net, weights, self.checkpoint)
        check_classes(self.checkpoint, meta.get("dataset_meta", {}).get("classes", ()), classes)
        self.net.load_state_dict(weights)

    def protocol(self, scales: Sequence[int]) -> dict[str, Any]:
        """What it is, for the protocol of a test with images at all the ``scales``."""
        told = dict(checkpoint=str(self.checkpoint), sha256=file_sha256(self.checkpoint))
        return net_protocol(self.cfg) | dict(scales=self.scales or [*scales]) | told


def net_protocol(cfg: Config) -> dict[str, Any]:
    """What a config's net is: ``config``, ``arch``, ``S`` and, of one that predicts boxes, how.

    ``regression`` is ``PCR`` or ``SCR``; ``trained`` is ``all`` or ``fc``, as in Table 8.
    """
    backbone = cfg.model.backbone
    arch = backbone.get("arch", backbone.type)
    told = dict(config=Path(cfg.filename).stem, arch=arch, S=cfg.get("S"))
    if (cfg.model.get("head") or {}).get("type") == "vgg_mm.BoxHead":
        told["regression"] = "PCR" if cfg.model.head.get("per_class", True) else "SCR"
        told["trained"] = "fc" if backbone.get("frozen_stages", 0) == 5 else "all"
    return told


def check_classes(name: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Raises UserError if what is called ``name`` has other classes than a test, or their order.

    Where one does not name its classes, they are taken for the same.
    """
    theirs, ours = [*map(str, theirs)], [*ours]
    if theirs and ours and theirs not in (ours, [*map(str, range(len(ours)))]):
        raise UserError(
            differences(name, dict(classes=theirs), "the test", dict(classes=ours))
            + " All that a test joins must have learned the same classes."
        )


@MODELS.register_module()
class Localizer(Evaluation):
    """Test 2: nets that predict boxes run over the whole image, and their boxes are merged.

    A sample's five best classes are those of stored posteriors, of any classifier or fusion. At
    every position of every scale, of the image and of its mirror image, every net predicts a box of
    each class; the boxes of all are merged (:func:`vgg_mm.testing.boxes.merge`) and rated by a
    classification net's posterior at the positions that they come from. The best box of a class is
    its guess, clipped to the image.

    With ``true_class`` it is test 1: the box of the true class, on the centre crop of the image at
    its one scale, as :class:`BoxAccuracy` measures it.

    Args:
        module: An ImageClassifier with a :class:`vgg_mm.BoxHead`, or its config.
        others: Further ones, whose boxes join, or of each the arguments of :class:`Joined`.
        classifier: An ImageClassifier with a :class:`vgg_mm.VGGHead` that looks at the same
            windows, or the arguments of :class:`Joined`; None: all windows rate equally.
        scores: The file of posteriors, see :class:`vgg_mm.testing.Scores`; None: the classifier's
            own, dense, averaged over the scales.
        flip: Whether to run over the mirror image, too.
        threshold: Up to which match score boxes merge.
        scales: The test scales Q that ``module`` runs at, where the others' differ; None: all.
        true_class: Whether to do test 1; it wants no scores, classifier or others.

    Raises:
        UserError: If a net is of another kind, or looks at other windows.
    """

    def __init__(
        self,
        module: dict | ImageClassifier,
        others: Sequence[dict | ImageClassifier] = (),
        classifier: dict | ImageClassifier | None = None,
        scores: str | None = None,
        flip: bool = True,
        threshold: float = THRESHOLD,
        scales: Sequence[int] | None = None,
        true_class: bool = False,
    ) -> None:
        super().__init__(module, flip=flip)
        self.joined = [_joined(net) for net in others]
        self.raters = [] if classifier is None else [_joined(classifier)]  # one at most
        self.others = nn.ModuleList(map(_net, self.joined))
        self.classifier = _net(self.raters[0]) if self.raters else None
        self.threshold = threshold
        self.scales = scales
        self.true_class = true_class
        self.scores = scores
        self.best: dict[str, np.ndarray] = {}
        for net in self.others:
            _check(net, BoxHead, self.module)
            speed_up(net)
        if self.classifier:
            _check(self.classifier, VGGHead, self.module)
            speed_up(self.classifier)

    def _check_net(self) -> None:
        _check(self.module, BoxHead, self.module)

    @property
    def nets(self) -> list[tuple[ImageClassifier, Sequence[int] | None]]:
        """The nets that predict boxes, each with its test scales Q, None for all."""
        others = [getattr(each, "scales", None) for each in self.joined]
        return list(zip([self.module, *self.others], [self.scales, *others], strict=True))

    @property
    def all_scales(self) -> list[int]:
        """The test scales of all nets together, where :attr:`scales` are this one's own."""
        return sorted({Q for _, scales in self.nets for Q in scales or self.scales or ()})

    def check_files(self) -> None:
        """Raises UserError if a file is missing that the arguments name."""
        nets = [each for each in [*self.joined, *self.raters] if isinstance(each, Joined)]
        files = [("checkpoint", net.checkpoint) for net in nets]
        files += [("scores", self.scores)] if self.scores else []
        for what, file in files:
            if not os.path.isfile(file):
                raise UserError(
                    f"no {what} {file}, which test 2 wants: make it, or name another in the "
                    "config's tta_model (its scores and classifier None: no test 2)."
                )

    def load(self, classes: Sequence[str]) -> None:
        """Loads the weights of ``others`` and ``classifier``, see :meth:`Joined.load`."""
        for each in [*self.joined, *self.raters]:
            if isinstance(each, Joined):
                each.load(classes)

    def prepare(self, dataset: Dataset) -> None:
        """Reads what a test on a data set needs besides the weights of ``module``.

        Raises:
            UserError: As :meth:`load`; if ``scores`` are missing, or of other classes or images; or
                if nothing tells an image's best classes.
        """
        classes = metainfo(dataset).get("classes", ())
        self.load(classes)
        if self.scores:
            scores = Scores.load(self.scores)
            check_classes(self.scores, scores.classes.tolist(), classes)
            ranked = (
                np.argsort(-scores.mean(at), 1, kind="stable") for at in blocks(scores.posteriors)
            )
            best = np.concatenate([block[:, :GUESSES].copy() for block in ranked])
            self.best = dict(zip(scores.names.tolist(), best, strict=True))
            for i in range(len(dataset)):  # type: ignore[arg-type]
                self._stored(dataset.get_data_info(i)["img_path"])  # type: ignore[attr-defined]
        elif not (self.classifier or self.true_class):
            raise UserError("Localizer: scores or a classifier must tell an image's best classes.")

    def protocol(self, scales: Sequence[int], **tested: Any) -> dict[str, Any]:
        """As :meth:`Evaluation.protocol`, for its own ``scales`` where it has them.

        Besides it tells ``test`` (1 or 2), ``threshold``, lists of ``others`` and ``classifiers``
        as :meth:`Joined.protocol` does, and ``scores``: ``file``, ``sha256`` and ``protocols``.
        """
        told: dict[str, Any] = dict(test=1 if self.true_class else 2, threshold=self.threshold)
        for key, nets in (("others", self.joined), ("classifiers", self.raters)):
            told[key] = [each.protocol(scales) for each in nets if isinstance(each, Joined)]
        told["scores"] = None
        if self.scores:
            protocols = Scores.load(self.scores).protocols
            told["scores"] = dict(
                file=str(self.scores), sha256=file_sha256(self.scores), protocols=protocols
            )
        return super().protocol(self.scales or scales, **tested) | told

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Guesses where the things of a batch are.

        Args:
            data: As for :meth:`Evaluation.test_step`; samples have ``img_path``, ``ori_shape`` and,
                where known, ``gt_label`` and ``gt_bboxes`` (n, 4), in the file's pixels.

        Returns:
            The N samples with ``guesses`` (G, 7), see :class:`Guesses`; G is five, or the classes'
            number if that is less. Without ``scores``, also with the classifier's ``posteriors``
            (V, classes) at each scale, and their average ``pred_score`` (classes,).
        """
        for i, sample in enumerate(data["data_samples"]):
            images = [each[i] for each in data["inputs"]]
            with blamed(sample.get("img_path", "an image")):
                guesses = self._on_crop(images, sample) if self.true_class else None
                guesses = self._guess(images, sample) if guesses is None else guesses
            truth, label = sample.get("gt_bboxes"), sample.get("gt_label")
            if truth is not None and label is not None:
                guesses[:, 6] = fits(int(label), _array(truth), guesses[:, 0], guesses[:, 1:5])
            sample.set_field(torch.from_numpy(guesses), "guesses")
        return data["data_samples"]

    def _on_crop(self, images: list[Tensor], sample: DataSample) -> np.ndarray:
        """Test 1, an image at its one scale -> (1, 7)."""
        (image,), net, label = images, self.module, int(sample.gt_label)
        side, (h, w) = net.head.crop_size, image.shape[1:]
        if min(h, w) < side:
            raise UserError(
                f"an image of {w}x{h} is smaller than the crop of {side}: use a scale Q >= {side}."
            )
        top, left = (h - side) // 2, (w - side) // 2
        crop = image[None, :, top : top + side, left : left + side]
        boxes = net.head(net.extract_feat(net.data_preprocessor({"inputs": crop})["inputs"]))[0]
        box = net.head.pixels(boxes[label if len(boxes) > 1 else 0])
        guess = np.full((1, 7), np.nan, np.float32)
        guess[0, 0], guess[0, 5] = label, 1
        guess[0, 1:5] = _array(_in_file(box, left, top, (h, w), sample.ori_shape))
        return guess

    def _guess(self, images: list[Tensor], sample: DataSample) -> np.ndarray:
        """Test 2, an image at every scale -> (G, 7)."""
        posteriors = [self._posteriors(image) for image in images]  # of each (views, K, h, w)
        if self.scores:
            classes = self._stored(sample.img_path)
        else:
            means = torch.stack([p.mean((0, 2, 3)) for p in posteriors if p is not None])
            mean = means.mean(0)
            sample.set_field(means, "posteriors")
            sample.set_pred_score(mean)
            classes = mean.argsort(descending=True, stable=True)[:GUESSES].cpu().numpy()
        boxes, ratings = [], []
        for image, p in zip(images, posteriors, strict=True):
            for net, scales in self.nets:
                if scales is not None and min(image.shape[1:]) not in scales:
                    continue
                found = self._boxes(net, image, classes, sample.ori_shape)  # (views, G, hw, 4)
                boxes.append(found)
                ratings.append(
                    found.new_ones(found.shape[:-1]) if p is None else p[:, classes].flatten(2)
                )
        all_boxes = torch.cat([b.transpose(0, 1).flatten(1, 2) for b in boxes], 1)
        all_ratings = torch.cat([r.transpose(0, 1).flatten(1) for r in ratings], 1)
        guesses = np.full((len(classes), 7), np.nan, np.float32)
        guesses[:, 0] = classes
        h, w = sample.ori_shape
        for guess, b, r in zip(guesses, _array(all_boxes), _array(all_ratings), strict=True):
            merged, rated = merge(b, r, self.threshold)
            if len(merged):
                guess[1:5], guess[5] = merged[0].clip(0, [w, h, w, h]), rated[0]
        return guesses

    def _stored(self, path: str) -> np.ndarray:
        """The best classes of an image, which the file of posteriors names by its path's end."""
        parts = PurePath(path).parts
        for i in range(len(parts)):
            if (found := self.best.get("/".join(parts[i:]))) is not None:
                return found
        raise UserError(
            f"{self.scores} has no posteriors of {path}: test the classifier on the same images."
        )

    def _run(
        self, net: ImageClassifier, image: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """The feature maps of an image (3, H, W) and its mirror image, and what the net saw."""
        x = self.seen(net.data_preprocessor({"inputs": image[None]})["inputs"])
        x = torch.cat([x, x.flip(-1)]) if self.flip else x
        return net.extract_feat(x), (x.shape[2], x.shape[3])

    def _posteriors(self, image: Tensor) -> Tensor | None:
        """The classifier's posteriors at every position: (views, classes, h, w)."""
        if self.classifier is None:
            return None
        return self.classifier.head.score_map(self._run(self.classifier, image)[0]).softmax(1)

    def _boxes(
        self, net: ImageClassifier, image: Tensor, classes: np.ndarray, shape: tuple[int, int]
    ) -> Tensor:
        """The boxes of some classes at every position, in pixels of the file (views, G, hw, 4)."""
        feats, seen = self._run(net, image)
        maps = net.head.box_map(feats)  # (views, C, 4, h, w)
        maps = maps[:, classes] if maps.shape[1] > 1 else maps.expand(-1, len(classes), -1, -1, -1)
        boxes = map_corners(net.head, maps, net.backbone.stride)
        boxes = torch.cat([boxes[:1], mirrored(boxes[1:], seen[1])])
        h, w = image.shape[1:]
        return _in_file(boxes, (w - seen[1]) // 2, (h - seen[0]) // 2, (h, w), shape)


def _in_file(
    boxes: Tensor, left: int, top: int, scaled: tuple[int, int], shape: tuple[int, int]
) -> Tensor:
    """Boxes (..., 4) in pixels of a part of a ``scaled`` image (H, W) -> in those of the file.

    The part begins at ``left``, ``top``; ``shape`` is the file's size (H, W).
    """
    ratios = [shape[1] / scaled[1], shape[0] / scaled[0]]
    return (boxes + boxes.new_tensor([left, top] * 2)) * boxes.new_tensor(ratios * 2)


def _joined(net: Mapping | ImageClassifier) -> Joined | ImageClassifier:
    return net if isinstance(net, nn.Module) else Joined(**net)


def _net(net: Joined | ImageClassifier) -> ImageClassifier:
    return net.net if isinstance(net, Joined) else net


def _check(net: ImageClassifier, kind: type[nn.Module], like: ImageClassifier) -> None:
    """Raises UserError unless a net has such a head and looks at the same windows as another."""
    if not (isinstance(net.backbone, VGG) and isinstance(net.head, kind)):
        raise UserError(
            f"Localizer: a {type(net.backbone).__name__} with {type(net.head).__name__} where a "
            f"vgg_mm.VGG with vgg_mm.{kind.__name__} is expected."
        )
    (side, stride), others = _windows(net), _windows(like)
    if isinstance(net.head, BoxHead) and net.head.crop_size != side:
        raise UserError(
            f"Localizer: a position looks at {side} pixels, {side // stride} times the stride of "
            f"{stride}, and the BoxHead's crop_size is {net.head.crop_size}: that must be {side}."
        )
    if (side, stride) != others:
        raise UserError(
            f"Localizer: one net looks at windows of {side} pixels, {stride} apart, another at "
            f"{others[0]}, {others[1]} apart: use nets of the same crop."
        )


def _windows(net: ImageClassifier) -> tuple[int, int]:
    """The side of a position's window, and how far apart they are, in pixels."""
    return net.backbone.stride * net.head.fc6.kernel_size[0], net.backbone.stride


@dataclass
class Guesses(Stored):
    """The guesses of a data set, at most five an image.

    Args:
        guesses: (N, G, 7), those of an image by their classes' posteriors, the best first: the
            class's number, the box x1, y1, x2, y2 in the file's pixels, its rating, and its overlap
            with the image's thing of the class that fits best, 0 if the class is another. Of test 1
            the one guess is of the true class.
    """

    made_by = "tools/test.py --out"
    holds = "guesses"

    guesses: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The guessed classes' numbers: (N, G)."""
        return self.guesses[..., 0].astype(np.int64)

    @property
    def boxes(self) -> np.ndarray:
        """The guessed boxes: (N, G, 4)."""
        return self.guesses[..., 1:5]

    @property
    def ratings(self) -> np.ndarray:
        """The boxes' ratings, the sums of the posteriors of their windows: (N, G)."""
        return self.guesses[..., 5]

    def wrong(self, k: int = GUESSES, overlap: float = 0.5) -> np.ndarray:
        """Whether none of an image's first k guesses has its class and that overlap: (N,) bool."""
        return np.all(~(self.guesses[:, :k, 6] >= overlap), axis=1)

    def error(self, k: int = GUESSES, skipped: np.ndarray | None = None) -> float:
        """The top-k localisation error in %, without ``skipped`` images (N,) bool."""
        wrong = self.wrong(k)
        return 100 * float(np.mean(wrong if skipped is None else wrong[~skipped]))

    def metrics(self) -> dict[str, float]:
        """``top1`` and, of several guesses, ``top5``: the localisation errors in %."""
        ks = (1,) if self.guesses.shape[1] == 1 else (1, GUESSES)
        return {f"top{k}": self.error(k) for k in ks}
