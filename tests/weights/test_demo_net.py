"""The net that ships with the package, and the command that makes it."""

import os
from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS

import vgg_mm
from vgg_mm import demo
from vgg_mm.data.scenes import Settings
from vgg_mm.errors import UserError


def test_it_knows_the_demos_things(few_scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = vgg_mm.load("demo")
    assert list(net.classes) == Settings().names and net.scales == [32, 48, 64]
    assert "measured on 3200 images: top1 error" in net.measured
    for image in sorted(demo.EXAMPLES.glob("*.jpg")):
        assert net.predict(image, top=1)[0][0] == image.stem
    scores = vgg_mm.evaluate(net, few_scenes / "val", scales=[32], batch_size=32)
    assert scores.error(1) < 20  # chance is 98.4
    sizes = [file.stat().st_size for file in demo.NET.iterdir()]
    assert len(sizes) == 3 and sum(sizes) < 3e6
    assert net.measured in (demo.NET / "README.md").read_text()
    # As weights it is a file's like, by its name or its folder.
    for name in ("demo", demo.NET):
        again = vgg_mm.load(vgg_mm.get_config("demo"), weights=name)
        assert again.named and torch.equal(again.model.head.fc8.weight, net.model.head.fc8.weight)
    image = str(next(demo.EXAMPLES.glob("*.jpg")))
    by_its_arch = vgg_mm.load("A", weights="demo")  # pools, too, are those of its config.json
    found = (each.posteriors(image, scales=[32]) for each in (net, by_its_arch))
    assert torch.allclose(*found, atol=1e-6)
    # What is there under its name comes first.
    os.mkdir("demo")
    with pytest.raises(UserError, match=r"demo/config.json: No such file [^.]*weights has it\.$"):
        vgg_mm.load("demo")
    with pytest.raises(UserError, match="no file demo/model.safetensors"):
        vgg_mm.load("A", weights="demo")
    Path("demo/best.pth").touch()
    with pytest.raises(UserError, match="For the net of a run name demo/best.pth"):
        vgg_mm.load("demo")


def test_it_is_made_again(tool, tmp_path):
    torch.manual_seed(0)
    net = MODELS.build(vgg_mm.get_config("demo").model)
    net.init_weights()
    state, names = net.state_dict(), Settings().names
    meta = dict(dataset_meta=dict(classes=names))
    torch.save(dict(state_dict=state, meta=meta), tmp_path / "best.pth")
    out = tool("make_demo", tmp_path / "best.pth", tmp_path / "demo", "--images", 16)
    made = vgg_mm.load(tmp_path / "demo")
    assert out.splitlines()[-1] == f"{tmp_path / 'demo'}: {made.measured}"
    assert made.measured.startswith("measured on 16 images: top1 error ")
    assert made.classes == tuple(names)
    for name, value in made.model.state_dict().items():
        assert value.dtype == torch.float32 and torch.allclose(value, state[name], 0.13, 1e-4)
    assert (tmp_path / "demo/model.safetensors").stat().st_size < 2.1e6
