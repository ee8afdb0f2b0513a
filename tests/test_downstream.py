"""The configs for mmdetection and mmsegmentation, through their own Runner."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from on_cuda import on_cuda
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

MISSING = [name for name in ("mmdet", "mmseg") if not find_spec(name)]
pytestmark = [
    pytest.mark.downstream,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: see docs/downstream.md"),
]
if not MISSING:
    from mmseg.structures import SegDataSample
    from small_downstream import CHECKPOINT, CONFIGS, load, run, small, write_checkpoint, write_data

ROOT = Path(__file__).parents[1]
# The maps that the heads see of an image of this side, and the shape of fc6.
EXPECTED = {
    "faster_rcnn_vgg16_c4": (320, [(512, 20)], (4096, 512, 7, 7)),
    "faster_rcnn_vgg16_fpn": (320, [(256, 80), (256, 40), (256, 20), (256, 10), (256, 5)], None),
    "ssd300_vgg16": (
        300,
        [(512, 38), (1024, 19), (512, 10), (256, 5), (256, 3), (256, 1)],
        (1024, 512, 3, 3),
    ),
    "fcn32s_vgg16": (320, [(4096, 10)], (4096, 512, 7, 7)),
    "fcn16s_vgg16": (320, [(512, 20), (4096, 10)], (4096, 512, 7, 7)),
    "fcn8s_vgg16": (320, [(256, 40), (512, 20), (4096, 10)], (4096, 512, 7, 7)),
    "deeplab_largefov_vgg16": (321, [(1024, 41)], (1024, 512, 3, 3)),
}
FROZEN = ("faster_rcnn_vgg16_c4", "faster_rcnn_vgg16_fpn")
ALL = pytest.mark.parametrize("name", EXPECTED)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("downstream")
    write_data(root)
    write_checkpoint(root)
    return root


@pytest.fixture(autouse=True)
def in_world(world, monkeypatch):
    monkeypatch.chdir(world)


@pytest.fixture(scope="module")
def trained(world):
    """Trains a config once: its Runner, its losses and its last checkpoint."""
    runs = {}

    def train(name):
        if name not in runs:
            runner, losses = run(small(name, 16, world / "work_dirs" / name))
            runs[name] = runner, losses, world / "work_dirs" / name / "iter_16.pth"
        return runs[name]

    return train


def build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def fc_layers(model):
    """The module of the model that holds fc6 and fc7."""
    found = [m for m in model.modules() if isinstance(getattr(m, "fc6", None), nn.Conv2d)]
    assert len(found) <= 1
    return found[0] if found else None


def same(a, b):
    """Whether two predictions are the same tensors."""
    kind = "pred_instances" if "pred_instances" in a else "seg_logits"
    a, b = getattr(a, kind), getattr(b, kind)
    return all(value.numel() and torch.equal(value, b.get(key)) for key, value in a.items())


def test_there_is_no_other_config():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*EXPECTED}


@ALL
def test_the_maps_at_full_size(name):
    cfg = load(name)
    side, maps, fc6 = EXPECTED[name]
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        feats = MODELS.build(cfg.model.backbone)(torch.empty(1, 3, side, side))
        parts = [cfg.model.get("neck"), cfg.model.get("roi_head", {}).get("shared_head")]
        neck, shared_head = (MODELS.build(part).to("meta") if part else None for part in parts)
        feats = neck(feats) if neck else feats
    assert [(out.shape[1], out.shape[2]) for out in feats] == maps
    layers = fc_layers(neck or shared_head)
    assert (tuple(layers.fc6.weight.shape) if layers else None) == fc6


@ALL
def test_loads_the_classifiers_layers(name):
    model = build(small(name, 1, "."))
    model.init_weights()
    source = torch.load(CHECKPOINT)["state_dict"]
    convs = dict(model.backbone.named_parameters())
    assert {layer.split(".")[0] for layer in convs if "conv" in layer} == {
        key.split(".")[1] for key in source if key.startswith("backbone.")
    }
    for key, value in convs.items():
        assert torch.equal(value, source[f"backbone.{key}"]), key
    layers, expected = fc_layers(model), EXPECTED[name][2]
    assert (layers is None) == (expected is None)
    if layers:
        every, pixels = 4096 // expected[0], slice(None, None, 3 if expected[2] == 3 else 1)
        for key, value in layers.named_parameters():
            theirs = source[f"head.{key}"][::every]
            if value.dim() > 1:
                inputs = every if key.startswith("fc7") else 1
                theirs = theirs[:, ::inputs, pixels, pixels]
            assert torch.equal(value, theirs), key


@ALL
def test_trains_predicts_saves_and_loads(name, trained, tmp_path):
    runner, losses, checkpoint = trained(name)
    assert sum(losses[-4:]) / 4 < 0.8 * sum(losses[:2]) / 2, losses
    source = torch.load(CHECKPOINT)["state_dict"]
    for layer in ("conv1_1", "conv2_2", "conv3_1"):
        kept = torch.equal(
            runner.model.backbone.get_submodule(layer).weight, source[f"backbone.{layer}.weight"]
        )
        assert kept == (name in FROZEN and layer != "conv3_1"), layer

    cfg = small(name, 16, tmp_path)
    cfg.load_from = str(checkpoint)
    again = Runner.from_cfg(cfg)
    assert again.test().keys() == runner.val_loop.run().keys()
    data = next(iter(runner.val_dataloader))
    runner.model.eval()
    with torch.no_grad():
        (one,), (other,) = runner.model.test_step(data), again.model.test_step(data)
    assert same(one, other)


@pytest.mark.parametrize(("name", "package"), [("ssd300_vgg16", "mmdet"), ("fcn8s_vgg16", "mmseg")])
def test_their_own_tool_tests_the_checkpoint(name, package, trained, tmp_path):
    checkpoint = trained(name)[2]
    small(name, 16, tmp_path).dump(tmp_path / "config.py")
    tool = Path(find_spec(package).origin).with_name(".mim") / "tools/test.py"
    command = [tool, tmp_path / "config.py", checkpoint, "--work-dir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Iter(test) [4/4]" in done.stdout + done.stderr


INFER = """
import sys
from mmengine import Config
config, weights, picture = sys.argv[1:]
if "mmdet" == Config.fromfile(config, import_custom_modules=False).default_scope:
    from mmdet.apis import DetInferencer as Inferencer
