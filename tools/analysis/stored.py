"""Files of scores, and what a row of the paper's tables takes from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.analysis.fusion import check_same_data, fuse
from vgg_mm.arrays import At, Rows
from vgg_mm.errors import UserError
from vgg_mm.paper import ROWS, TRAININGS, FusionRow, Row, Training, config_name, scaled
from vgg_mm.testing.evaluation import VIEWS
from vgg_mm.testing.scores import Scores


def scores_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files of scores among ``paths`` and, at any depth, in the folders among them.

    Raises:
        UserError: If a folder holds none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            # In .parts is what SaveScores writes while it is at work.
            found = [f for f in sorted(path.rglob("*.npz")) if f.parent.suffix != ".parts"]
            if not found:
                raise UserError(f"no scores in {path}; tools/test.py --out writes them.")
        files += [file for file in found if file not in files]
    return files


class StoredScores:
    """Files of scores of one data set, from which the tables' rows take what they average.

    A row is filled when its net's files, all of one checkpoint, hold every pair of a view and a
    scale that it averages; several files may share them. The posteriors stay on the disk.

    Args:
        files: Files that ``tools/test.py --out`` wrote.
        crop: The crops' side: the paper's S and Q count in its ratio to 224.

    Attributes:
        files: Each file's scores.

    Raises:
        UserError: If a file is none of ours, two are of different data, or two of one net are of
            different checkpoints.
    """

    def __init__(self, files: Sequence[Path], crop: int = 224) -> None:
        self.crop = crop
        self.trainings = {(arch, scaled(S, crop)): (arch, S) for arch, S in TRAININGS}
        self.files: dict[Path, Scores] = {}
        self._sources: dict[tuple[Training, str, int], tuple[Path, int]] = {}
        self._checkpoints: dict[Training, tuple[Path, str]] = {}
        self._shown: dict[Row | FusionRow, tuple[str, str]] = {}
        for file in files:
            scores = Scores.load(file)
            check_same_data(*next(iter(self.files.items()), (file, scores)), file, scores)
            self.files[file] = scores
            if len(scores.protocols) == 1:
                self._register(file, scores.protocols[0])

    def _register(self, file: Path, protocol: dict) -> None:
        arch, S = protocol["arch"], protocol["S"]
        training = self.trainings.get((arch, tuple(S) if isinstance(S, list) else S))
        if not (training and protocol["config"] == config_name(*training) and protocol["flip"]):
            return
        other, sha256 = self._checkpoints.setdefault(training, (file, protocol["sha256"]))
        if sha256 != protocol["sha256"]:
            raise UserError(
                f"{other} and {file} hold scores of two different checkpoints of "
                f"{protocol['config']}: give one of them."
            )
        papers_grid = (protocol["grid"], protocol["crop_size"]) == (5, self.crop)
        for v, (view, Q) in enumerate(zip(protocol["views"], protocol["scales"], strict=True)):
            if view == "dense" or papers_grid:
                self._sources.setdefault((training, view, Q), (file, v))

    def lacking(self, row: Row | FusionRow) -> list[Training]:
        """The row's models of which not everything is stored that it averages."""
        return [
            (arch, S)
            for arch, S, scales in row.models
            if not self._sources.keys() >= set(self._pairs((arch, S), row.views, scales))
        ]

    def used(self) -> set[Path]:
        """The files from which at least one row is filled."""
        return {
            self._sources[pair][0]
            for row in ROWS
            if not self.lacking(row)
            for arch, S, scales in row.models
            for pair in self._pairs((arch, S), row.views, scales)
        }

    def shown(self, row: Row | FusionRow) -> tuple[str, str]:
        """The cells of the top-1 and top-5 error of a row that lacks nothing."""
        if row not in self._shown:
            errors = self.scores(row).metrics()
            self._shown[row] = f"{errors['top1']:.1f}", f"{errors['top5']:.1f}"
        return self._shown[row]

    def scores(self, row: Row | FusionRow) -> Scores:
        """The posteriors (N, 1, classes) of a row that lacks nothing."""
        models = (
            (config_name(arch, S), self._average(self._pairs((arch, S), row.views, scales)))
            for arch, S, scales in row.models
        )
        return fuse(models, [1 / len(row.models)] * len(row.models))

    def _pairs(
        self, training: Training, views: str, scales: Sequence[int]
    ) -> Iterator[tuple[Training, str, int]]:
        return ((training, view, scaled(Q, self.crop)) for view in VIEWS[views] for Q in scales)

    def _average(self, pairs: Iterable[tuple[Training, str, int]]) -> Scores:
        """Scores whose posteriors (N, 1, classes) are the average over the pairs."""
        parts = defaultdict(list)
        for pair in pairs:
            file, v = self._sources[pair]
            parts[file].append(v)

        def average(at: At) -> np.ndarray:
            total = sum(
                self.files[file].posteriors[at][:, vs].sum(1, dtype=np.float64, keepdims=True)
                for file, vs in parts.items()
            )
            return total / sum(map(len, parts.values()))

        same = next(iter(self.files.values()))
        n, _, classes = same.posteriors.shape
        return replace(same, posteriors=Rows((n, 1, classes), np.float64, average))
