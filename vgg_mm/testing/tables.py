"""Tables 3-7 from stored scores, in the paper's layout, with its figures beside ours."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from vgg_mm.errors import UserError
from vgg_mm.paper import (
    ROWS,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_7_VGG,
    TRAININGS,
    FusionRow,
    Row,
    Training,
    config_name,
    scaled,
    scores_command,
)
from vgg_mm.testing.evaluation import VIEWS
from vgg_mm.testing.fusion import check_same_data, fuse, normalised
from vgg_mm.testing.scores import Scores

METHODS = {"dense": "dense", "crops": "multi-crop", "both": "multi-crop & dense"}
NONE = "-"


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        cells: Column -> text, in the columns' order; both may hold line breaks.
        commands: What to run for the figures that are lacking.
    """

    cells: dict[str, str]
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    caption: str
    lines: list[Line]


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
    scale that it averages; several files may share them. Of a file only what its row needs is
    kept in memory, while the row is computed.

    Args:
        files: Files that ``tools/test.py --out`` wrote.
        crop: The crops' side: the paper's S and Q count in its ratio to 224.

    Attributes:
        files: Each file's scores, without the posteriors.

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
        self._errors: dict[tuple, tuple[float, float]] = {}
        for file in files:
            scores = replace(Scores.load(file), posteriors=np.empty(0))
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

    def errors(self, row: Row | FusionRow) -> tuple[float, float]:
        """The top-1 and top-5 error in % of a row that lacks nothing."""
        key = (row.models, row.views)
        if key not in self._errors:
            fused = self.scores(row)
            self._errors[key] = (fused.error(1), fused.error(5))
        return self._errors[key]

    def shown(self, row: Row | FusionRow) -> tuple[str, str]:
        """The cells of :meth:`errors`."""
        top1, top5 = self.errors(row)
        return f"{top1:.1f}", f"{top5:.1f}"

    def scores(self, row: Row | FusionRow) -> Scores:
        """The posteriors (N, 1, classes) of a row that lacks nothing."""
        models = (
            (config_name(arch, S), self._average(self._pairs((arch, S), row.views, scales)))
            for arch, S, scales in row.models
        )
        return fuse(models, normalised(None, len(row.models)))

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
        total = sum(
            Scores.load(file).posteriors[:, vs].sum(1, dtype=np.float64, keepdims=True)
            for file, vs in parts.items()
        )
        same = next(iter(self.files.values()))
        return replace(same, posteriors=total / sum(map(len, parts.values())))


def make_tables(stored: StoredScores) -> list[Table]:
    """Tables 3-7, and a table of the stored scores that fill no row of theirs, if there are any."""

    def scale_table(rows: tuple[Row, ...]) -> list[Line]:
        return [
            _line(
                {
                    "ConvNet config.\n(Table 1)": row.arch,
                    "smallest image side\ntrain (S)": _side(row.S),
                    "\ntest (Q)": _sides(row.Q),
                },
                row,
                stored,
            )
            for row in rows
        ]

    methods = [
        _line(
            {"ConvNet config.\n(Table 1)": row.arch, "Evaluation\nmethod": METHODS[row.views]},
            row,
            stored,
        )
        for row in TABLE_5
    ]
    fusions = [
        _line({"Combined ConvNet models": _models(row)}, row, stored, row.top5_test)
        for row in TABLE_6
    ]
    field = []
    for (method, *figures), row in zip_longest(TABLE_7, TABLE_7_VGG):
        if row:
            field.append(_line({"Method": method}, row, stored, figures[2]))
        else:
            field.append(Line({"Method": method, **_figures(("", "", ""), figures)}))
    tables = [
        Table("Table 3: ConvNet performance at a single test scale", scale_table(TABLE_3)),
        Table("Table 4: ConvNet performance at multiple test scales", scale_table(TABLE_4)),
        Table(
            "Table 5: ConvNet evaluation techniques comparison (S in [256;512], Q = "
            f"{_sides(TABLE_5[0].Q)})",
            methods,
        ),
        Table("Table 6: Multiple ConvNet fusion results", fusions),
        Table("Table 7: Comparison with the state of the art in ILSVRC classification", field),
    ]
    further = [file for file in stored.files if file not in stored.used()]
    if further:
        tables.append(Table("Further scores, which fill no row above", _further(further)))
    return tables


def _line(
    cells: dict[str, str], row: Row | FusionRow, stored: StoredScores, *top5_test: float | None
) -> Line:
    lacking = stored.lacking(row)
    ours = [NONE, NONE] if lacking else stored.shown(row)
    figures = _figures([*ours, f"{NONE}, server only"], [row.top1, row.top5, *top5_test])
    return Line({**cells, **figures}, tuple(scores_command(*training) for training in lacking))


def _figures(ours: Sequence[str], papers: Sequence[float | None]) -> dict[str, str]:
    """Cells of our errors and the paper's: top-1, top-5 and, if it is given, the test set's."""
    cells = {}
    columns = ("top-1 val.", "top-5 val.", "top-5 test")
    for column, own, figure in zip(columns, ours, papers, strict=False):
        cells[f"{column}\nerror (%)"] = own
        cells[f"{column}\nin the paper"] = NONE if figure is None else f"{figure:.1f}"
    return cells


def _side(S: int | Sequence[int] | None) -> str:
    return f"[{S[0]};{S[1]}]" if isinstance(S, Sequence) else str(S)


