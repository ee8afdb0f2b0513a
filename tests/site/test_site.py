"""The documentation as a site: built strictly, and looked at as its readers do."""

import os
import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import numpy as np
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from nbclient import NotebookClient

import vgg_mm

ROOT = Path(__file__).parents[2]
CODE = "https://github.com/someone/vgg_mm"  # where a repository is most often
NOTEBOOK = ROOT / "docs/first_steps.ipynb"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The built site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config("mkdocs.yml", strict=True, site_dir=str(folder), repo_url=CODE)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def page(request, browser, address):
    """A page of a browser that notes what goes wrong, and what is asked of other machines."""
    page = browser.new_page(color_scheme=getattr(request, "param", "light"))
    page.wrong = []
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("requestfailed", lambda request: page.wrong.append(request.url))
    page.on(
        "request",
        lambda asked: page.wrong.append(asked.url) if address not in asked.url else None,
    )
    yield page
    page.close()


def pages(folder):
    return sorted(path.parent.relative_to(folder) for path in folder.rglob("index.html"))


# How bright the page's ground is, from 0 to 255, and what sticks out to the right of the window.
LOOK = """() => {
    const ground = getComputedStyle(document.body).backgroundColor;
    const [r, g, b] = ground.match(/[\\d.]+/g).map(Number);
    const inside = e => e.closest("pre, .highlight, .md-typeset__scrollwrap");
    const wide = [...document.querySelectorAll(".md-content *")].filter(
        e => !inside(e) && e.getBoundingClientRect().right > innerWidth + 1);
    return {
        bright: (r + g + b) / 3, scrolls: document.documentElement.scrollWidth > innerWidth,
        wide: wide.map(e => e.outerHTML.slice(0, 90)),
        headings: document.querySelectorAll("h1").length,
        missing: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    };
}"""


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_every_page_on_a_desk_and_on_a_phone(request, folder, address, page):
    light = "[light]" in request.node.name
    found = pages(folder)
    assert len(found) > 15
    for name in found:
        page.goto(f"{address}/{name}/")
        for width in (1280, 375):
            page.set_viewport_size(dict(width=width, height=800))
            seen = page.evaluate(LOOK)
            assert (seen["bright"] > 200) == light, name
            assert not seen["scrolls"] and not seen["wide"] and not seen["missing"], (name, seen)
            assert seen["headings"] == 1, name
    assert page.wrong == []


def test_the_search_finds_an_answer(address, page):
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("BGR")
    page.locator(".md-search-result__link", has_text="Questions").first.click()
    page.wait_for_url("**/faq/**")
    assert page.wrong == []


def test_links_to_the_code_lead_to_files(folder):
    links = set()
    for path in folder.rglob("index.html"):
        links |= set(re.findall(rf'href="{CODE}/blob/main/([^"#]+)', path.read_text()))
    assert len(links) > 30
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []


def test_the_reference_has_all_public_names(folder):
    text = (folder / "api/index.html").read_text()
    anchors = set(re.findall(r'id="(vgg_mm\.[\w.]+)"', text))
    assert {f"vgg_mm.{name}" for name in vgg_mm.__all__} <= anchors
    assert [name for name in anchors if re.search(r"\._(?!_)", name)] == []
    assert ":class:" not in text and ":func:" not in text


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, executed in an empty folder as a reader would."""
    folder, notebook = tmp_path_factory.mktemp("notebook"), nbformat.read(NOTEBOOK, 4)
    where = dict(metadata=dict(path=str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        NotebookClient(notebook, timeout=300, resources=where).execute()
    return folder, notebook


def said(notebook):
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    return "".join(each.get("text", "") for each in outputs)


def test_the_notebook_gives_what_it_promises(executed):
    folder, notebook = executed
    files = sorted((folder / "work_dirs/first_steps/mine/val").rglob("*.JPEG"))
    features = np.load(folder / "features.npy")
    assert features.shape == (len(files), 256) and np.allclose((features**2).sum(1), 1, atol=1e-4)
    errors = [float(error) for error in re.findall(r"'top1': ([\d.]+)", said(notebook))]
    assert len(errors) == 3 and max(errors) < 25  # chance is 50%
    first, *_, last = map(float, re.findall(r"step \d+: ([\d.]+)", said(notebook)))
    assert last < 0.8 * first
    assert len(vgg_mm.load(folder / "my-net").predict(files)) == len(files)


def test_the_notebook_is_shown_with_its_outputs():
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert cell.execution_count and all(out.output_type != "error" for out in cell.outputs)
    assert "'top1'" in said(nbformat.read(NOTEBOOK, 4))
