"""Tables: for a terminal, plain where the output is piped, and in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

Rows = Sequence[Sequence[str]]  # the first is the header; cells may hold line breaks


def as_text(rows: Rows, words: Collection[int] = (0,)) -> str:
    """Aligned columns, the header bold on a terminal.

    Args:
        rows: The header, then the lines.
        words: The columns of words, which begin at the left; numbers end at the right.

    Returns:
        The table's lines, however wide.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, title in enumerate(rows[0]):
        table.add_column(title, justify="left" if i in words else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    # As wide as it may get: lines are neither folded nor cut.
    console = Console(width=10_000, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def as_markdown(rows: Rows) -> str:
    """The table in Markdown."""
    header, *lines = (
        [cell.strip().replace("|", r"\|").replace("\n", "<br>") for cell in row] for row in rows
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *lines])
