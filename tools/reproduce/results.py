"""What a reproduction measured: errors of every row, their intervals, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.reproduce.bootstrap import DRAWS, Verdict, bootstrap, interval, judge
from tools.reproduce.claims import LARGER, Part
from tools.reproduce.plan import Model, Run, ablations
from tools.reproduce.scales import Scale
from vgg_mm.errors import UserError
from vgg_mm.paper import ROWS, TABLE_3, TABLE_4, FusionRow, Row
from vgg_mm.testing.fusion import check_same_data
from vgg_mm.testing.scores import Scores
from vgg_mm.testing.tables import StoredScores, scores_files

AnyRow = Row | FusionRow
# Each test scale of each model by itself, for the effect of S and Q.
EACH_Q = tuple(
    Row(row.arch, row.S, (Q,), "dense", row.top1, row.top5) for row in TABLE_4 for Q in row.Q
)


def _key(row: AnyRow, k: int) -> tuple:
    return (row.models, row.views, k)


class Results:
    """The errors of all runs: the mean over seeds, and over the folds' images.

    Serves :func:`vgg_mm.testing.tables.make_tables` as :class:`StoredScores` does for one run.

    Args:
        scale: The sizes.
        runs: The runs; a row counts as measured when all of them have it.
        draws: The bootstrap's.

    Attributes:
        stored: Each run's scores.
        images: How many distinct images were tested on.

    Raises:
        UserError: If no run has scores, or two seeds of a fold were tested on different images.
    """

    files: dict = {}  # no further scores for the tables

    def __init__(self, scale: Scale, runs: Sequence[Run], draws: int = DRAWS) -> None:
        self.scale = scale
        folders = {run: run.folder / "scores" for run in runs}
        missing = [run.name for run, folder in folders.items() if not any(folder.glob("*.npz"))]
        if missing:
            raise UserError(f"nothing to report yet: no scores of {'; '.join(missing)}.")
        self.stored = {
            run: StoredScores(scores_files([folder]), scale.crop) for run, folder in folders.items()
        }
        self.rows = [row for row in (*ROWS, *EACH_Q) if not self.lacking(row)]
        self.ablations = [
            ablation
            for ablation in ablations(scale.crop)
            if all(run.scores(ablation).exists() for run in runs)
            and not self.lacking(self.compared(ablation))
        ]
        wrong: dict[tuple, dict[Run, np.ndarray]] = {}
        for run, stored in self.stored.items():
            for row in self.rows:
                if run not in wrong.get(_key(row, 1), {}):
                    scores = stored.scores(row)
                    for k in (1, 5):
                        wrong.setdefault(_key(row, k), {})[run] = scores.wrong(k)
            for ablation in self.ablations:
                file = run.scores(ablation)
                scores = Scores.load(file)
                check_same_data(*next(iter(stored.files.items())), file, scores)
                wrong.setdefault((ablation.name, 1), {})[run] = scores.wrong(1)
        self.keys = {key: i for i, key in enumerate(wrong)}
        folds = []
        for fold in sorted({run.fold for run in runs}):
            members = [run for run in runs if run.fold == fold]
            tested = [next(iter(self.stored[run].files.items())) for run in members]
            for other in tested[1:]:
                check_same_data(*tested[0], *other)
            folds.append(np.array([[by_run[run] for run in members] for by_run in wrong.values()]))
        self.images = sum(fold.shape[2] for fold in folds)
        self.mean = 100 * sum(fold.mean(1).sum(1) for fold in folds) / self.images  # (R,)
        self.draws = 100 * bootstrap(folds, draws)  # (D, R)

    def lacking(self, row: AnyRow) -> list:
        """The row's models of which a run lacks scores."""
        lacking = (each for stored in self.stored.values() for each in stored.lacking(row))
        return list(dict.fromkeys(lacking))

    def errors(self, row: AnyRow, k: int = 1) -> tuple[float, float, float]:
        """A measured row's top-k error in %, and the ends of its interval."""
        column = self.keys[_key(row, k)]
        return float(self.mean[column]), *interval(self.draws[:, column])

    def shown(self, row: AnyRow) -> tuple[str, str]:
        """A measured row's cells in the tables."""
        cells = []
        for k in (1, 5):
            error, low, high = self.errors(row, k)
            cells.append(f"{error:.1f}\n[{low:.1f}; {high:.1f}]")
        return cells[0], cells[1]

    def compared(self, ablation: Model) -> Row:
        """The row of Table 3 that an ablation is compared with."""
        (row,) = (row for row in TABLE_3 if (row.arch, row.S) == ablation.training)
        return row

    def judge(self, part: Part) -> Verdict | None:
        """The verdict on a part of a claim; None where a row was not measured."""
        if any(self.lacking(row) for row in (*part.worse, *part.better)):
            return None
        worse, better = (
            [self.keys[_key(r, 1)] for r in rows] for rows in (part.worse, part.better)
        )
        return self._judge(worse, better, part.claimed)

    def judge_ablation(self, ablation: Model) -> Verdict:
        """Whether what was left out lowers the error."""
        with_it = self.keys[_key(self.compared(ablation), 1)]
        return self._judge([self.keys[ablation.name, 1]], [with_it], LARGER)

    def _judge(self, worse: list[int], better: list[int], claimed: tuple[float, float]) -> Verdict:
        difference = self.mean[worse].mean() - self.mean[better].mean()
        draws = self.draws[:, worse].mean(1) - self.draws[:, better].mean(1)
        return judge(float(difference), *interval(draws), self.images, claimed)
