"""The dense class score map, drawn over its picture."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from whole_strides import whole_strides

from tools.analysis.score_maps import draw_score_maps, place
from vgg_mm.api import load
from vgg_mm.data import read_image, rescale

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/analysis/score_map.py"
CONFIG = ROOT / "tests/crops_of_64.py"
CLASSES = ["ant", "bee", "costs $5, not $6", "dog", "elk", "fox", "gnu", "hen"]
OPTIONS = {"model.backbone.width": 4, "model.head.in_channels": 32, "model.head.channels": 16}
SMALL = ["--cfg-options", *(f"{key}={value}" for key, value in OPTIONS.items())]
HEADLESS = f"""
_base_ = {str(CONFIG)!r}
model = dict(
    backbone=dict(width=4),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(_delete_=True, type="LinearClsHead", num_classes=8, in_channels=32),
)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(cfg, seed=0):
    init_default_scope("mmpretrain")
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    torch.save(
        {"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}},
        "net.pth",
    )
    return model


@pytest.fixture
def cfg():
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(OPTIONS)
    return cfg


@pytest.fixture
def model(cfg):
    return save(cfg)


@pytest.fixture
def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (10, 24, 3), np.uint8)
    cv2.imwrite("wide.png", cv2.resize(coarse, (240, 100)))
    return "wide.png"


@pytest.fixture
def tool(tool):
    return partial(tool, "score_map")


@pytest.mark.parametrize(("kernel", "s"), [(1, 32), (2, 32), (7, 32), (2, 4), (7, 4)])
def test_values_lie_in_the_middle_of_their_windows(kernel, s):
    h, w = 3, 5
    top, left = s // 8, s // 2 - 1  # left unseen
    height, width = s * (h + kernel - 1) + 2 * top, s * (w + kernel - 1) + 2 * left + 1
    ramp = np.add.outer(100 * np.arange(h), np.arange(w)).astype(np.float32)
    placed = place(ramp, height, width, kernel, s)
    assert placed.shape == (height, width)
    for i in range(h):
        for j in range(w):
            y, x = top + s * i + s * kernel // 2, left + s * j + s * kernel // 2
            around = placed[y - 1 : y + 1, x - 1 : x + 1].mean()  # the centre is their corner
            assert around == pytest.approx(ramp[i, j], abs=32 / s)
    filled = np.argwhere(~np.isnan(placed))
    top, left = (side + s * (kernel - 1) // 2 for side in (top, left))
    assert filled.min(0).tolist() == [top, left]
    assert filled.max(0).tolist() == [top + s * h - 1, left + s * w - 1]
    assert len(filled) == s * h * s * w


def test_the_net_looks_where_the_map_is_drawn(model):
    """What moves the score at (i, j) has its middle where ``place`` puts the score."""
    x = torch.randn(4, 3, 192, 256, requires_grad=True)
    scores = model.head.score_map(model.extract_feat(x))  # (4, classes, 5, 7)
    for i, j in ((2, 1), (1, 4)):
        (gradient,) = torch.autograd.grad(scores[:, :, i, j].abs().sum(), x, retain_graph=True)
        weight = gradient.abs().sum((0, 1))
        y = (weight.sum(1) * (torch.arange(192) + 0.5)).sum() / weight.sum()
        x_ = (weight.sum(0) * (torch.arange(256) + 0.5)).sum() / weight.sum()
        cells = np.zeros((5, 7), np.float32)
        cells[i, j] = 1
        peak = np.argwhere((p := place(cells, 192, 256, 2, 32)) == np.nanmax(p)).mean(0) + 0.5
        assert abs(y - peak[0]) < 6 and abs(x_ - peak[1]) < 6


def test_maps_are_the_heads_softmax_at_every_position(cfg, model, picture):
    maps = load(cfg, "net.pth").score_map(picture, scales=[64, 100])
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).float() for key in ("mean", "std"))
    for Q, posteriors in zip([64, 100], maps, strict=True):
        rgb = rescale(read_image(picture), Q)[..., ::-1]
        x = (torch.from_numpy(whole_strides(rgb).astype(np.float32)) - mean) / std
        with torch.no_grad():
            scores = model.head.score_map(model.backbone(x.permute(2, 0, 1)[None]))[0]
        expected = scores.exp() / scores.exp().sum(0)
        assert np.allclose(posteriors, expected, atol=1e-5)
        assert posteriors.shape == (8, Q // 32 - 1, rgb.shape[1] // 32 - 1)
    assert np.ptp(maps[1].numpy(), axis=(1, 2)).max() > 1e-3  # the positions differ


def test_drawn_are_the_maps_of_the_most_probable_classes(cfg, model, picture, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "tools.analysis.score_maps.place",
        lambda cells, *rest: drawn.append(cells) or place(cells, *rest),
    )
    net = load(cfg, "net.pth")
    named = draw_score_maps(net, picture, 3, "drawn.png")
    assert named == net.predict(picture, 3)
    (posteriors,) = net.score_map(picture)
    expected = [posteriors[CLASSES.index(name)].numpy() for name, _ in named]
    assert np.array_equal(drawn, expected) and len(np.unique(drawn)) > 3


def test_tool_draws_a_row_a_class_and_a_column_a_scale(cfg, model, picture, tool):
    sizes = {}
    for top, scales in ((1, [64]), (3, [64]), (3, [64, 96])):
        options = ["--top", top, "--scales", *scales, "--out", "a/b.png", *SMALL]
        out = tool(CONFIG, "net.pth", picture, *options)
        named = load(cfg, "net.pth").predict(picture, top, scales=scales)
        assert out.splitlines() == [
            *(f"{value:8.2%}  {name}" for name, value in named),
            "Drawn in a/b.png",
        ]
        drawn = cv2.imread("a/b.png")
        assert drawn.std() > 10
        sizes[top, len(scales)] = drawn.shape[:2]
    assert sizes[3, 1][0] > 2 * sizes[1, 1][0] and sizes[3, 1][1] == sizes[1, 1][1]
    assert sizes[3, 2][1] == 1.5 * sizes[3, 1][1]
    assert abs(sizes[3, 2][0] - sizes[3, 1][0]) < 9  # the aspect of whole pixels differs


def test_without_options_it_is_at_the_configs_scale(model, picture, tool):
    assert len(tool(CONFIG, "net.pth", picture, *SMALL).splitlines()) == 4
    assert cv2.imread("score_map.png") is not None


def test_mistakes(model, picture, tool):
    Path("cut.png").write_bytes(Path(picture).read_bytes()[:-20])
    Path("folder").mkdir()
    for args, says in {
        ("none.jpg", *SMALL): "no image none.jpg",
        ("folder", *SMALL): "no image folder",
        ("cut.png", *SMALL): "cut.png: the image is truncated",
        (picture, "--top", 0, *SMALL): "--top 0: show 1 to 20 classes",
        (picture, "--scales", 40, *SMALL): "shortest side must be at least 2 times",
        (picture, "--scales", 0, *SMALL): "MultiScale: each scale must be a number of pixels",
        (picture, "--out", "folder", *SMALL): "folder could not be written (Is a directory)",
    }.items():
        with pytest.raises(SystemExit) as ended:
            tool(CONFIG, "net.pth", *args)
        assert str(ended.value).startswith("error: ") and says in str(ended.value)


def test_a_net_without_a_score_map_is_refused(picture, tool):
    Path("other.py").write_text(HEADLESS)
    save(Config.fromfile("other.py"))
    with pytest.raises(SystemExit, match="error: a LinearClsHead has no class score map: use"):
        tool("other.py", "net.pth", picture)
