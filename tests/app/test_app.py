"""The page of ``vgg-mm app``, used as a person uses it: in Chromium, without a network."""

import base64
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from vgg_mm import demo

ROOT = Path(__file__).parents[2]
expect.set_options(timeout=30_000)

DINO = demo.EXAMPLES / "dino_francesc.jpg"
# Drops a file, as the browser does that a person lets go of it over the page.
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), moved = new DataTransfer();
  moved.items.add(new File([bytes], name, {type}));
  const target = document.querySelector("button[aria-label^=Drop]");
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: moved, bubbles: true}));
}"""


@contextmanager
def nowhere():
    """A proxy that lets nothing through; yields its address, and who came."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    came.append(connection.recv(200))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page's address, served from an empty folder on a machine without a network."""
    cwd = tmp_path_factory.mktemp("cwd")
    with nowhere() as (proxy, came):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        env |= {key: proxy for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        env |= {"GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads")), "NO_PROXY": ""}
        command = [sys.executable, ROOT / "tools/app/app.py"]
        server = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
        try:
            line = next((line for line in server.stdout if "://" in line), "")
            assert (address := re.search(r"http://127\.0\.0\.1:\d+", line)), line
            yield address[0]
        finally:
            server.terminate()
            server.wait()
    assert not came and not list(cwd.iterdir())


@contextmanager
def opened(browser, address, **options):
    """The page in a window of its own, and what it asked the network for."""
    context = browser.new_context(**options)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("h1", has_text="vgg_mm")).to_be_visible()
    yield page
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    context.close()
    assert not elsewhere and not errors


def drop(page, name, data, kind="image/jpeg"):
    page.wait_for_selector("button[aria-label^=Drop]", state="attached")
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def first(page, view):
    """The most probable class of a view."""
    return page.locator(f"#{view} [data-testid=label-output-value]")


def test_an_image_is_dropped_and_a_scale_is_chosen(browser, served):
    with opened(browser, served, viewport=dict(width=1200, height=900)) as page:
        expect(page.get_by_text("Net A of Table 1, 12 channels in conv1_1; 64")).to_be_visible()
        expect(page.get_by_text("top1 error")).to_be_visible()
        drop(page, DINO.name, DINO.read_bytes())
        for view in ("dense", "crops"):
            expect(first(page, view)).to_have_text("dino_francesc")
            expect(page.locator(f"#{view} meter")).to_have_count(5)
            expect(page.locator(f"#{view}")).to_contain_text(re.compile(r"\d\.\d\d s"))
        maps = page.locator("#maps figure")
        expect(maps).to_have_count(3)
        expect(maps.nth(2)).to_contain_text("Q = 64: 10x15 windows, up to")
        before = page.locator("#dense").inner_text()
        page.get_by_label("64", exact=True).uncheck()
        expect(maps).to_have_count(2)
        expect(maps.nth(1)).to_contain_text("Q = 48")
        expect(page.locator("#dense")).not_to_have_text(before)
        page.get_by_label("32", exact=True).uncheck()
        page.get_by_label("48", exact=True).uncheck()
        expect(page.get_by_role("alert")).to_have_text("Choose one scale Q at least.")


def test_another_class_is_shown(browser, served):
    with opened(browser, served) as page:
        drop(page, DINO.name, DINO.read_bytes())
        caption = page.locator("#maps figure").nth(0)
        expect(caption).to_contain_text("Q = 32")
        before = caption.inner_text()
        chosen = page.get_by_role("combobox", name="Where is")
        expect(chosen).to_have_value("dino_francesc")
        chosen.fill("umbrella")
        chosen.press("Enter")
        expect(caption).not_to_have_text(before)
        expect(caption).to_contain_text("Q = 32")


def test_a_broken_file_is_told_and_the_page_goes_on(browser, served):
    with opened(browser, served) as page:
        for name, data, says in (
            (
                "cut.jpg",
                DINO.read_bytes()[:3000],
                "cut.jpg: the image is truncated (no end marker).",
            ),
            ("none.png", b"nothing", "none.png: not an image that OpenCV can decode."),
        ):
            drop(page, name, data)
            expect(page.get_by_role("alert")).to_have_text(says)
            expect(first(page, "dense")).to_have_count(0)
            page.get_by_label("Remove Image").click()
            expect(page.get_by_role("alert")).to_have_count(0)
        drop(page, DINO.name, DINO.read_bytes())
        expect(first(page, "dense")).to_have_text("dino_francesc")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_by_an_example(browser, served, scheme):
    phone = dict(viewport=dict(width=375, height=800), has_touch=True, is_mobile=True)
    with opened(browser, served, color_scheme=scheme, **phone) as page:
        page.locator(".gallery img").first.tap()
        expect(first(page, "crops")).to_have_text("dino_francesc")
        expect(page.locator("#maps figure").nth(0)).to_be_visible()
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width == [375, 375]
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, re.findall(r"\d+", paper)[:3])) < 3 * 128
        assert dark == (scheme == "dark")


def test_boxes_are_drawn_and_a_classifier_looks_at_crops():
    import torch
    from mmpretrain.registry import MODELS

    import vgg_mm
    from tools.app.page import Looking, make_page
    from vgg_mm.testing.localisation import Localizer

    classifier = vgg_mm.load("demo")
    head = {**classifier.config["head"], "type": "vgg_mm.BoxHead", "crop_size": 28}
    config = {**classifier.config, "head": head}
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    net = vgg_mm.Net(model, config, classifier.classes, classifier.protocol, classifier.pipeline)
    net.localizer = Localizer(model, classifier=classifier.model)
    looking = Looking(net)
    assert looking.views == ["dense", "crops"] and looking.has_maps
    label = classifier.classes.index(DINO.stem)
    for view in looking.views:
        expected = classifier.posteriors(DINO, view, [32, 48])[0].mean(0)
        assert torch.allclose(torch.tensor(looking.classes(str(DINO), view, [32, 48])), expected)
    found = looking.found(str(DINO), [32, 48])
    box, rating = found.boxes[label]
    assert (box >= 0).all() and (box <= [427, 320] * 2).all() and rating > 0
    html = looking.drawn(found, label)
    assert html.count("<img ") == 3 and f"the box; its rating is {rating:.2f}" in html
    without = next(i for i in range(64) if i not in found.boxes)
    assert looking.drawn(found, without).count("<img ") == 2
    assert "dense" in str(make_page(net, "boxes").config)
