"""The paper's tests of localisation (Appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.models import ImageClassifier, build_classifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, BoxHead, VGGHead
from vgg_mm.registry import METRICS, MODELS
from vgg_mm.testing.boxes import THRESHOLD, fits, map_corners, merge, mirrored
from vgg_mm.testing.evaluation import Evaluation
from vgg_mm.testing.scores import SaveScores, Scores, Stored

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
        """Keeps whether each image's box is right.

        Raises:
            UserError: If a sample has no ``gt_bboxes``.
        """
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


@MODELS.register_module()
class Localizer(Evaluation):
    """Test 2: nets that predict boxes run over the whole image, and their boxes are merged.

    A sample's five best classes are those of stored posteriors, of any classifier or fusion. At
    every position of every scale, of the image and of its mirror image, every net predicts a box of
    each class; the boxes of all are merged (:func:`vgg_mm.testing.boxes.merge`) and rated by a
    classification net's posterior at the positions that they come from. The best box of a class is
    its guess, clipped to the image.

    Args:
        module: An ImageClassifier with a :class:`vgg_mm.BoxHead`, or its config.
        others: Further ones, whose boxes join.
        classifier: An ImageClassifier with a :class:`vgg_mm.VGGHead` that looks at the same
            windows, or its config; None: all windows rate equally.
        scores: The file of posteriors, see :class:`vgg_mm.testing.Scores`; None: the classifier's
            own, dense, averaged over the scales.
        flip: Whether to run over the mirror image, too.
        threshold: Up to which match score boxes merge.

    Raises:
        UserError: If a net is of another kind, looks at other windows, or nothing tells classes.
    """

    def __init__(
        self,
        module: dict | ImageClassifier,
        others: Sequence[dict | ImageClassifier] = (),
        classifier: dict | ImageClassifier | None = None,
        scores: str | None = None,
        flip: bool = True,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__(module, flip=flip)
        self.others = nn.ModuleList(map(_built, others))
        self.classifier = None if classifier is None else _built(classifier)
        self.threshold = threshold
        if not (scores or self.classifier):
            raise UserError("Localizer: scores or a classifier must tell an image's best classes.")
        self.scores = scores
        self.best = _best(scores) if scores else {}
        for net in self.nets:
            _check(net, BoxHead, self.module)
        if self.classifier:
            _check(self.classifier, VGGHead, self.module)

    def _check_net(self) -> None:
        _check(self.module, BoxHead, self.module)

    @property
    def nets(self) -> list[ImageClassifier]:
        """The nets that predict boxes."""
        return [self.module, *self.others]

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Guesses where the things of a batch are.

        Args:
            data: ``inputs``, for each scale a list of N uint8 images (3, H, W), and the N
                ``data_samples`` with ``img_path``, ``ori_shape`` and, where known, ``gt_label`` and
                ``gt_bboxes`` (n, 4), in the file's pixels.

        Returns:
            The N samples with ``guesses`` (G, 7), see :class:`Guesses`; G is five, or the classes'
            number if that is less.
        """
        for i, sample in enumerate(data["data_samples"]):
            with blamed(sample.get("img_path", "an image")):
                guesses = self._guess([images[i] for images in data["inputs"]], sample)
            sample.set_field(torch.from_numpy(guesses), "guesses")
        return data["data_samples"]

    def _guess(self, images: list[Tensor], sample: DataSample) -> np.ndarray:
        """An image at every scale -> (G, 7)."""
        posteriors = [self._posteriors(image) for image in images]  # of each (views, K, h, w)
        if self.scores:
            classes = self._stored(sample.img_path)
        else:
            mean = torch.stack([p.mean((0, 2, 3)) for p in posteriors if p is not None]).mean(0)
            classes = mean.argsort(descending=True, stable=True)[:GUESSES].cpu().numpy()
        boxes, ratings = [], []
        for image, p in zip(images, posteriors, strict=True):
            for net in self.nets:
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
        truth, label = sample.get("gt_bboxes"), sample.get("gt_label")
        known = truth is not None and label is not None
        guesses[:, 6] = (
            fits(int(label), _array(truth), classes, guesses[:, 1:5]) if known else np.zeros(1)
        )
        return guesses

    def _stored(self, path: str) -> np.ndarray:
        """The best classes of an image by the file of posteriors, which names it by its path's end.

        Raises:
            UserError: If the file has none.
        """
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
        corner = boxes.new_tensor([(w - seen[1]) // 2, (h - seen[0]) // 2] * 2)
        return (boxes + corner) * boxes.new_tensor([shape[1] / w, shape[0] / h] * 2)


def _built(net: dict | ImageClassifier) -> ImageClassifier:
    return net if isinstance(net, nn.Module) else build_classifier(net)


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


def _best(file: str) -> dict[str, np.ndarray]:
    """The five best classes of every image of a file of posteriors, by its name."""
    scores = Scores.load(file)
    best = np.argsort(-scores.mean(), axis=1, kind="stable")[:, :GUESSES]
    return dict(zip(scores.names.tolist(), best, strict=True))


@dataclass
class Guesses(Stored):
    """The guesses of a data set, at most five an image.

    Args:
        guesses: (N, G, 7), those of an image by their classes' posteriors, the best first: the
            class's number, the box x1, y1, x2, y2 in the file's pixels, its rating, and its overlap
            with the image's thing of the class that fits best, 0 if the class is another.
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
        """``top1`` and ``top5``, the localisation errors in %."""
        return {f"top{k}": self.error(k) for k in (1, GUESSES)}


@METRICS.register_module()
class SaveGuesses(SaveScores):
    """Keeps the guesses of every image and writes :class:`Guesses`, sorted by name.

    Takes :class:`vgg_mm.SaveScores`' arguments.
    """

    default_prefix = "localisation"
    stored = Guesses
