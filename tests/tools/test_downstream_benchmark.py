"""Detectors and segmenters learn from scenes, as the benchmark trains them."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
from mmengine.registry import MODELS, init_default_scope

from tools.benchmarks import downstream
from vgg_mm.data.scenes import draw_scenes

MISSING = [name for name in ("mmdet", "mmseg") if not find_spec(name)]
pytestmark = [
    pytest.mark.downstream,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: see docs/downstream.md"),
]
FEWER = replace(downstream.SCENES, images=(32, 8, 0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "scenes", FEWER, jobs=1)


@pytest.mark.parametrize("name", downstream.SMALL)
def test_its_loss_halves(name, scenes, tmp_path):
    steps = 150 if name == "fcn32s_vgg16" else 90  # it only sees the coarsest map
    cfg = downstream.config(name, False, scenes, steps, tmp_path)
    if cfg.default_scope == "mmdet":
        cfg.train_dataloader.batch_size = 4  # an image takes twice the time
    runner = downstream.train(cfg)
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    assert losses[-10:].mean() < losses[:2].mean() / 2, losses


def test_the_stock_ssd_is_the_same_net(scenes, tmp_path):
    shapes = []
    for stock in downstream.SIDES:
        cfg = downstream.config("ssd300_vgg16", stock, scenes, 1, tmp_path)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        if stock:
            downstream.narrow_ssdvgg(model.backbone)
        shapes.append(sorted(tuple(weight.shape) for weight in model.parameters()))
    assert shapes[0] == shapes[1]


def test_the_command_goes_on_after_the_last_that_ended(scenes, tmp_path, tool, monkeypatch):
    monkeypatch.setattr(downstream, "SCENES", FEWER)
    (tmp_path / "scenes").symlink_to(scenes)
    typed = ["benchmark", "downstream", "--steps", 2, "--out", tmp_path, "--markdown", "--nets"]
    tool(*typed, "faster_rcnn_vgg16_c4")
    kept = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in kept] == [
        f"faster_rcnn_vgg16_c4{side}_2_steps" for side in ("", "_stock")
    ]
    kept[0].write_text(json.dumps({**json.loads(kept[0].read_text()), "value": 0.123}))
    monkeypatch.setattr(downstream, "train", None)  # nothing is left to do
    table = tool(*typed, "faster_rcnn_vgg16_c4").splitlines()
    assert len(table) == 3
    assert table[2].startswith("| faster_rcnn_vgg16_c4 | mAP@50 | 0.123 | 0.0")
