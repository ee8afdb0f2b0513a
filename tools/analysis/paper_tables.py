"""Tables 3-10 from stored scores and guesses, in the paper's layout, with its figures beside."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tools import printing
from tools.analysis.stored import StoredScores, scores_command
from tools.analysis.stored_boxes import StoredGuesses, box_commands
from vgg_mm.paper import (
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_7_VGG,
    TABLE_8,
    TABLE_9,
    TABLE_10,
    BoxRow,
    BoxSettingRow,
    FusionRow,
    Row,
    Training,
)
from vgg_mm.testing.evaluation import VIEWS

METHODS = {"dense": "dense", "crops": "multi-crop", "both": "multi-crop & dense"}
NONE = "-"


def evaluation_name(views: Iterable[str]) -> str:
    """What the field calls an evaluation by such views, such as dense."""
    return f"{' & '.join(METHODS[view] for view in views)} evaluation"


class Measured(Protocol):
    """Our figures of the tables' rows."""

    def lacking(self, row: Row | FusionRow) -> Sequence[Training]:
        """The row's models of which not everything is stored that it averages."""

    def shown(self, row: Row | FusionRow) -> tuple[str, str]:
        """The cells of the top-1 and top-5 error of a row that lacks nothing."""


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


def make_tables(ours: Measured) -> list[Table]:
    """Tables 3-7."""
    net = "ConvNet config.\n(Table 1)"

    def scale_table(rows: Iterable[Row]) -> list[Line]:
        side = "smallest image side\ntrain (S)"
        return [
            _line({net: row.arch, side: _side(row.S), "\ntest (Q)": _sides(row.Q)}, row, ours)
            for row in rows
        ]

    return [
        Table("Table 3: ConvNet performance at a single test scale", scale_table(TABLE_3)),
        Table("Table 4: ConvNet performance at multiple test scales", scale_table(TABLE_4)),
        Table(
            "Table 5: ConvNet evaluation techniques comparison (S in [256;512], Q = "
            f"{_sides(TABLE_5[0].Q)})",
            [
                _line({net: row.arch, "Evaluation\nmethod": METHODS[row.views]}, row, ours)
                for row in TABLE_5
            ],
        ),
        Table(
            "Table 6: Multiple ConvNet fusion results",
            [
                _line({"Combined ConvNet models": _models(row)}, row, ours, row.top5_test)
                for row in TABLE_6
            ],
        ),
        Table(
            "Table 7: Comparison with the state of the art in ILSVRC classification",
            [
                _line({"Method": method}, row, ours, top5_test)
                for (method, _, _, top5_test), row in zip(TABLE_7, TABLE_7_VGG, strict=False)
            ]
            + [
                Line({"Method": method, **_figures(("", "", ""), figures)})
                for method, *figures in TABLE_7[len(TABLE_7_VGG) :]
            ],
        ),
    ]


def _line(
    cells: Mapping[str, str], row: Row | FusionRow, ours: Measured, *top5_test: float | None
) -> Line:
    lacking = ours.lacking(row)
    errors = (NONE, NONE) if lacking else ours.shown(row)
    figures = _figures((*errors, f"{NONE}, server only"), (row.top1, row.top5, *top5_test))
    return Line({**cells, **figures}, tuple(scores_command(*training) for training in lacking))


def _figures(ours: Sequence[str], papers: Sequence[float | None]) -> dict[str, str]:
    """Cells of our errors and the paper's: top-1, top-5 and, if it is given, the test set's."""
    cells = {}
    columns = ("top-1 val.", "top-5 val.", "top-5 test")
    for column, own, figure in zip(columns, ours, papers, strict=False):
        cells[f"{column}\nerror (%)"] = own
        cells[f"{column}\nin the paper"] = NONE if figure is None else f"{figure:.1f}"
    return cells


def make_box_tables(ours: StoredGuesses) -> list[Table]:
    """Tables 8-10."""
    layers = {"fc": "1st and 2nd FC", "all": "all"}

    def line(cells: dict[str, str], row: BoxSettingRow | BoxRow, *figures: float | None) -> Line:
        """With our error, the paper's and, of Tables 9 and 10, the test set's."""
        k, error = (1 if isinstance(row, BoxSettingRow) else 5), ours.error(row)
        errors = (NONE if error is None else f"{error:.1f}", f"{NONE}, server only")
        cells = cells | _localisation(k, errors, figures)
        return Line(cells, box_commands(row) if error is None else ())

    fusion = TABLE_9[-1]
    return [
        Table(
            "Table 8: Localisation error for different modifications (S = 384, central crop, true "
            "class)",
            [
                line(
                    {"Fine-tuned\nlayers": layers[row.trained], "regression\ntype": row.regression},
                    row,
                    row.top1,
                )
                for row in TABLE_8
            ],
        ),
        Table(
            "Table 9: Localisation error (dense, PCR, all layers fine-tuned)",
            [
                line(
                    {
                        "smallest image side\ntrain (S)": "/".join(str(S) for S, _ in row.models),
                        "\ntest (Q)": "/".join(_sides(Q) for _, Q in row.models),
                    },
                    row,
                    row.val,
                    row.test,
                )
                for row in TABLE_9
            ],
        ),
        Table(
            "Table 10: Comparison with the state of the art in ILSVRC localisation",
            [
                line({"Method": TABLE_10[0][0]}, fusion, *TABLE_10[0][1:]),
                *(
                    Line({"Method": method, **_localisation(5, ("", ""), figures)})
                    for method, *figures in TABLE_10[1:]
                ),
            ],
        ),
    ]


