"""A document in blocks, which are Markdown and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: break-word; color: #1c2126; background: #fff; }
h1, h2, h3 { line-height: 1.2; }
.box { overflow-x: auto; margin: 0.3rem 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.caption { font-weight: 600; margin: 1.2rem 0 0; }
.note { margin: 0; }
figure { margin: 1.5rem 0; }
th, td { border-bottom: 1px solid #d5dade; padding: 0.25rem 0.6rem; text-align: left;
  vertical-align: top; white-space: nowrap; }
td.long { white-space: normal; min-width: 8rem; }
td.part { white-space: normal; font-weight: 600; padding-top: 0.7rem; }
pre { overflow-x: auto; background: #f3f5f7; padding: 0.7rem; font-size: 0.8rem; }
@media (max-width: 30rem) { th, td { padding: 0.25rem 0.3rem; } td.long { min-width: 6rem; } }
img { max-width: 100%; height: auto; }
"""


def _code(text: str) -> str:
    """Text as HTML; what stands between backticks is code."""
    return re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text))


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int = 2

    def markdown(self) -> str:
        """As Markdown."""
        return f"{'#' * self.level} {self.text}"

    def html(self) -> str:
        """As HTML."""
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return self.text

    def html(self) -> str:
        """As HTML."""
        return f"<p>{_code(self.text)}</p>"


@dataclass(frozen=True)
class Grid:
    """A table; cells may hold line breaks. On a phone it scrolls in a box of its own.

    A row whose first cell alone is filled is a heading for those below it.

    Attributes:
        caption: Its name.
        rows: The first one is the header.
        note: What to see in it.
    """

    caption: str
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown."""
        rows = [[c.strip().replace("|", r"\|").replace("\n", "<br>") for c in row]
                for row in self.rows]  # fmt: skip
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        note = f"{self.note}\n\n" if self.note else ""
        table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
        return f"**{self.caption}**\n\n{note}{table}"

    def html(self) -> str:
        """As HTML."""

        def line(row: Sequence[str], tag: str) -> str:
            if tag == "td" and not any(row[1:]):  # a heading within the table
                return f"<tr><td class=part colspan={len(row)}>{html.escape(row[0])}</td></tr>"
            cells = (
                f"<{tag}{' class=long' if max(map(len, cell.split(chr(10)))) > 24 else ''}>"
                f"{html.escape(cell.strip()).replace(chr(10), '<br>')}</{tag}>"
                for cell in row
            )
            return f"<tr>{''.join(cells)}</tr>"

        body = "\n".join(line(row, "td") for row in self.rows[1:])
        note = f"<p class=note>{html.escape(self.note)}</p>\n" if self.note else ""
        return (
            f"<p class=caption>{html.escape(self.caption)}</p>\n{note}"
            "<div class=box tabindex=0><table>\n"
            f"<thead>{line(self.rows[0], 'th')}</thead>\n<tbody>{body}</tbody></table></div>"
        )


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        folder: The document's.
        name: The PNG's, below it.
        caption: What it is.
        note: What to see in it.
    """

    folder: Path
    name: str
    caption: str
    note: str

    def markdown(self) -> str:
        """As Markdown."""
        return f"![{self.caption}]({self.name})\n\n**{self.caption}.** {self.note}"

    def html(self) -> str:
        """As HTML."""
        data = base64.b64encode((self.folder / self.name).read_bytes()).decode()
        text = html.escape(self.caption)
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
            f"<figcaption><b>{text}.</b> {html.escape(self.note)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Code:
    """Commands."""

    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return f"```bash\n{self.text}\n```"

    def html(self) -> str:
        """As HTML."""
        return f"<pre tabindex=0>{html.escape(self.text)}</pre>"


Block = Heading | Text | Grid | Picture | Code


def as_markdown(blocks: Sequence[Block]) -> str:
    """The document in Markdown; its pictures stay beside it."""
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one HTML page, pictures included."""
    body = "\n".join(block.html() for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )
