"""A linear SVM on features of another data set, by that data set's own measure (appendix B)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from joblib import effective_n_jobs
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from tools.analysis.drawing import legible
from tools.analysis.fusion import check_same_data
from vgg_mm.arrays import BLOCK, At, Rows
from vgg_mm.data import read_image
from vgg_mm.errors import UserError
from vgg_mm.testing.features import Features
from vgg_mm.writing import replacing

C = [0.01, 0.1, 1, 10, 100]  # the penalties to choose from
BYTES = 4 + 8 + 16  # of a number: ours, scikit-learn's float64, liblinear's with its position
Array = np.ndarray | Rows

# Labels (n,) and the images' positions (n,) in the data set -> pairs of what to train on and what
# to test on, both as indices of the n.
Split = Callable[[np.ndarray, np.ndarray], Iterable[tuple[np.ndarray, np.ndarray]]]


def load(paths: Sequence[str | os.PathLike]) -> Features:
    """The features of a data set; those of several nets or layers are stacked (late fusion).

    They stay on the disk until an SVM asks for some.

    Raises:
        UserError: If a file is missing or none of ours, holds what is no number, or they are of
            different data.
    """
    first, *others = files = [(path, Features.load(path)) for path in paths]
    for path, features in files:
        if (bad := features.no_numbers()).any():
            raise UserError(
                f"{path}: the features of {bad.sum()} images are no numbers (NaN or infinite), "
                f"{features.names[bad.argmax()]} first: extract them with another checkpoint."
            )
    for other in others:
        check_same_data(*first, *other)
    parts = [features.features for _, features in files]

    def stacked(at: At) -> np.ndarray:
        return np.concatenate([part[at] for part in parts], axis=1)

    shape = len(parts[0]), sum(part.shape[1] for part in parts)
    return replace(first[1], features=Rows(shape, np.float32, stacked))


def pixels(features: Features, side: int) -> Features:
    """The same images, each squeezed to ``side`` x ``side`` pixels, for comparison.

    Returns:
        Descriptors (N, 3 side^2), the pixels from 0 to 1.

    Raises:
        CorruptImageError: If an image cannot be read.
    """
    squares = []
    for name in features.names:
        image = read_image(os.path.join(features.root, name))
        squares.append(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
    x = np.stack(squares).reshape(len(squares), -1) / np.float32(255)
    return replace(features, features=x)


def joined(train: Features, test: Features) -> tuple[Features, Split]:
    """Two parts as one data set, and the split of it: train on the first, test on the second.

    Raises:
        UserError: If their classes or descriptors do not fit.
    """
    if train.classes.tolist() != test.classes.tolist() or train.labels.ndim != test.labels.ndim:
        raise UserError(
            f"the two parts have different classes: {', '.join(train.classes)} in {train.root}; "
            f"{', '.join(test.classes)} in {test.root}."
        )
    if train.features.shape[1] != test.features.shape[1]:
        raise UserError(
            f"the two parts have {train.features.shape[1]} and {test.features.shape[1]} dimensions:"
            " extract both with the same net, layer and scales."
        )
    n = len(train.names)

    def features(at: np.ndarray) -> np.ndarray:
        first, found = at < n, np.empty((len(at), train.features.shape[1]), np.float32)
        found[first] = train.features[at[first]]
        found[~first] = test.features[at[~first] - n]
        return found

    both = Features(
        Rows((n + len(test.names), train.features.shape[1]), np.float32, features),
        labels=np.concatenate([train.labels, test.labels]),
        names=np.concatenate([train.names, test.names]),
        classes=train.classes,
        root=train.root,
    )
    return both, lambda _, at: [(np.flatnonzero(at < n), np.flatnonzero(at >= n))]


def folds(number: int) -> Split:
    """Stratified folds: every image is tested once, by an SVM of the other folds."""

    def split(labels: np.ndarray, at: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        fewest = np.unique(labels, return_counts=True)[1].min()
        if fewest < number:
            raise UserError(f"a class has {fewest} image(s): too few for {number} folds.")
        return StratifiedKFold(number, shuffle=True, random_state=0).split(at, labels)

    return split


def per_class(train: int, test: int, number: int) -> Split:
    """Caltech's random splits: of each class ``train`` images, and up to ``test`` of the others."""

    def split(labels: np.ndarray, at: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(number):
            members = [rng.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
            yield (
                np.concatenate([images[:train] for images in members]),
                np.concatenate([images[train : train + test] for images in members]),
            )

    return split


@dataclass
class Result:
    """What an SVM reached.

    Attributes:
        measures: Each measure's name -> its value in % for each split.
        classes: The classes' names.
        confusion: (classes, classes), how many images of a class (row) were taken for a class
            (column), over all splits; None for a multi-label set.
        precisions: (classes,), the average precision in %, over all splits; None for a set of one
            label an image.
    """

    measures: dict[str, np.ndarray]
    classes: np.ndarray
    confusion: np.ndarray | None = None
    precisions: np.ndarray | None = None


def evaluate(features: Features, split: Split) -> Result:
    """Trains and tests an SVM, one against the rest, on every split.

    C is chosen by cross-validation of the training part alone. One label an image: measured is the
    mean over the classes of their accuracy, as Caltech's sets are. Several: the mean over the
    classes of their average precision; images that are "difficult" for a class are left out.

    Raises:
        UserError: If a class has less than 2 images to train on, or none to test on, or the memory
            is too small.
    """
    return (_one_label if features.labels.ndim == 1 else _multi_label)(features, split)


def _one_label(features: Features, split: Split) -> Result:
    x, y, classes = features.features, features.labels, features.classes
    splits = _checked(split, y, np.arange(len(y)), classes)
    confusions = []
    for train, test in _track(splits, "Splits"):
        svm = _fit(x, train, y[train], "balanced_accuracy")
        confusions.append(confusion_matrix(y[test], _each(svm.predict, x, test)))
    accuracies = [np.diag(counts) / counts.sum(1) for counts in confusions]
    measures = {"mean class accuracy": 100 * np.mean(accuracies, 1)}
    return Result(measures, classes, confusion=np.sum(confusions, 0))


def _multi_label(features: Features, split: Split) -> Result:
    x, classes = features.features, features.classes
    cases = []
    for name, labels in zip(classes, features.labels.T, strict=True):
        at = np.flatnonzero(labels)
        y = (labels[at] > 0).astype(int)
        cases.append((at, y, _checked(split, y, at, (f"not {name}", name))))
    precisions = []  # (classes, splits, 2)
    for at, y, splits in _track(cases, "Classes"):
        of_class = []
        for train, test in splits:
            svm = _fit(x, at[train], y[train], "average_precision")
            scores = _each(svm.decision_function, x, at[test])
            of_class.append(average_precisions(y[test], scores))
        precisions.append(of_class)
    area, eleven = 100 * np.moveaxis(precisions, 2, 0)  # (classes, splits) each
    measures = {"mAP": area.mean(0), "mAP at 11 recalls (VOC-2007's)": eleven.mean(0)}
    return Result(measures, classes, precisions=area.mean(1))


def average_precisions(relevant: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """VOC's average precision, 0 to 1, in its two forms.

    Args:
        relevant: (n,), 1 where the class is in the image, else 0.
        scores: (n,), the higher the surer.

    Returns:
        The area under the precision, made to fall with the recall (VOC 2010 and later), and its
        average at the recalls 0, 0.1, ... 1 (VOC 2007).
    """
    hits = relevant[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    at_hits = best_from[hits > 0]  # at the recalls 1/n, 2/n, ... 1
    first = np.ceil(np.arange(11) * len(at_hits) / 10 - 1).clip(min=0).astype(int)
    return at_hits.mean(), at_hits[first].mean()


def _each(function: Callable[[np.ndarray], np.ndarray], x: Array, at: np.ndarray) -> np.ndarray:
    """What a function says of the rows ``at``, a block at a time."""
    parts = np.array_split(at, -(-len(at) * x.shape[1] // BLOCK))
    return np.concatenate([function(x[part]) for part in parts])


def _checked(
    split: Split, y: np.ndarray, at: np.ndarray, names: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All splits of the rows ``at``, their classes y, before the first SVM is trained on one.

    Raises:
        UserError: If one has too few images of a class.
    """
    if len(names) < 2 or not len(at):
        raise UserError(f"there is nothing to tell '{names[-1]}' from: an SVM wants two classes.")
    splits = list(split(y, at))
    for train, test in splits:
        counts = np.bincount(y[train], minlength=len(names))
        rarest = counts.argmin()
        if counts[rarest] < 2:
            raise UserError(
                f"'{names[rarest]}' has {counts[rarest]} image(s) to train on, and C is chosen by "
                "cross-validation: give it 2 or more."
            )
        for name, count in zip(names, np.bincount(y[test], minlength=len(names)), strict=True):
            if not count:
                raise UserError(f"'{name}' has no image to test on: split otherwise.")
    return splits


def _fit(x: Array, at: np.ndarray, y: np.ndarray, scoring: str) -> GridSearchCV:
    """An SVM of the rows ``at``, their classes y, with the C that is best in cross-validation."""
    jobs = effective_n_jobs(None)
    needed, free = BYTES * len(at) * x.shape[1] * jobs / 1e9, free_memory() / 1e9
    if needed > free:
        raise UserError(
            f"an SVM of {len(at)} images with {x.shape[1]} numbers each takes {needed:.1f} GB with "
            f"--jobs {jobs}, and {free:.1f} GB are free: use fewer images (--per-class), fewer "
            "--jobs, or shorter features (one file, without --stack)."
        )
    inner = StratifiedKFold(min(3, np.bincount(y).min()), shuffle=True, random_state=0)
    search = GridSearchCV(LinearSVC(random_state=0), {"C": C}, scoring=scoring, cv=inner)
    with warnings.catch_warnings():
        # Where C is too large to converge, cross-validation finds another.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(x[at], y)


def free_memory() -> float:
    """The bytes that may be had without swapping; where the system does not say, all there are."""
    try:
        with open("/proc/meminfo") as file:
            (kib,) = (line.split()[1] for line in file if line.startswith("MemAvailable:"))
        return 1024 * int(kib)
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _track(items: Sequence, what: str) -> Iterable:
    return track(items, what, console=Console(stderr=True))


def draw(result: Result, out: str | os.PathLike) -> None:
    """Draws the confusion, in % of each class's images, or the classes' average precisions.

    Args:
        result: The result.
        out: The PNG to write; its folder is made.
    """
    n = len(result.classes)
    side = 2.5 + 0.4 * min(n, 60)  # inches
    figure = Figure((side + 0.8, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    families, names = legible(result.classes)
    style = dict(fontsize=10 if n <= 60 else 3, parse_math=False, family=families)
    if result.confusion is not None:
        shares = 100 * result.confusion / result.confusion.sum(1, keepdims=True)
        drawn = ConfusionMatrixDisplay(shares).plot(
            ax=axes,
            include_values=n <= 30,
            values_format=".0f",
            im_kw=dict(vmin=0, vmax=100),
            text_kw=dict(fontsize=8),
        )
        drawn.im_.colorbar.set_label("% of the class's images")
        axes.set_xticks(range(n), names, rotation=90, **style)
        axes.set(xlabel="taken for", ylabel="is")
    else:
        axes.barh(range(n), result.precisions, color="#8ecae6")
        for i, precision in enumerate(result.precisions):
            axes.text(1, i, f"{precision:.1f}", va="center", fontsize=9)
        axes.set(xlim=(0, 100), xlabel="average precision (%)")
        axes.invert_yaxis()
    axes.set_yticks(range(n), names, **style)
    axes.set_title(summary(result), fontsize=11)
    with replacing(out) as file:
        figure.savefig(file, format="png")


def summary(result: Result) -> str:
    """The measures in words, with their standard deviation where there are several splits."""

    def told(name: str, values: np.ndarray) -> str:
        spread = f" \N{PLUS-MINUS SIGN} {values.std():.1f} ({len(values)} splits)"
        return f"{name} {values.mean():.1f}%{spread if len(values) > 1 else ''}"

    return ", ".join(told(*each) for each in result.measures.items())
