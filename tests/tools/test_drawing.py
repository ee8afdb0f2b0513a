"""What all drawings share: fonts for names in any script, and pictures that are gone."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from tools.analysis import drawing
from tools.analysis.drawing import draw, legible, show
from tools.analysis.svm import Result
from tools.analysis.svm import draw as draw_svm

CAT, DOG, GOAT = "猫", "犬", "ヤギ"
BOX = "\N{WHITE SQUARE}"


@pytest.fixture
def bare(monkeypatch):
    """A machine whose fonts are matplotlib's own."""
    own = [font for font in fontManager.ttflist if "matplotlib" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)


@pytest.fixture
def machine(bare, tmp_path):
    """A machine that has a font of its own for ``CAT`` and ``DOG``: filled squares."""
    pen = TTGlyphPen(None)
    for at, line in ((0, pen.moveTo), (1, pen.lineTo), (2, pen.lineTo), (3, pen.lineTo)):
        line([(0, 0), (0, 900), (900, 900), (900, 0)][at])
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(CAT): "square", ord(DOG): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    fontManager.addfont(tmp_path / "squares.ttf")


def test_names_that_the_machines_fonts_have(machine):
    families, names = legible(["cat", CAT, f"{DOG} dog"])
    assert families[1:] == ["Squares"] and names == ["cat", CAT, f"{DOG} dog"]
    assert legible(["cat", "$5 Größe", "é́"]) == (families[:1], ["cat", "$5 Größe", "é́"])


def test_names_that_no_font_has_get_their_classes_number(machine, bare):
    families, names = legible(["cat", CAT, f"{GOAT} goat"])
    assert families[1:] == ["Squares"]
    assert names == ["cat", CAT, f"2: {BOX}{BOX} goat"]
    assert legible([GOAT], [41])[1] == [f"41: {BOX}{BOX}"]


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0] < 128


def test_the_font_is_drawn_with(machine):
    ink = []
    for name in (CAT, "-"):
        figure = Figure((1, 1), dpi=100)
        figure.text(0.2, 0.3, name, fontsize=40, family=legible([CAT])[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "Glyph missing from font"
            ink.append(drawn(figure).sum())
    assert ink[0] > 2000 > 5 * ink[1]  # a square of 50 pixels a side


def test_every_drawing_has_legible_names(bare, tmp_path, monkeypatch):
    """Without a font, names of other scripts neither fail nor warn, and have numbers."""
    asked = []
    monkeypatch.setattr(
        "tools.analysis.drawing.legible", lambda *args: asked.append(legible(*args)) or asked[-1]
    )
    monkeypatch.setattr(
        "tools.analysis.svm.legible", lambda *args: asked.append(legible(*args)) or asked[-1]
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 50, 3), np.uint8))
    classes = ["cat", CAT, GOAT]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "a.png", [(GOAT, 0.9), ("cat", 0.1)], tmp_path / "b.png", classes)
        result = Result({"accuracy": np.ones(1)}, np.array(classes), confusion=np.eye(3))
        draw_svm(result, tmp_path / "c.png")
    assert asked[0][1] == [f"2: {BOX}{BOX}", "cat"]
    assert asked[1][1] == ["cat", f"1: {BOX}", f"2: {BOX}{BOX}"]
    assert all(cv2.imread(str(tmp_path / name)).std() > 10 for name in ("b.png", "c.png"))


def test_a_broken_font_is_passed_over(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert drawing._characters(str(tmp_path / "broken.ttf")) == frozenset()
    last = [font.fname for font in fontManager.ttflist if "Last Resort" in font.name]
    assert all(drawing._characters(path) == frozenset() for path in last)


def test_a_picture_that_is_gone_leaves_its_place(tmp_path):
    axes = Figure().subplots()
    with pytest.warns(UserWarning, match=r"not drawn: .*gone\.jpg: No such file"):
        show(axes, str(Path(tmp_path) / "gone.jpg"))
    assert [text.get_text() for text in axes.texts] == ["not readable"]
