"""``init_cfg=dict(type='Pretrained')``: files of any kind, paths and URLs."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from small_nets import (
    CLASSES,
    HIDDEN,
    SIDE,
    WIDTH,
    caffe_layers,
    caffemodel,
    evil,
    pretrained,
    torchvision_net,
)
from torch import nn

from tools.weights.convert import convert
from tools.weights.formats import save
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGFC
from vgg_mm.weights.files import local
from vgg_mm.weights.layouts import layer_names


class Detector(BaseModule):
    """A VGG among weights that are not its."""

    def __init__(self, init_cfg=None, **kwargs):
        super().__init__(init_cfg)
        self.backbone = VGG("A", width=WIDTH, **kwargs)
        self.neck = nn.Conv2d(3, 3, 1)


def assert_same(ours, theirs, names):
    for key, value in ours.state_dict().items():
        assert value.equal(theirs[names[key]].view_as(value)), key


@pytest.fixture
def net_a(tmp_path):
    net = torchvision_net("A")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    layers = layer_names("torchvision", "A").items()
    names = {f"{o}.{leaf}": f"{t}.{leaf}" for o, t in layers for leaf in ("weight", "bias")}
    return tmp_path / "net.pth", net.state_dict(), names


def classifier(init_cfg, classes=CLASSES, **kwargs):
    head = dict(in_channels=8 * WIDTH, channels=HIDDEN, kernel_size=SIDE, num_classes=classes)
    backbone = dict(type="vgg_mm.VGG", arch="A", width=WIDTH)
    head = dict(type="vgg_mm.VGGHead", **head)
    return MODELS.build(
        dict(type="ImageClassifier", backbone=backbone, head=head, init_cfg=init_cfg, **kwargs)
    )


def test_pretrained_takes_foreign_files_as_they_are(net_a, monkeypatch):
    path, theirs, names = net_a
    backbone = VGG("A", width=WIDTH, out_indices=("conv4_1",), init_cfg=pretrained(path))
    fcs = VGGFC(8 * WIDTH, HIDDEN, SIDE, init_cfg=pretrained(path))
    whole = classifier(pretrained(path))
    for module in (backbone, fcs, whole):
        module.init_weights()
    assert_same(backbone, theirs, names)
    assert_same(fcs, theirs, names)
    assert_same(whole.backbone, theirs, names)
    assert_same(whole.head, theirs, names)
    other = classifier(pretrained(path), classes=3)
    lines = []
    monkeypatch.setattr(
        "vgg_mm.weights.pretrained.print_log", lambda text, *_, **__: lines.append(text)
    )
    other.init_weights()
    new = "head.fc8 starts new, for classifier.6.weight (fc8.weight) is [5, 24, 1, 1], not [3, 24"
    assert any(new in line for line in lines)
    assert "trained with mean=[123.675, 116.28, 103.53], std=[58.395, 57.12" in lines[-1]
    assert_same(other.backbone, theirs, names)
    assert other.head.fc7.weight.flatten(1).equal(theirs["classifier.3.weight"])
    with pytest.raises(UserError, match=r"features.0.weight \(conv1_1.weight\) is \[4, 3, 3, 3\]"):
        VGG("A", width=8, init_cfg=pretrained(path)).init_weights()
    with pytest.raises(UserError, match="is not net E: it also holds features.3.* It fits net A"):
        VGG("E", width=WIDTH, init_cfg=pretrained(path)).init_weights()


def test_pretrained_takes_converted_and_other_formats(net_a, tmp_path):
    path, theirs, names = net_a
    save(convert(path, "A"), tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth")["state_dict"]
    module = classifier(pretrained(tmp_path / "ours.pth"))
    module.init_weights()
    assert all(value.equal(ours[name]) for name, value in module.state_dict().items())
    backbone = VGG("A", width=WIDTH, init_cfg=pretrained(tmp_path / "ours.pth", prefix="backbone"))
    backbone.init_weights()
    assert_same(backbone, ours, {name: f"backbone.{name}" for name in names})
    _, layers = caffe_layers("A")
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers, old=True))
    whole = classifier(pretrained(tmp_path / "net.caffemodel"))
    whole.init_weights()
    assert_same(whole.backbone, theirs, names)
    assert_same(whole.head, theirs, names)


WHO = ("student", "teacher")


def test_pretrained_in_a_detector(net_a, tmp_path):
    path, theirs, names = net_a
    detector = Detector(init_cfg=pretrained(path))
    neck = detector.neck.weight.clone()
    detector.init_weights()
    assert_same(detector.backbone, theirs, names)
    assert detector.neck.weight.equal(neck)
    saved = {name: torch.ones_like(value) for name, value in detector.state_dict().items()}
    torch.save(dict(state_dict=saved), path)
    detector = Detector(init_cfg=pretrained(path))
    detector.init_weights()
    assert all(value.eq(1).all() for value in detector.state_dict().values())
    two = [{f"{who}.{name}": value for name, value in theirs.items()} for who in WHO]
    torch.save(two[0] | two[1], path)
    with pytest.raises(UserError, match="it holds student.features.0.weight and teacher"):
        VGG("A", width=WIDTH, init_cfg=pretrained(path)).init_weights()
    backbone = VGG("A", width=WIDTH, init_cfg=pretrained(path, prefix="teacher."))
    backbone.init_weights()
    assert_same(backbone, theirs, names)


def test_pretrained_elsewhere_is_mmengines(tmp_path):
    class Plain(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.conv = nn.Conv2d(1, 1, 1)

    torch.save({"conv.weight": torch.ones(1, 1, 1, 1)}, tmp_path / "net.pth")
    net = Plain(pretrained(tmp_path / "net.pth"))
    net.init_weights()
    assert net.conv.weight.item() == 1


def test_urls_are_cached_and_never_run(net_a, tmp_path, monkeypatch):
    path, theirs, names = net_a
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "evil.pth").write_bytes(evil(tmp_path))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        backbone = VGG("A", width=WIDTH, init_cfg=pretrained(f"{url}/net.pth"))
        backbone.init_weights()
        assert_same(backbone, theirs, names)
        with pytest.raises(UserError, match="evil.pth is not a checkpoint that loads safely"):
            classifier(pretrained(f"{url}/evil.pth")).init_weights()
        with pytest.raises(UserError, match="none.pth could not be downloaded: HTTP Error 404"):
            local(f"{url}/none.pth")
        server.shutdown()
    assert not (tmp_path / "ran").exists()
    assert local(f"{url}/net.pth").read_bytes() == path.read_bytes()


def test_torchvisions_names(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    for name in ("vgg16-397923af.pth", "vgg16_features-amdegroot-88682ab5.pth"):
        (folder / name).touch()
    assert local("torchvision://vgg16").name == "vgg16-397923af.pth"
    assert "amdegroot" in local("torchvision://vgg16.IMAGENET1K_FEATURES").name
    with pytest.raises(UserError, match="vgg17.*Did you mean 'vgg1"):
        local("torchvision://vgg17")
    with pytest.raises(UserError, match="which has vgg16, .*vgg16.imagenet1k_v1"):
        local("torchvision://vgg16.v2")
