"""Weights for other libraries, and back."""

import json
import re
import resource
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from mmengine import Config
from mmpretrain.registry import MODELS
from PIL import Image
from small_nets import (
    CLASSES,
    HIDDEN,
    ROOT,
    SIDE,
    WIDTH,
    close,
    image,
    lively,
    mmpretrain_net,
    onnx_graph,
    our_logits,
    prepared,
    timm_net,
    torchvision_net,
)

import vgg_mm
from tools.weights.formats import save
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.weights.onnx import INPUT_KEY

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(arch={arch!r}, width={width}, norm_cfg={norm}),
    head=dict(num_classes={classes}, in_channels={channels}, channels={hidden}, kernel_size={side}),
    data_preprocessor={preprocessor},
)
"""


def trained(folder, arch, norm=None, preprocessor="dict()"):
    """A config, a checkpoint for it, and its model with these weights."""
    config, path = folder / "config.py", folder / "trained.pth"
    values = dict(classes=CLASSES, channels=8 * WIDTH, hidden=HIDDEN, side=SIDE, width=WIDTH)
    base = str(ROOT / "configs/vgg11_a_256.py")
    values |= dict(base=base, arch=arch, norm=norm, preprocessor=preprocessor)
    config.write_text(CONFIG.format(**values))
    model = lively(MODELS.build(Config.fromfile(config).model))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return config, path, model


@pytest.mark.parametrize(
    "to, arch, ending, norm",
    [
        ("torchvision", "A", "pth", dict(type="BN")),
        ("torchvision", "A", "pth", dict(type="BN", eps=0.1)),
        ("timm", "E", "safetensors", None),
        ("mmpretrain", "D", "pth", dict(type="BN")),
    ],
)
def test_round_trips(to, arch, ending, norm, tool, tmp_path):
    config, path, model = trained(tmp_path, arch, norm)
    out, back = tmp_path / f"out.{ending}", tmp_path / "back.pth"
    says = tool("export", config, path, out, "--to", to)
    mean = "(123.68, 116.779, 103.939)"
    assert f"RGB from 0 to 255, minus a mean and divided by: {mean}, (58.395, 57.12" in says
    build = dict(torchvision=torchvision_net, timm=timm_net, mmpretrain=mmpretrain_net)[to]
    theirs = build(arch, norm=bool(norm))
    theirs.load_state_dict(
        torch.load(out, weights_only=True) if ending == "pth" else safetensors.torch.load_file(out)
    )
    usual = Input("RGB", 255, (123.68, 116.779, 103.939), (58.395, 57.12, 57.375))
    with torch.no_grad():
        ours = model(prepared(image(), INPUTS["vgg_mm"]), mode="tensor")
        assert close(theirs(prepared(image(), usual)), ours)
    says = tool("convert_weights", out, back, "--to-arch", arch)
    assert f"data_preprocessor=dict(mean={list(INPUTS['torchvision'].mean)}" in says
    state = torch.load(back, weights_only=True)["state_dict"]
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        if name.endswith("running_var") and "eps" in norm:  # theirs have another
            assert (state[name] - value - 0.1).abs().max() < 2e-5
        elif name == "backbone.conv1_1.weight":
            assert (state[name] - value).abs().max() <= 1e-6 * value.abs().max()
        else:
            assert state[name].equal(value), name
    for args in (["export", config, back, out, "--to", to], ["test", config, back]):
        with pytest.raises(
            SystemExit, match="back.pth is for another input .*mean=.123.675, 116.2"
        ):
            tool(*args)


@torch.no_grad()
def test_onnx_round_trip(tool, tmp_path):
    config, path, model = trained(tmp_path, "A-LRN", preprocessor="dict(std=[60, 60, 60])")
    out, back = tmp_path / "out.onnx", tmp_path / "back.pth"
    says = tool("export", config, path, out, "--to", "onnx")
    assert "onnxruntime's scores are the net's within" in says
    assert [file.name for file in tmp_path.iterdir() if "onnx" in file.name] == ["out.onnx"]
    dims = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param != "" for dim in dims] == [True, False, True, True]
    tool("convert_weights", out, back, "--to-arch", "A-LRN")
    saved = torch.load(back, weights_only=True)
    for name, value in model.state_dict().items():
        if name == "backbone.conv1_1.weight":
            assert (state_60 := saved["state_dict"][name] * 60).allclose(value, rtol=1e-6, atol=0)
            assert not state_60.allclose(value * 60)
        else:
            assert saved["state_dict"][name].equal(value), name
    given = prepared(image(), Input("RGB", 255, (123.68, 116.779, 103.939), (60, 60, 60)))
    assert close(our_logits(saved, image()), model(given, mode="tensor"))


def preprocessed(pixels, told):
    """An image as who serves the net makes it, by the note in the file."""
    return prepared(pixels, Input(**json.loads(told)))


@torch.no_grad()
def test_a_pt2_takes_any_batch_and_size(tool, tmp_path):
    config, path, model = trained(tmp_path, "B", preprocessor="dict(std=[60, 60, 60])")
    out, said = tmp_path / "out.pt2", {INPUT_KEY: ""}
    says = tool("export", config, path, out, "--to", "pt2")
    assert "torch.export's scores are the net's within" in says
    net = torch.export.load(out, extra_files=said).module()
    for height, width in ((64, 64), (97, 130)):
        pixels = torch.cat([image(height, width)] * 3)
        x = preprocessed(pixels, said[INPUT_KEY])
        assert close(net(x), model(x, mode="tensor"))
    tool("export", config, path, out, "--to", "pt2", "--features-only")
    x = prepared(image(70, 90), INPUTS["vgg_mm"])
    (maps,), (wanted,) = torch.export.load(out).module()(x), model.backbone(x)
    assert close(maps, wanted)


def test_a_pt2_that_differs_is_not_kept(monkeypatch, tool, tmp_path):
    config, path, _ = trained(tmp_path, "A")
    out = tmp_path / "out.pt2"
    out.write_text("an older export")
    other = SimpleNamespace(module=lambda: lambda x: torch.zeros(len(x), CLASSES))
    monkeypatch.setattr(torch.export, "load", lambda file: other)
    with pytest.raises(SystemExit, match="out.pt2 was not written: torch.export's scores differ"):
        tool("export", config, path, out, "--to", "pt2")
    assert out.read_text() == "an older export"


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_differs_is_not_kept(monkeypatch, tool, tmp_path):
    class Program:
        model = SimpleNamespace(metadata_props={})

        def save(self, path, external_data):
            features = torchvision_net("A").features
            with torch.no_grad():
                features[0].bias += error
            dynamic = dict(input_names=["image"], dynamic_axes={"image": [0, 2, 3]})
            onnx_graph(features, path, **dynamic)

    error = 0.1
    config, path, model = trained(tmp_path, "A")  # of the same weights
    out = tmp_path / "out.onnx"
    out.write_text("an older export")
    original = torch.onnx.export

    def export(*args, **kwargs):
        return Program() if kwargs["dynamo"] else original(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(SystemExit, match="out.onnx was not written: onnxruntime's scores differ"):
        tool("export", config, path, out, "--to", "onnx", "--features-only")
    assert out.read_text() == "an older export"
    assert {file.name for file in tmp_path.iterdir()} == {"config.py", "trained.pth", "out.onnx"}
    error = 0.0
    tool("export", config, path, out, "--to", "onnx", "--features-only")
    assert len(onnx.load(out).graph.initializer) == 16
    state = model.state_dict()
    state["backbone.conv5_2.bias"].fill_(torch.nan)
    torch.save(state, path)
    with pytest.raises(SystemExit, match="conv5_2.bias. holds NaN or infinity"):
        tool("export", config, path, out, "--to", "onnx", "--features-only")


def test_exports_without_a_classifier_and_of_nets_that_others_lack(tool, tmp_path):
    config, path, model = trained(tmp_path, "A")
    out = tmp_path / "out.safetensors"
    tool("export", config, path, out, "--to", "timm", "--features-only")
    state = safetensors.torch.load_file(out)
    assert state.keys() == {f"features.{name}" for name in timm_net("A").features.state_dict()}
    with pytest.raises(SystemExit, match="out.onnx: --to onnx writes an .onnx, pt2 a .pt2"):
        tool("export", config, path, tmp_path / "out.onnx", "--to", "timm")
    dense = ["--cfg-options", "model.backbone.dilations=(1,1,1,1,2)"]
    with pytest.raises(SystemExit, match="timm's nets have no dilations.* use --to onnx or pt2"):
        tool("export", config, path, out, "--to", "timm", *dense)
    with pytest.raises(SystemExit, match="net.safetensors: a checkpoint is a PyTorch file"):
        tool("convert_weights", out, tmp_path / "net.safetensors", "--to-arch", "A")
    config, path, _ = trained(tmp_path, "C")
    with pytest.raises(SystemExit, match="timm has no net C: use --to onnx or pt2"):
        tool("export", config, path, out, "--to", "timm")


def test_the_page_on_serving(tool, tmp_path, monkeypatch):
    """Its code, run as it stands, gives the net's own probabilities."""
    config, path, _ = trained(tmp_path, "D", preprocessor="dict(std=[60, 50, 40], to_rgb=False)")
    monkeypatch.chdir(tmp_path)
    for to in ("onnx", "pt2"):
        tool("export", config, path, f"vgg.{to}", "--to", to)
    pixels = image(256, 300)[0].permute(1, 2, 0).byte().numpy()
    Image.fromarray(pixels).save("cat.png")
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/serving.md").read_text(), re.M | re.S
    )
    page = {}
    exec(blocks[0].replace("8000", "0"), page)
    with page["server"] as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page["Service"].log_message = lambda *_: None
        url = f"http://127.0.0.1:{server.server_port}"
        told = json.load(urlopen(url, data=Path("cat.png").read_bytes()))
        with pytest.raises(HTTPError, match="400"):
            urlopen(url, data=b"no image")
        server.shutdown()
    net = vgg_mm.load(str(config), path)
    wanted = net.posteriors(pixels, views="dense", scales=[256])[0, 0]
    assert np.allclose(told, wanted, atol=1e-4)
    exec(blocks[1], page)
    x = page["prepare"]("cat.png")
    with torch.no_grad():
        scores = page["net"](torch.from_numpy(np.concatenate([x, x[..., ::-1]])))
    assert np.allclose(scores.softmax(1).mean(0), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_full_disk_is_named(name, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(UserError, match=f"{name} could not be written .File too large"):
            save({"weight": torch.zeros(1000)}, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())
