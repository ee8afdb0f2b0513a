"""What makes a site of pages that GitHub shows as they are: mkdocs' hooks, and griffe's."""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"\[(?:docs/)?([\w/]+\.md)\](?=\()")  # a link whose text is a page's file
LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(?=\))")
ROLE = re.compile(r":\w+:`~?([\w.]+)`")
INNER = re.compile(r"__call__|(before|after)_\w+")  # methods that others call
FENCED = re.compile(r"(^ *```.*?^ *```)", re.M | re.S)


def on_files(files, config):
    """Adds what is no page in docs/: the README, and the notebook with its images."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    text, resources = MarkdownExporter().from_filename(ROOT / "docs/first_steps.ipynb")
    files.append(File.generated(config, "first_steps.md", content=text))
    for name, image in resources["outputs"].items():
        files.append(File.generated(config, name, content=image))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links of GitHub's to the site's pages or, out of docs/, to the repository."""
    readme = page.file.src_uri == "index.md"
    folder = "" if readme else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def lead(found):
        path = posixpath.normpath(posixpath.join(folder, found[2]))
        inside = path.removeprefix("docs/").replace(".ipynb", ".md")
        if files.get_file_from_path(inside) and path.startswith("docs/"):
            start = posixpath.dirname(page.file.src_uri) or "."
            return f"{found[1]}{posixpath.relpath(inside, start)}{found[3] or ''}"
        return f"{found[1]}{config.repo_url.rstrip('/')}/blob/main/{path}{found[3] or ''}"

    titles = {path: title for title, path in _titles(config.nav)}
    markdown = NAMED.sub(lambda found: f"[{titles.get(found[1], found[1])}]", markdown)
    parts = FENCED.split(markdown)  # text, code, text ...
    return "".join(part if i % 2 else LINK.sub(lead, part) for i, part in enumerate(parts))


def _titles(nav):
    for section in nav:
        for title, inside in section.items():
            yield from _titles(inside) if isinstance(inside, list) else [(title, inside)]


class Docstrings(griffe.Extension):
    """Links instead of Sphinx's roles, where there is something to link to; no hooks' methods."""

    def on_instance(self, *, obj, **_):
        """Looks at an object once its source is read."""
        if obj.docstring:
            link = r'<autoref optional identifier="\1"><code>\1</code></autoref>'
            obj.docstring.value = ROLE.sub(link, obj.docstring.value)
        if INNER.fullmatch(obj.name):
            obj.public = False
