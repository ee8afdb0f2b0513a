"""A document in Markdown, and the self-contained HTML page that is made of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt


def table(caption: str, rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table; its cells may hold line breaks.

    A row whose first cell alone is filled is a heading for those below it.

    Args:
        caption: Its name.
        rows: The first one is the header.
        note: What to see in it.
    """
    header, *body = (
        [cell.strip().replace("|", r"\|").replace("\n", "<br>") for cell in row] for row in rows
    )
    lines = (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))
    return "\n\n".join(filter(None, [f"**{caption}**", note, "\n".join(lines)]))


def figure(name: str, caption: str, note: str) -> str:
    """A figure.

    Args:
        name: The PNG's name, below the document's folder.
        caption: What it is.
        note: What to see in it.
    """
    return f"![{caption}]({name})\n\n**{caption}.** {note}"


def code(text: str) -> str:
    """Commands."""
    return f"```bash\n{text}\n```"


def as_html(title: str, markdown: str, folder: Path) -> str:
    """The document as one HTML page; wide tables scroll in boxes of their own on a phone.

    Args:
        title: The page's.
        markdown: The document.
        folder: Where its figures are, which are put into the page.
    """

    def inline(image: re.Match) -> str:
        data = base64.b64encode((folder / image[1]).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}"'

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    body = re.sub('<img src="(.+?)"', inline, body)
    body = body.replace("<table>", "<div class=box tabindex=0><table>")
    body = body.replace("</table>", "</table></div>").replace("<pre>", "<pre tabindex=0>")
    page = Template(Path(__file__).with_name("page.html").read_text())
    return page.substitute(title=escape(title), body=body)