def _localisation(k: int, ours: Sequence[str], papers: Sequence[float | None]) -> dict[str, str]:
    """Cells of our top-k localisation errors and the paper's: val and, if given, test."""
    cells = {}
    for column, own, figure in zip((f"top-{k} val.", f"top-{k} test"), ours, papers, strict=False):
        cells[f"{column}\nloc. error (%)"] = own
        cells[f"{column}\nin the paper"] = NONE if figure is None else f"{figure:.1f}"
    return cells


def further_boxes(stored: StoredGuesses) -> list[Table]:
    """A table of the stored guesses that fill no row of Tables 8 and 9, if there are any."""
    lines = []
    for file in (file for file in stored.files if file not in stored.rows.values()):
        guesses = stored.files[file]
        (protocol,) = guesses.protocols
        nets = [protocol, *protocol["others"]]
        cells = {
            "file": str(file),
            "tested": "\n".join(
                f"{net['config']} (S {_side(net['S'])}, {net['regression']}): Q "
                f"{_sides(net['scales'])}"
                for net in nets
            ),
            "test": "1, true class" if protocol["test"] == 1 else "2, dense",
            "top-1 val.\nloc. error (%)": f"{stored.measured(guesses, 1):.1f}",
            "top-5 val.\nloc. error (%)": (
                f"{stored.measured(guesses, 5):.1f}" if "top5" in guesses.metrics() else NONE
            ),
        }
        lines.append(Line(cells))
    return [Table("Further guesses, which fill no row above", lines)] if lines else []


def boxes_beside_paper(file: str | Path) -> str:
    """The paper's error for the protocol of a file of guesses, and what the file's are of.

    Returns:
        Two lines; nothing where no row of Tables 8 and 9 has the protocol.
    """
    stored = StoredGuesses([Path(file)])
    for row in stored.rows:
        papers = (
            f"top-1 {row.top1}% (Table 8)"
            if isinstance(row, BoxSettingRow)
            else f"top-5 {row.val}% (Table 9)"
        )
        return f"the paper's: {papers}\n{describe_data(stored)}"
    return ""


def _side(S: int | Sequence[int] | None) -> str:
    return f"[{S[0]};{S[1]}]" if isinstance(S, Sequence) else str(S)


def _sides(scales: Iterable[int]) -> str:
    return ",".join(map(str, scales))


def _models(row: FusionRow) -> str:
    models = [f"({arch}/{_side(S)}/{_sides(scales)})" for arch, S, scales in row.models]
    return "\n".join([*models, f"{METHODS[row.views]} eval."])


def further_table(stored: StoredScores) -> list[Table]:
    """A table of the stored scores that fill no row of Tables 3-7, if there are any."""
    used, lines = stored.used(), []
    for file, scores in ((f, scores) for f, scores in stored.files.items() if f not in used):
        errors = scores.metrics()
        cells = {
            "file": str(file),
            "tested": "\n".join(map(_protocol, scores.protocols)),
            "top-1 val.\nerror (%)": f"{errors['top1']:.1f}",
            "top-5 val.\nerror (%)": f"{errors['top5']:.1f}",
        }
        lines.append(Line(cells))
    return [Table("Further scores, which fill no row above", lines)] if lines else []


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


def describe_data(stored: StoredScores | StoredGuesses) -> str:
    """A line on what is tested; empty where nothing is stored."""
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


def as_text(tables: Sequence[Table], data: str = "", markdown: bool = False) -> str:
    """The tables for a terminal, or in Markdown; ``data`` is the line above them.

    Below them are the commands that make what they lack, to which their last columns refer.
    """
    commands = dict.fromkeys(
        command for table in tables for line in table.lines for command in line.commands
    )
    marks = {command: f"({i})" for i, command in enumerate(commands, 1)}
    blocks = [data] if data else []
    for table in tables:
        lacking = [" ".join(marks[command] for command in line.commands) for line in table.lines]
        rows = [[*table.lines[0].cells], *([*line.cells.values()] for line in table.lines)]
        if any(lacking):
            for row, cell in zip(rows, ["to make it\nrun", *lacking], strict=True):
                row.append(cell)
        if markdown:
            blocks += [f"**{table.caption}**", printing.as_markdown(rows)]
        else:
            blocks.append(f"{table.caption}\n{printing.as_text(rows, words=range(len(rows[0])))}")
    if marks:
        fence, gap = (["```"], "\n\n") if markdown else ([], "\n")
        listed = [*fence, *(f"{mark} {command}" for command, mark in marks.items()), *fence]
        blocks.append(f"To make what is lacking:{gap}" + "\n".join(listed))
    return "\n\n".join(blocks) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """The tables under one header, each line with the commands that it lacks."""
    rows = []
    for table in tables:
        for line in table.lines:
            cells = {_flat(column): _flat(cell) for column, cell in line.cells.items()}
            rows.append({"table": table.caption, **cells, "to make it": " && ".join(line.commands)})
    out = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(out, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(text: str) -> str:
    return " ".join(text.split())