else:
    from mmseg.apis import MMSegInferencer as Inferencer
assert not any(name.startswith("vgg_mm") for name in sys.modules)
for model in (None, config):  # the first knows the net by its checkpoint alone
    if model or Inferencer.__name__ == "DetInferencer":
        result = Inferencer(model, weights, device="cpu")(picture)["predictions"]
        assert len(result[0]["scores"]) if isinstance(result, list) else result.max() < 21
"""


@ALL
def test_their_inferencers_load_what_a_config_trained(name, trained, tmp_path):
    checkpoint = trained(name)[2]
    saved = torch.load(checkpoint, weights_only=True)
    kinds = set()

    def visit(value):
        kinds.add(type(value))
        values = value.items() if isinstance(value, dict) else ()
        for item in [*sum(values, ()), *(value if isinstance(value, list | tuple) else ())]:
            visit(item)

    visit({key: saved[key] for key in saved.keys() - {"state_dict", "optimizer"}})
    assert kinds <= {dict, list, tuple, str, int, float, bool, torch.Tensor, type(None)}
    small(name, 16, tmp_path).dump(tmp_path / "config.py")
    picture = "data/coco/val2017/0.jpg"
    command = [sys.executable, "-W", "ignore", "-c", INFER, tmp_path / "config.py", checkpoint]
    done = subprocess.run(
        [*map(str, command), picture],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_of_theirs_resumes_with_its_history(trained, tmp_path):
    runner, _, checkpoint = trained("fcn32s_vgg16")
    cfg = small("fcn32s_vgg16", 18, tmp_path)
    cfg.load_from, cfg.resume = str(checkpoint), True
    again, losses = run(cfg)
    assert len(losses) == 2 and again.iter == 18
    history, _ = again.message_hub.get_scalar("train/loss").data
    assert len(history) == 18
    assert np.array_equal(history[:16], runner.message_hub.get_scalar("train/loss").data[0][:16])


@pytest.mark.parametrize("name", ["fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16"])
@pytest.mark.parametrize("size", [(31, 300), (20, 17), (1, 1), (33, 64)])
@torch.no_grad()
def test_pictures_of_any_size_are_segmented(name, size):
    cfg = small(name, 1, ".")
    model = build(cfg).eval()
    picture = torch.randint(256, (3, *size), dtype=torch.uint8)
    (sample,) = model.test_step(
        dict(
            inputs=[picture],
            data_samples=[
                SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size))
            ],
        )
    )
    assert sample.pred_sem_seg.data.shape == (1, *size)
    assert sample.seg_logits.data.isfinite().all()


def test_two_processes(world, tmp_path):
    names = ("ssd300_vgg16", "fcn8s_vgg16")
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    script = Path(__file__).with_name("small_downstream.py")
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", str(script), str(tmp_path), "12", *names],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for losses in json.loads(done.stdout.splitlines()[-1]).values():
        assert len(losses) == 12
        assert sum(losses[-4:]) / 4 < 0.8 * sum(losses[:2]) / 2, losses


# FCN's skips.


def test_fcn16s_begins_with_fcn32s_scores():
    from mmseg.models.utils import resize

    fcn32s, fcn16s = (build(small(name, 1, ".")) for name in ("fcn32s_vgg16", "fcn16s_vgg16"))
    fcn32s.init_weights()
    fcn16s.init_weights()
    new = fcn16s.load_state_dict(fcn32s.state_dict(), strict=False).missing_keys
    assert {key.split(".")[1] for key in new} == {"scores", "upsamplings"}
    image = 50 * torch.randn(1, 3, 208, 176)  # pool4 is 13x11: twice pool5's 7x6, less one
    with torch.no_grad():
        coarse = fcn32s.eval().decode_head(fcn32s.extract_feat(image))
        fine = fcn16s.eval().decode_head(fcn16s.extract_feat(image))
    assert (coarse.shape[2:], fine.shape[2:]) == ((7, 6), (13, 11))
    assert coarse.std() > 0
    expected = resize(coarse, size=(14, 12), mode="bilinear", align_corners=False)
    assert torch.allclose(fine[..., 1:, 1:], expected[..., 1:13, 1:11], atol=1e-5)


def test_the_skips_start_on_the_nets_device(monkeypatch):
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = build(small("fcn8s_vgg16", 1, ".")).decode_head
    # mmengine's logs what it sees, and here is nothing to see.
    monkeypatch.setattr(BaseDecodeHead, "init_weights", lambda self: None)
    with FakeTensorMode():
        on_cuda(head).init_weights()
    assert all(weight.device.type == "cuda" for weight in head.upsamplings.parameters())


@pytest.mark.parametrize("sizes", [((9, 7), (4, 3), (2, 1)), ((7, 5), (4, 3), (2, 2))])
@torch.no_grad()
def test_the_skip_head_adds_the_scores_of_all_maps(sizes):
    head = build(small("fcn8s_vgg16", 1, ".")).decode_head.eval()
    torch.manual_seed(0)
    for value in head.parameters():
        nn.init.normal_(value, std=0.1)
    maps = [torch.randn(2, n, *size) for n, size in zip((32, 64, 512), sizes, strict=True)]
    x = F.conv2d(maps[2], head.conv_seg.weight, head.conv_seg.bias)
    for i in (1, 0):
        up, score = head.upsamplings[i], head.scores[i]
        h, w = sizes[i]
        x = F.conv_transpose2d(x, up.weight, stride=2, padding=1, output_padding=1)[..., :h, :w]
        x = x + F.conv2d(maps[i], score.weight, score.bias)
    assert torch.allclose(head(maps), x, atol=1e-5)


# Upstream.


def test_mmdets_ssd_head_still_lacks_loss_cls(monkeypatch):
    """When this fails, vgg_mm/upstream_mmdet.py and its import in the config can go."""
    from mmdet.models import SSDHead

    import vgg_mm.upstream_mmdet  # noqa: F401

    assert SSDHead.loss_cls is None
    monkeypatch.delattr(SSDHead, "loss_cls")
    assert not hasattr(build(Config(load("ssd300_vgg16").to_dict())).bbox_head, "loss_cls")
