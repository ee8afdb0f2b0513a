"""A document in blocks, from which templates make Markdown and one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands between backticks is code."""

    text: str


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

    def base64(self) -> str:
        """The file's bytes, to be put into the page."""
        return base64.b64encode((self.folder / self.name).read_bytes()).decode()


@dataclass(frozen=True)
class Code:
    """Commands."""

    text: str


Block = Heading | Text | Grid | Picture | Code


def as_markdown(blocks: Sequence[Block]) -> str:
    """The document in Markdown; its pictures stay beside it."""
    return _render("report.md", blocks=blocks)


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one HTML page, pictures included."""
    return _render("report.html", title=title, blocks=blocks)


def _render(template: str, blocks: Sequence[Block], **values: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "lines": _lines, "cell": _cell}
    named = [(type(block).__name__, block) for block in blocks]
    return environment.get_template(template).render(blocks=named, **values)


def _code(text: str) -> Markup:
    """Text as HTML; what stands between backticks is code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))


def _lines(text: str) -> Markup:
    """A cell's text as HTML."""
    return Markup("<br>").join(text.strip().split("\n"))


def _cell(text: str) -> str:
    """A cell's text in Markdown."""
    return text.strip().replace("|", r"\|").replace("\n", "<br>")
