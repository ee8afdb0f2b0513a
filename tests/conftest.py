import gc
import os
import runpy
import shutil
import sys
from pathlib import Path

# Two workers share two cores: a thread each, and the same in what they start, for sums' order is
# the threads'.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from PIL import Image
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

from vgg_mm.cli.commands import commands
from vgg_mm.data.scenes import Settings, draw_scenes
from vgg_mm.upstream import FORMATTER

ROOT = Path(__file__).parents[1]
# Begun first, so that at the end no worker waits for another one's minute.
LONG = ["test_runs", "test_commands", "test_packaging", "test_protocols", "test_localise"]
LONG += ["test_signals", "test_box_runs", "test_classes", "test_benchmarks", "test_features"]


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium."""
    names = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip("no Chromium on the PATH, nor named by $CHROMIUM")


@pytest.fixture(scope="module")
def browser(chromium):
    """It, driven by Playwright, which the extras ``app`` and ``docs`` are tested with."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium)
        yield started
        started.close()


@pytest.fixture(scope="session")
def jpeg_tree(tmp_path_factory):
    """Two class folders of small JPEGs: ``train`` has four of each class, ``val`` two.

    No picture is like another, nor like its mirror image; all tests share them, so leave them be.
    """
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for color, name in enumerate(("red", "green")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                coarse = rng.integers(0, 128, (6, 8, 3), dtype=np.uint8)
                coarse[..., color] += 127
                size = (64 + 4 * i, 56) if i % 2 else (48, 64 + 4 * i)
                Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(
                    folder / f"{i}.jpg", quality=95
                )
    return root


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory):
    """Some of the demo's scenes: link ``data/demo`` to them, and the demo draws none."""
    return draw_scenes(tmp_path_factory.mktemp("few") / "scenes", Settings((1_024, 128, 0)), jobs=1)


@pytest.fixture(scope="session", autouse=True)
def plain_config_dumps():
    """mmengine formats the config's text at every log and checkpoint, for seconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FORMATTER, "FormatCode", lambda text, **_: (text, True))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_collections():
    """mmengine collects garbage for every data set: among what was imported it takes long."""
    gc.freeze()


@pytest.fixture
def tool(monkeypatch, capsys):
    """Calls a tool by its name, as if typed; returns what it prints."""

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        runpy.run_path(str(commands()[name]), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.fixture
def mistake(tool):
    """Calls a tool that must end in an error, and returns it."""

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            tool(*args)
        assert str(ended.value).startswith("error: ")
        return str(ended.value)

    return call
