"""What a reproduction measured: of every image and training how far the true class was ranked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.analysis.fusion import check_same_data
from tools.reproduce.bootstrap import DRAWS, Verdict, bootstrap, interval, judge
from tools.reproduce.claims import PARTS, Entry, Part, entry
from tools.reproduce.plan import BOX_TESTS, Model, box_guesses, models, work_dir
from tools.reproduce.scales import Scale
from vgg_mm.arrays import read_arrays, write_arrays
from vgg_mm.errors import UserError
from vgg_mm.paper import ROWS, TABLE_4, FusionRow, Row, Training, scaled
from vgg_mm.testing.evaluation import VIEWS
from vgg_mm.testing.localisation import Guesses
from vgg_mm.testing.scores import Scores
from vgg_mm.writing import replacing

# Each test scale of each model by itself, for the effect of S and Q.
EACH_Q = tuple(
    Row(row.arch, row.S, (Q,), "dense", row.top1, row.top5) for row in TABLE_4 for Q in row.Q
)
ENTRIES = dict.fromkeys(
    (
        *map(entry, (*ROWS, *EACH_Q)),
        *(each for part in PARTS for side in (part.worse, part.better) for each in side),
    )
)
FILE = "ranks.npz"


def collect(scale: Scale, root: Path, seeds: int) -> None:
    """Makes ``report/ranks.npz`` of the scores and guesses of the trainings that are done.

    For each :class:`Entry` it holds (N, n) uint8: how many classes beat the true one or tie, 255 at
    most; of boxes 0 if the first guess is right, 1 if another is, else 255.

    Raises:
        UserError: If nothing is done, or two tests were of different images.
    """
    found: list[dict[str, np.ndarray]] = [
        _ranks(scale, root / f"seed{seed}") for seed in range(seeds)
    ]
    fullest = max(found, key=len)
    if not fullest:
        raise UserError(f"nothing to report yet: no scores in {root}.")
    whole = [ranks for ranks in found if ranks.keys() == fullest.keys()]
    ranks = {key: np.stack([each[key] for each in whole]) for key in fullest}
    (root / "report").mkdir(exist_ok=True)
    with replacing(root / "report" / FILE) as file:
        write_arrays(file, ranks)


def _ranks(scale: Scale, folder: Path) -> dict[str, np.ndarray]:
    known = {model.name: model for model in models(scale)}
    done = {name for name in known if (folder / "steps" / f"{name}.json").exists()}
    scores = {
        name: Scores.load(work_dir(folder, name) / "scores.npz")
        for name in done
        if not known[name].boxes
    }
    first = next(iter(scores.items()), None)
    for name, tested in scores.items():
        assert first
        check_same_data(Path(first[0]), first[1], Path(name), tested)
    ranks = {}
    for each in ENTRIES:
        names = [name for name, _ in each.models]
        if each.views == "boxes":
            (name,) = names
            test2 = name in {test.name for test in BOX_TESTS}
            marker = folder / "steps" / f"{'boxes_' * test2}{name}.json"
            if marker.exists():
                file = box_guesses(folder, name)
                file = file if test2 else work_dir(folder, name) / "true_class.npz"
                ranks[each.key] = _guessed(Guesses.load(file), each.top)
        elif scores.keys() >= {*names} and _tested(known, each):
            ranks[each.key] = _ranked(scale, scores, each)
    return ranks


def _guessed(guesses: Guesses, top: int) -> np.ndarray:
    first = guesses.wrong(1)
    others = guesses.wrong(top)
    return np.where(first, np.where(others, 255, 1), 0).astype(np.uint8)


def _tested(known: dict[str, Model], each: Entry) -> bool:
    """Whether its models' tests have all views that it averages; all have the scales."""
    return all({*VIEWS[each.views]} <= {*VIEWS[known[name].views]} for name, _ in each.models)


def _ranked(scale: Scale, scores: dict[str, Scores], each: Entry) -> np.ndarray:
    total: np.ndarray | float = 0.0
    for name, scales in each.models:
        stored = scores[name]
        (protocol,) = stored.protocols
        pairs = [*zip(protocol["views"], protocol["scales"], strict=True)]
        wanted = [(view, scaled(Q, scale.crop)) for view in VIEWS[each.views] for Q in scales]
        posteriors = stored.posteriors[:, [pairs.index(pair) for pair in wanted]]
        total = total + posteriors.mean(1, dtype=np.float64) / len(each.models)
    assert isinstance(total, np.ndarray)
    own = np.take_along_axis(total, stored.labels[:, None], 1)
    return ((~(total < own)).sum(1) - 1).clip(max=255).astype(np.uint8)


class Results:
    """The errors and verdicts of a file of ranks; the tables are made from it.

    Args:
        file: See :func:`collect`.
        draws: The bootstrap's.

    Attributes:
        ranks: Its arrays, by an entry's key.
        trainings: How many of each model there are.
        images: How many test images.
    """

    def __init__(self, file: Path, draws: int = DRAWS) -> None:
        self.ranks = {key: np.asarray(value) for key, value in read_arrays(file).items()}
        self.trainings, self.images = next(iter(self.ranks.values())).shape
        self._draws = draws
        wrong = np.stack([self.ranks[key] >= k for key in self.ranks for k in (1, 5)])
        self._drawn = 100 * bootstrap(wrong, draws)
        self._columns = {
            (key, k): 2 * i + (k > 1) for i, key in enumerate(self.ranks) for k in (1, 5)
        }
        self._mean = 100 * wrong.mean((1, 2))
        self.parts = [part for part in PARTS if self._has(*part.worse, *part.better)]
        differences = [self._wrong(part.worse) - self._wrong(part.better) for part in self.parts]
        judged = (
            judge(np.stack(differences), [part.claimed for part in self.parts], draws)
            if differences
            else []
        )
        self.verdicts: dict[Part, Verdict] = dict(zip(self.parts, judged, strict=True))

    def _has(self, *entries: Entry) -> bool:
        return self.ranks.keys() >= {each.key for each in entries}

    def _wrong(self, entries: Sequence[Entry]) -> np.ndarray:
        """100 where the mean of the entries is an error of a training's of an image: (N, n)."""
        return 100 * np.mean([self.ranks[each.key] >= each.top for each in entries], 0)

    def error(self, each: Entry, k: int | None = None) -> tuple[float, float, float] | None:
        """A measured entry's top-k error in %, and the ends of its interval."""
        if not self._has(each):
            return None
        column = self._columns[each.key, k or each.top]
        return float(self._mean[column]), *interval(self._drawn[:, column])

    def mean(self, entries: Sequence[Entry]) -> float:
        """The mean error of entries in %."""
        return float(self._wrong(entries).mean())

    def sampling(self, part: Part) -> float:
        """The standard error of a part's difference in one training that is due to its images."""
        wrong = self._wrong(part.worse) - self._wrong(part.better)
        return float(wrong.std(1).mean() / self.images**0.5)

    def lacking(self, row: Row | FusionRow) -> list[Training]:
        """The row's models if it was not measured."""
        return [] if self._has(entry(row)) else [(arch, S) for arch, S, _ in row.models]

    def shown(self, row: Row | FusionRow) -> tuple[str, str]:
        """A measured row's cells in the tables."""
        cells = []
        for k in (1, 5):
            error, low, high = self.error(entry(row), k) or (0.0, 0.0, 0.0)
            cells.append(f"{error:.1f}\n[{low:.1f}; {high:.1f}]")
        return cells[0], cells[1]