def _sides(scales: Iterable[int]) -> str:
    return ",".join(map(str, scales))


def _models(row: FusionRow) -> str:
    models = [f"({arch}/{_side(S)}/{_sides(scales)})" for arch, S, scales in row.models]
    return "\n".join([*models, f"{METHODS[row.views]} eval."])


def _further(files: Iterable[Path]) -> list[Line]:
    lines = []
    for file in files:
        scores = Scores.load(file)
        cells = {
            "file": str(file),
            "tested": "\n".join(map(_protocol, scores.protocols)),
            "top-1 val.\nerror (%)": f"{scores.error(1):.1f}",
            "top-5 val.\nerror (%)": f"{scores.error(5):.1f}",
        }
        lines.append(Line(cells))
    return lines


def _protocol(protocol: dict) -> str:
    """A protocol in words, such as ``demo (A, S 73): dense, Q 73``."""
    views = list(dict.fromkeys(protocol["views"]))
    grid = f", {protocol['grid']}x{protocol['grid']} crops of {protocol['crop_size']}"
    return (
        f"{protocol['config']} ({protocol['arch']}, S {_side(protocol['S'])}): "
        f"{' & '.join(METHODS[view] for view in views)}, "
        f"Q {_sides(dict.fromkeys(protocol['scales']))}"
        f"{grid if 'crops' in views else ''}{'' if protocol['flip'] else ', no flip'}"
    )


def describe_data(stored: StoredScores) -> str:
    """A line on what the scores are of; empty where there are none."""
    if not stored.files:
        return ""
    scores = next(iter(stored.files.values()))
    images, classes = len(scores.names), len(scores.classes)
    data = f"Tested on {images} images of {classes} classes"
    if (images, classes) != (50_000, 1000):
        data += ": not ILSVRC-2012's validation set, so not to be compared with the paper's figures"
    return f"{data}."


def beside_paper(file: str | Path) -> str:
    """The paper's errors for the protocol of a file of scores, and what the file's are of.

    Returns:
        Two lines; nothing where no row of Tables 3-5 has the file's net, S, views and scales.

    Raises:
        UserError: If ``tools/test.py --out`` did not write the file.
    """
    stored = StoredScores([Path(file)])
    (scores,) = stored.files.values()
    (protocol,) = scores.protocols
    tested = set(protocol["views"]), set(protocol["scales"])
    for row in (*TABLE_3, *TABLE_4, *TABLE_5):
        if (set(VIEWS[row.views]), set(row.Q)) == tested and not stored.lacking(row):
            return (
                f"the paper's: {row.top1}% and {row.top5}% (net {row.arch}, S {_side(row.S)}, "
                f"Q {_sides(row.Q)}, {METHODS[row.views]})\n{describe_data(stored)}"
            )
    return ""


def as_text(tables: Sequence[Table], data: str = "") -> str:
    """The tables for a terminal; ``data`` is the line above them."""
    commands = _commands(tables)
    blocks = [data] if data else []
    for table in tables:
        rows = [[cell.split("\n") for cell in row] for row in _grid(table, commands)]
        widths = [
            max(len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)
        ]
        lines = [table.caption]
        for row in rows:
            for parts in zip_longest(*row, fillvalue=""):
                padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
                lines.append("  ".join(padded).rstrip())
        blocks.append("\n".join(lines))
    if commands:
        blocks.append("\n".join(["To make what is lacking:", *_numbered(commands)]))
    return "\n\n".join(blocks) + "\n"


def as_markdown(tables: Sequence[Table], data: str = "") -> str:
    """The tables in Markdown; ``data`` is the line above them."""
    commands = _commands(tables)
    blocks = [data] if data else []
    for table in tables:
        header, *rows = (
            [cell.strip().replace("|", r"\|").replace("\n", "<br>") for cell in row]
            for row in _grid(table, commands)
        )
        lines = [header, ["---"] * len(header), *rows]
        blocks += [f"**{table.caption}**", "\n".join(f"| {' | '.join(row)} |" for row in lines)]
    if commands:
        blocks += ["To make what is lacking:", "\n".join(["```", *_numbered(commands), "```"])]
    return "\n\n".join(blocks) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """The tables under one header, each line with the commands that it lacks."""
    rows = []
    for table in tables:
        for line in table.lines:
            cells = {_flat(column): _flat(cell) for column, cell in line.cells.items()}
            rows.append({"table": table.caption, **cells, "to make it": " && ".join(line.commands)})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(text: str) -> str:
    return " ".join(text.split())


def _commands(tables: Sequence[Table]) -> dict[str, str]:
    """All tables' commands and their marks, such as ``(1)``."""
    unique = dict.fromkeys(
        command for table in tables for line in table.lines for command in line.commands
    )
    return {command: f"({i})" for i, command in enumerate(unique, 1)}


def _numbered(commands: dict[str, str]) -> Iterator[str]:
    return (f"{mark} {command}" for command, mark in commands.items())


def _grid(table: Table, commands: dict[str, str]) -> list[list[str]]:
    """The table's header and rows; the last column refers to the commands, if any are needed."""
    needed = any(line.commands for line in table.lines)
    grid = [[*table.lines[0].cells, *(["to make it\nrun"] * needed)]]
    for line in table.lines:
        marks = " ".join(commands[command] for command in line.commands)
        grid.append([*line.cells.values(), *([marks] * needed)])
    return grid
