"""The front door, used as people do."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image
from small_nets import TORCHVISION, lively, timm_net, torchvision_net
from torch import nn

import vgg_mm
from tools.arguments import load_config, parser
from tools.evaluation import evaluate, extract
from vgg_mm.api.net import IMAGENET
from vgg_mm.data.folders import WORDNET
from vgg_mm.data.images import CorruptImageError
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.testing import Features, Scores

ROOT = Path(__file__).parents[1]
CLASSES = ("green", "red")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def cfg(jpeg_tree):
    """The demo's config with a narrow net, for the test's own images."""
    cfg = Config.fromfile(ROOT / "configs/demo.py")
    cfg.model.backbone.width = 2
    cfg.model.head.update(in_channels=16, channels=16, num_classes=2)
    cfg.tta_model.views = "both"
    cfg.tta_pipeline[1].scales = [32, 45]
    cfg.custom_hooks = []
    data = dict(type="vgg_mm.Folders", data_root=str(jpeg_tree), split="val")
    cfg.test_dataloader.update(dataset=data, batch_size=1)
    cfg.work_dir = "work"
    return cfg


@pytest.fixture(scope="module")
def checkpoint(cfg, tmp_path_factory):
    """What a run leaves behind: the weights, the config's text, the input, the classes."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    lively(model)
    path = tmp_path_factory.mktemp("run") / "best.pth"
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES), **Input.note(model.eval()))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "vgg16-0123abcd.pth"
    net = torchvision_net("D")
    torch.save(net.state_dict(), path)
    return net, str(path)


def pixels(height=64, width=64, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_the_front_door_opens_at_once():
    code = "import sys, vgg_mm; assert not {'torch', 'mmengine', 'numpy'} & {*sys.modules}"
    code += "; assert {'load', 'evaluate', 'Net', 'get_config'} <= {*dir(vgg_mm)}"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, check=True)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        vgg_mm.laod  # noqa: B018


def test_three_lines(torchvisions):
    theirs, path = torchvisions
    Image.fromarray(pixels()).save("cat.png")
    net = vgg_mm.load("D", weights=path)
    named = net.predict("cat.png", scales=[64])

    x = torchvision.transforms.functional.to_tensor(Image.open("cat.png"))
    x = torchvision.transforms.functional.normalize(x, TORCHVISION.mean, TORCHVISION.std)
    with torch.no_grad():
        expected = (theirs(x[None]).softmax(1) + theirs(x.flip(2)[None]).softmax(1))[0] / 2
    assert [int(name) for name, _ in named] == expected.argsort(descending=True).tolist()
    assert np.allclose([p for _, p in named], expected.sort(descending=True)[0], atol=1e-5)
    assert np.ptp(expected.numpy()) > 0.01
    assert net.input.same_as(INPUTS["torchvision"]) and net.scales == [73]
    assert repr(net).startswith("Net(D, 5 classes, mean=[123.675, 116.28, 103.53]")


# What a net is loaded from.


def test_the_posteriors_are_those_of_testing_to_the_bit(cfg, checkpoint):
    evaluate(cfg, checkpoint, "tested.npz")
    tested = Scores.load("tested.npz")
    files = [os.path.join(tested.root, name) for name in tested.names]
    assert tested.posteriors.shape == (4, 4, 2) and np.ptp(tested.posteriors) > 0.01
    for net in (vgg_mm.load(cfg, checkpoint), vgg_mm.load(checkpoint)):
        assert net.classes == CLASSES and net.scales == [32, 45]
        assert np.array_equal(net.posteriors(files), tested.posteriors)
        scores = vgg_mm.evaluate(net, os.path.join(tested.root), batch_size=1)
        assert np.array_equal(scores.posteriors, tested.posteriors)
        assert np.array_equal(scores.labels, tested.labels)
        assert scores.names.tolist() == tested.names.tolist() and scores.root == tested.root
        assert scores.metrics() == tested.metrics()
        for key in ("views", "scales", "flip", "grid", "crop_size", "arch"):
            assert scores.protocols[0][key] == tested.protocols[0][key]
    averaged, state = copy.deepcopy(cfg), torch.load(checkpoint)
    weights = {f"module.{name}": 2 * value for name, value in state["state_dict"].items()}
    torch.save(state | dict(ema_state_dict=weights), "ema.pth")  # state_dict has the averages
    for hook in ("EMAHook", "mmengine.EMAHook"):
        averaged.custom_hooks = [dict(type=hook)]
        evaluate(averaged, "ema.pth", "ema.npz")
        assert np.array_equal(Scores.load("ema.npz").posteriors, tested.posteriors)
    dense = vgg_mm.evaluate(net, tested.root, "dense", [45])
    assert np.allclose(dense.posteriors[:, 0], tested.posteriors[:, 1], atol=1e-6)


def test_the_descriptors_are_those_of_extraction_to_the_bit(cfg, checkpoint, jpeg_tree):
    extract(cfg, checkpoint, cfg.test_dataloader.dataset.to_dict(), "f.npz", "conv4_2")
    made = Features.load("f.npz")
    found = vgg_mm.load(checkpoint).features(jpeg_tree / "val", ["fc7", "conv4_2"], pooled=True)
    assert np.array_equal(found["conv4_2"], made.features)
    assert found["fc7"].shape == (4, 16)
    assert torch.allclose(found["fc7"].norm(dim=1), torch.ones(4))


def test_what_tells_the_net(cfg, checkpoint, torchvisions):
    _, path = torchvisions
    whole, net = pixels(), vgg_mm.load("D", weights=path)
    expected = net.posteriors(whole)
    assert vgg_mm.load(path).posteriors(whole).equal(expected)  # D is the only net that fits
    named = Config(
        dict(tta_model=cfg.tta_model, tta_pipeline=cfg.tta_pipeline, model=dict(net.config))
    )
    named.model.data_preprocessor = dict(type="vgg_mm.VGGPreprocessor", to_rgb=True)
    theirs = vgg_mm.load(named, path, input="torchvision")
    assert theirs.posteriors(whole, "dense", [73]).equal(expected)
    assert vgg_mm.load(named, path).input.same_as(net.input)  # the file's, not the config's
    a = torchvision_net("A").state_dict()
    torch.save(a, "a.pth")
    with pytest.raises(UserError, match="a.pth fits nets A and A-LRN: say which, load.ARCH, weig"):
        vgg_mm.load("a.pth")
    ours = vgg_mm.load("A", "a.pth", input="caffe")
    assert ours.input.order == "BGR" and str(ours.input.mean[0]) == "103.939"
    torch.save({"a.weight": torch.ones(2, 2)}, "other.pth")
    torch.save(vgg_mm.load("A", "a.pth").model.state_dict(), "bare.pth")
    for call, message in {
        lambda: vgg_mm.load("vgg16"): "vgg16 is the paper's net D: say load.'D', ",
        lambda: vgg_mm.load("Q"): "no config Q: give a file, or the name of one of the package's",
        lambda: vgg_mm.load("vgg16_d_jitte"): "Did you mean 'vgg16_d_jitter'",
        lambda: vgg_mm.load("other.pth"): "other.pth will not do",
        lambda: vgg_mm.load("D", "a.pth"): "a.pth .*It fits net A",
        lambda: vgg_mm.load("A", "bare.pth"): "bare.pth does not say what its input is: input='to",
        lambda: vgg_mm.load("A", "a.pth", input="rgb"): "input='rgb': use one of torchvision, caf",
        lambda: vgg_mm.load("a.pth", "a.pth"): "a.pth has weights of its own, and a.pth others",
        lambda: vgg_mm.load(cfg, "a.pth"): "a.pth does not fit: .*conv1_1",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_the_toolboxs_place_for_the_input(cfg, checkpoint):
    moved, saved = copy.deepcopy(cfg), torch.load(checkpoint)
    moved.data_preprocessor = moved.model.pop("data_preprocessor")
    moved.dump("mine.py")
    read = load_config(parser("x").parse_args(["mine.py"]))
    assert read.model.data_preprocessor == cfg.model.data_preprocessor
    assert "data_preprocessor" not in read
    saved["meta"] = dict(cfg=moved.pretty_text)
    torch.save(saved, "run.pth")
    image, expected = pixels(), vgg_mm.load(checkpoint)
    for net in (vgg_mm.load("run.pth"), vgg_mm.load("mine.py", checkpoint)):
        assert net.input == expected.input
        assert net.posteriors(image).equal(expected.posteriors(image))


def test_a_config_without_parts(cfg, checkpoint, tmp_path, caplog):
    alone = copy.deepcopy(cfg)
    alone.train_dataloader = None
    alone.test_dataloader.dataset = dict(type="CustomDataset", data_root=str(tmp_path / "gone"))
    assert vgg_mm.load(alone).classes == ("0", "1")  # with a warning
    alone.tta_model = None
    with pytest.raises(UserError, match="does not say how to test"):
        vgg_mm.load(alone)


def test_weights_beside_weights(checkpoint):
    vgg_mm.load(checkpoint).save("saved")
    for what in ("saved", "hf://org/name", checkpoint):
        with pytest.raises(
            UserError, match=f"no config saved|{what} has weights of its own, and b"
        ):
            vgg_mm.load(what, weights="b.pth")


def test_at_home(checkpoint, jpeg_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    net = vgg_mm.load(checkpoint)
    net.save("~/saved")
    Path("images").mkdir()
    Image.fromarray(pixels()).save("images/a.png")
    expected = net.predict("images/a.png", scales=[64])
    again = vgg_mm.load("~/saved")
    assert again.predict("~/images", scales=64) == [expected]
    assert again.predict("~/images/a.png", scales=np.array([64])) == expected


def test_a_thousand_classes_are_imagenets():
    state = torchvision_net("D").state_dict()
    state["classifier.6.weight"], state["classifier.6.bias"] = (
        torch.ones(1000, 24),
        torch.ones(1000),
    )
    torch.save(state, "vgg16.pth")
    net = vgg_mm.load("vgg16.pth")
    assert net.classes == IMAGENET["classes"] and net.classes[0] == "tench, Tinca tinca"
    folders = dict(classes=["n01443537", "n01440764"])
    assert net.numbers_of(folders) == [WORDNET.index(name) for name in folders["classes"]]


def test_nothing_in_a_checkpoint_decides_what_is_built(cfg, checkpoint):
    saved = torch.load(checkpoint)
    for change, message in {
        ("type='vgg_mm.VGG'", "type='os.mkdir'"): "a backbone of os.mkdir, which its own config",
        ("type='vgg_mm.VGGHead'", "type='LinearClsHead'"): "a head of LinearClsHead",
        ("arch='A'", "arch='A', norm_cfg=dict(type='os.mkdir')"): "norm_cfg=.*os.mkdir.* is no bat",
    }.items():
        text = saved["meta"]["cfg"].replace(*change)
        assert text != saved["meta"]["cfg"]
        torch.save({**saved, "meta": {**saved["meta"], "cfg": text}}, "changed.pth")
        with pytest.raises(UserError, match=message):
            vgg_mm.load("changed.pth")
    text = saved["meta"]["cfg"] + "\nimport os\nos.mkdir('ran')\nmodel2 = dict(a=os.mkdir('ran'))\n"
    torch.save({**saved, "meta": {**saved["meta"], "cfg": text}}, "changed.pth")
    vgg_mm.load("changed.pth")
    assert not os.path.exists("ran")


# What it is asked.


def test_a_net_that_trains_is_asked_as_one_that_does_not(checkpoint):
    net, image = vgg_mm.load(checkpoint), pixels()
    net.model.head.dropout = 0.5
    asked = {
        "posteriors": lambda: net.posteriors(image),
        "features": lambda: net.features(image, "fc7", scales=64)["fc7"],
        "pooled": lambda: net.features(image, "fc7", pooled=True)["fc7"],
        "score_map": lambda: net.score_map(image, scales=64)[0],
        "evaluate": lambda: torch.tensor(vgg_mm.evaluate(net, [(image, 0)]).posteriors),
    }
    for name, ask in asked.items():
        expected = ask()
        net.model.train()
        assert ask().equal(expected), name
        assert net.model.training and net.model.backbone.conv1_1.training
        net.model.eval()


def test_modes_are_left_as_they_were(pairs):
    net = small_resnet().train()
    net.bn1.eval()  # frozen
    vgg_mm.evaluate(net, pairs, "crops", 64, input="torchvision", crop_size=64, grid=2)
    assert net.training and net.layer1.training and not net.bn1.training


def test_whatever_fails_names_its_image(checkpoint):
    Image.fromarray(pixels()).save("cat.png")
    Image.fromarray(pixels()).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:-200])
    net = vgg_mm.load(checkpoint)
    for call in (
        lambda: net.predict("cat.png", scales=12),
        lambda: net.score_map("cat.png", scales=12),
        lambda: net.features("cat.png", "fc6", scales=12),
    ):
        with pytest.raises(CorruptImageError, match="cat.png: "):
            call()
    with pytest.raises(CorruptImageError, match="the image: .*truncated"):
        net.predict(Image.open("cut.jpg"))
    with pytest.raises(UserError, match="nowhere://a/b.jpg: mmengine has no storage backend"):
        net.predict("nowhere://a/b.jpg")
    with pytest.raises(UserError, match="each scale must be a number of pixels"):
        net.predict("cat.png", scales=64.5)


def test_images_of_all_kinds(checkpoint, jpeg_tree):
    net = vgg_mm.load(checkpoint)
    rgb = pixels(40, 60)
    Image.fromarray(rgb).save("it.png")
    expected = net.predict("it.png")
    assert [name for name, _ in expected] in (["red", "green"], ["green", "red"])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    alone = [Path("it.png"), rgb, Image.open("it.png"), tensor, tensor / 255]
    for image in alone:
        assert net.predict(image) == expected
    many = [alone, np.stack([rgb] * 2), torch.stack([tensor] * 2), [rgb], tuple(alone)]
    for images in many:
        assert net.predict(images) == [expected] * len(images)
    batch = net.predict(alone, batch_size=3, top=1)
    assert [each[0][0] for each in batch] == [expected[0][0]] * 5
    assert batch[4][0][1] == pytest.approx(expected[0][1], abs=1e-6)
    assert len(net.predict(jpeg_tree / "val")) == 4
    seen_through = np.dstack([rgb, np.full((40, 60), 255, np.uint8)])
    seen_through[:20, :, 3] = 0
    Image.fromarray(seen_through).save("through.png")
    assert net.predict(Image.open("through.png"))[0][1] == pytest.approx(
        net.predict("through.png")[0][1], abs=1e-3
    )
    grey = np.array(Image.fromarray(rgb).convert("L"))
    assert net.predict(grey) == net.predict(Image.fromarray(grey))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9, 3)), r"the image is ndarray of float64 \(9, 9, 3\); expected a path, PIL"),
        (np.zeros((3, 9, 9), np.uint8), r"\(3, 9, 9\); expected a path, PIL's, or an array \(H, W"),
        (torch.full((3, 9, 9), 2.0), r"Tensor of torch.float32 \(3, 9, 9\).* floats from 0 to 1"),
        ([np.zeros((9, 9, 3), np.uint8), 3], "image 1 is int; expected a path"),
        (Image.new("F", (9, 9)), "ndarray of float32"),
        ([], "there is no image: the list is empty"),
        ("none.png", "none.png: No such file"),
        ("empty", "no image in empty"),
    ],
)
def test_what_is_no_image(image, message, checkpoint):
    os.mkdir("empty")
    with pytest.raises(UserError, match=message):
        vgg_mm.load(checkpoint).predict(image)


def test_maps_before_and_after_the_relu_are_the_modules(checkpoint):
    net, image = vgg_mm.load(checkpoint), pixels(45, 60)
    layers = ["conv3_2", "pool2", "fc6", "fc8"]
    after = net.features(image, layers, scales=[45])
    before = net.features([image], layers, before_relu=True, scales=[45])[0]
    x = net.model.data_preprocessor(
        dict(inputs=torch.tensor(image[..., ::-1].copy())[None].movedim(3, 1))
    )
    x = x["inputs"][..., :44, :].contiguous()  # of 45 rows, one is no whole stride
    with torch.no_grad():
        y = nn.Sequential(*list(net.model.backbone.children())[:6])(x)
        assert torch.allclose(after["pool2"], y[0], atol=1e-5)
        assert torch.allclose(before["pool2"], y[0], atol=1e-5)
    for layer in ("conv3_2", "fc6"):
        assert before[layer].min() < 0 and after[layer].equal(before[layer].relu())
    assert after["fc6"].shape == (16, 5, 9) and after["fc8"].shape == (2, 5, 9)
    (posteriors,) = net.score_map(image, [45])
    assert torch.allclose(after["fc8"].softmax(0), posteriors, atol=1e-6)
    two, one = net.score_map([image, image[:, :50]], [45, 60])[0], net.score_map(image, [60])[0]
    assert [m.shape for m in two] == [(2, 5, 9), (2, 9, 14)] and two[1].equal(one)
    pooled = net.features(image, "fc7", pooled=True)["fc7"]
    assert pooled.shape == (16,) and pooled.norm() == pytest.approx(1)
    assert not net.model.head.relu6._forward_hooks
    for call, message in {
        lambda: net.features(image, "conv9"): "no layer conv9 to take features from; use one of co",
        lambda: net.features(image, "fc7"): "maps are of one scale",
        lambda: net.predict(
            pixels(9, 9), scales=[9]
        ): "the image: .*shortest side must be at least",
        lambda: net.localise(image, net): "VGGHead where a vgg_mm.VGG with vgg_mm.BoxHead",
    }.items():
        with pytest.raises(UserError, match=message):
            call()


def test_the_module_is_plain(checkpoint):
    net = vgg_mm.load(checkpoint, device="cpu", dtype=torch.float64)
    assert {p.dtype for p in net.model.parameters()} == {torch.float64} and not net.model.training
    x = torch.randn(2, 3, 28, 28, dtype=torch.float64, requires_grad=True)
    maps = []
    handle = net.model.backbone.conv5_2.register_forward_hook(lambda *args: maps.append(args[2]))
    scores = net.model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), maps[0])  # Grad-CAM's
    assert gradient.abs().sum() > 0 and gradient.shape == maps[0].shape
    compiled = torch.compile(net.model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), scores)
    exact = net.posteriors(pixels())
    assert net.to(torch.float32).posteriors(pixels()).sub(exact).abs().max() < 1e-4
    coarse = net.to(torch.bfloat16).posteriors(pixels())
    assert coarse.dtype == torch.float32 and coarse.sub(exact).abs().max() < 0.1


def test_boxes(checkpoint):
    classifier = vgg_mm.load(checkpoint)
    config = {**classifier.config, "head": {**classifier.config["head"], "type": "vgg_mm.BoxHead"}}
    config["head"]["crop_size"] = 28
    model = lively(MODELS.build(config))
    net = vgg_mm.Net(model, config, CLASSES, classifier.protocol, classifier.pipeline)
    image = pixels(60, 90)
    guesses = net.localise(image, classifier)
    assert [guess.name for guess in guesses] == [
        name for name, _ in classifier.predict(image, views="dense")
    ]
    for guess in guesses:
        x1, y1, x2, y2 = guess.box
        assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 60 and guess.rating > 0
    assert net.localise([image], classifier) == [guesses]
    another = vgg_mm.Net(model, config, CLASSES[::-1], classifier.protocol, classifier.pipeline)
    with pytest.raises(UserError, match="the classifier .*in another order"):
        another.localise(image, classifier)
    with pytest.raises(UserError, match="this net predicts boxes, no classes: use localise"):
        net.predict(image)
    net.save("boxes")
    assert vgg_mm.load("boxes").localise(image, classifier) == guesses


def test_a_file_without_a_classifier(torchvisions):
    state = {k: v for k, v in torchvisions[0].state_dict().items() if k.startswith("features")}
    torch.save(state, "features.pth")
    net = vgg_mm.load("D", "features.pth")
    assert net.features(pixels(), "conv5_3", scales=[64])["conv5_3"].shape == (32, 4, 4)
    with pytest.raises(UserError, match="the net has no classifier"):
        net.predict(pixels())


# Folders.


def test_a_saved_net_is_read_back_bit_for_bit(checkpoint, jpeg_tree):
    net = vgg_mm.load(checkpoint)
    scores = vgg_mm.evaluate(net, jpeg_tree / "val")
    net.save("mine", scores)
    assert sorted(os.listdir("mine")) == ["README.md", "config.json", "model.safetensors"]
    assert len({file.stat().st_mode for file in Path("mine").iterdir()}) == 1
    back = vgg_mm.load("mine")
    for name, value in net.model.state_dict().items():
        assert back.model.state_dict()[name].equal(value)
    assert back.posteriors(pixels()).equal(net.posteriors(pixels()))
    assert (back.classes, back.scales, repr(back)) == (net.classes, net.scales, repr(net))
    assert asdict(back.input) == asdict(net.input)
    card = Path("mine/README.md").read_text()
    assert f"top1 error {scores.error(1):.2f}%" in card and "on 4 images" in card
    assert "net A of Table 1" in card and "mean (127, 127, 127)" in card.replace(".0", "")
    half = vgg_mm.load(checkpoint, dtype=torch.bfloat16)
    half.save("half")
    assert (
        safetensors.torch.load_file("half/model.safetensors")["head.fc8.bias"].dtype
        == torch.bfloat16
    )
    # It is a file of weights like any other.
    assert vgg_mm.load("A", "mine/model.safetensors", input=net.input).predict(pixels())


def test_saving_never_overwrites(checkpoint, monkeypatch):
    net = vgg_mm.load(checkpoint)
    net.save("mine")
    with pytest.raises(UserError, match="mine is there already: name another folder"):
        net.save("mine")
    monkeypatch.setattr("vgg_mm.weights.folder.save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.save("other")
    assert sorted(os.listdir()) == ["mine"]
    Path("file").touch()
    with pytest.raises(UserError, match="could not be written .Not a directory"):
        net.save("file/mine")


def test_a_folder_that_decides_what_is_built_or_is_damaged(checkpoint):
    vgg_mm.load(checkpoint).save("mine")
    path = Path("mine/config.json")
    said = json.loads(path.read_text())
    for key, value, message in (
        ("model", {"backbone": {"type": "os.mkdir", "name": "ran"}}, "a backbone of os.mkdir"),
        ("model", {}, "a backbone of ?"),
        ("input", {"order": "GBR"}, "its note of its input is none"),
        ("model", 3, "is no VGG's config of vgg_mm, timm or transformers"),
    ):
        path.write_text(json.dumps({**said, key: value}))
        with pytest.raises(UserError, match=message):
            vgg_mm.load("mine")
    path.write_text('{"architecture": "resnet50"}')
    with pytest.raises(UserError, match="is no VGG's config"):
        vgg_mm.load("mine")
    path.unlink()
    with pytest.raises(UserError, match="config.json: No such file or directory"):
        vgg_mm.load("mine")


@pytest.mark.parametrize("transformers", [False, True])
def test_timms_and_transformers_folders(transformers):
    theirs = timm_net("D")
    os.mkdir("hub")
    prefix = "timm_model." if transformers else ""
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    safetensors.torch.save_file(state, "hub/model.safetensors")
    names = ["ant", "bee", "cat", "dog", "elk"]
    told = dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.3], input_size=[3, 224, 224])
    said = dict(architecture="vgg16", pretrained_cfg=told, label_names=names)
    Path("hub/config.json").write_text(json.dumps(said))
    net, image = vgg_mm.load("hub"), pixels()
    x = torch.tensor(image).permute(2, 0, 1)[None] / 255
    x = torchvision.transforms.functional.normalize(x, told["mean"], told["std"])
    with torch.no_grad():
        expected = (theirs(x).softmax(1) + theirs(x.flip(3)).softmax(1))[0] / 2
    assert torch.allclose(net.posteriors(image, scales=[64])[0, 0], expected, atol=1e-5)
    assert net.classes == tuple(names)


# Any classifier.


@pytest.fixture
def pairs(jpeg_tree):
    files = sorted((jpeg_tree / "val").rglob("*.jpg"))
    return [(path, int(path.parent.name == "red")) for path in files]


def small_resnet():
    torch.manual_seed(0)
    net = torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3
    )
    return net.eval()


def test_timms_vgg_is_evaluated_as_ours_is(pairs):
    theirs = timm_net("D")
    torch.save(theirs.state_dict(), "timm.pth")
    theirs.pretrained_cfg = dict(mean=TORCHVISION.mean, std=TORCHVISION.std)
    ours = vgg_mm.load("D", "timm.pth")
    for views in ("dense", "crops", "both"):
        how = dict(views=views, scales=[64, 96])  # of 64x96 and the like, all that they see
        one = vgg_mm.evaluate(theirs, pairs[:1], **how, crop_size=64, grid=3)
        ours.protocol["grid"] = 3
        other = vgg_mm.evaluate(ours, pairs[:1], **how)
        assert one.posteriors.shape == (1, 2 * (1 + (views == "both")), 5)
        if views == "crops":  # a dense timm drops other pixels
            assert np.allclose(one.posteriors, other.posteriors, atol=1e-5)
        assert one.protocols[0]["views"] == other.protocols[0]["views"]


def test_torchvisions_resnet(pairs, jpeg_tree):
    net = small_resnet()
    net.train()
    scores = vgg_mm.evaluate(net, pairs, "both", [64], input="torchvision", crop_size=64, grid=2)
    assert net.training
    net.eval()
    path, _ = pairs[0]
    side = vgg_mm.data.rescale(vgg_mm.data.read_image(str(path)), 64)[..., ::-1].copy()
    x = torchvision.transforms.functional.to_tensor(side)
    x = torchvision.transforms.functional.normalize(x, TORCHVISION.mean, TORCHVISION.std)[None]
    with torch.no_grad():
        dense = (net(x).softmax(1) + net(x.flip(3)).softmax(1)) / 2
    assert np.allclose(scores.posteriors[0, 0], dense[0], atol=1e-5)
    assert scores.labels.tolist() == [label for _, label in pairs]
    assert scores.error(1) == pytest.approx(
        100 * np.mean(scores.posteriors.mean(1).argmax(1) != scores.labels)
    )
    scores.save("s.npz")
    assert Scores.load("s.npz").metrics() == scores.metrics()
    folder = vgg_mm.evaluate(net, jpeg_tree / "val", scales=[64], input="torchvision", crop_size=64)
    assert folder.classes.tolist() == ["green", "red"] and folder.posteriors.shape == (4, 1, 3)
    images = torchvision.datasets.ImageFolder(jpeg_tree / "val")
    again = vgg_mm.evaluate(net, images, scales=[64], input="torchvision", crop_size=64)
    assert np.allclose(again.posteriors, folder.posteriors, atol=0.02)  # another JPEG decoder
    assert again.labels.tolist() == folder.labels.tolist()


class Brightest(nn.Module):
    """Of two WordNet folders the one that an image's brightest colour stands for."""

    def __init__(self, red, green):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor([red, green]).float())

    def forward(self, x):
        logits = x.new_zeros(len(x), 1000)
        logits[:, self.rows.long()] = 9 + x[:, :2].mean((2, 3))
        return logits


def test_a_part_of_imagenet_goes_by_name(jpeg_tree):
    for name, number in (("red", 700), ("green", 30)):
        shutil.copytree(jpeg_tree / "val" / name, f"part/{WORDNET[number]}")
    how = dict(views="crops", scales=64, input="torchvision", crop_size=32)
    like_torchvisions_imagenet = torchvision.datasets.ImageFolder("part")
    like_torchvisions_imagenet.wnids = like_torchvisions_imagenet.classes
    like_torchvisions_imagenet.classes = [("bullfrog", "Rana catesbeiana"), ("paper towel",)]
    for data in (
        "part",
        torchvision.datasets.ImageFolder("part"),
        torchvision.datasets.ImageFolder("part", target_transform=[30, 700].__getitem__),
        like_torchvisions_imagenet,
    ):
        scores = vgg_mm.evaluate(Brightest(700, 30), data, **how)
        assert scores.labels.tolist() == [30, 30, 700, 700] and scores.error(1) == 0
    scores = vgg_mm.evaluate(Brightest(700, 30), "part", **how)
    assert scores.labels.tolist() == [30, 30, 700, 700] and scores.error(1) == 0
    assert tuple(scores.classes) == IMAGENET["classes"]


def test_a_net_that_is_not_convolutional_is_told_to_use_crops(pairs):
    net = torchvision_net("A")
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    how = dict(scales=[64], input="torchvision", crop_size=64)
    with pytest.raises(UserError, match=r"VGG cannot run densely, for it pools its last map to 2"):
        vgg_mm.evaluate(net, pairs, **how)
    assert vgg_mm.evaluate(net, pairs, "crops", **how).posteriors.shape == (4, 1, 5)
    assert not net.training
    net.train()
    with pytest.raises(UserError, match="cannot run densely"):
        vgg_mm.evaluate(net, pairs, **how)
    assert net.training
    net.eval()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    with pytest.raises(UserError, match="Sequential cannot run densely, for an image of .128, 96"):
        vgg_mm.evaluate(flat, pairs, **how)
    assert vgg_mm.evaluate(flat, pairs, "crops", **how).posteriors.shape == (4, 1, 2)


def test_what_cannot_be_evaluated(pairs, checkpoint, tmp_path, jpeg_tree):
    net, how = small_resnet(), dict(scales=[64], input="torchvision", crop_size=64)
    ours = vgg_mm.load(checkpoint)
    (tmp_path / "data/blue").mkdir(parents=True)
    Image.fromarray(pixels()).save(tmp_path / "data/blue/a.png")
    for call, message in {
        lambda: vgg_mm.evaluate(
            net, pairs
        ): "ResNet does not tell its input: say input=torchvision",
        lambda: vgg_mm.evaluate(net, [], **how): "there is no image to test on",
        lambda: vgg_mm.evaluate(
            net, [(pairs[0][0], 3)], **how
        ): "labels are 3 to 3, and the net has 3",
        lambda: vgg_mm.evaluate(
            ours, "data"
        ): "the data has classes that the net lacks: blue.*alike",
        lambda: vgg_mm.evaluate(net, [("no.png", 0)], **how): "no.png: No such file",
        lambda: vgg_mm.evaluate(net, "nowhere", **how): "no images in .*nowhere",
    }.items():
        with pytest.raises(UserError, match=message):
            call()


def test_a_corrupt_image_is_named(checkpoint):
    Path("cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(CorruptImageError, match="cut.jpg"):
        vgg_mm.load(checkpoint).predict(["cut.jpg"])


def test_the_hubs_names(checkpoint, tmp_path, monkeypatch):
    net, asked = vgg_mm.load(checkpoint), []
    net.save("mine")

    def download(name, revision, allow_patterns):
        asked.append((name, revision))
        if name == "org/none":
            raise OSError("404 Client Error\nRequest ID")
        return str(tmp_path / ("empty" if name == "org/empty" else "mine"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert vgg_mm.load("hf://org/mine@v1").posteriors(pixels()).equal(net.posteriors(pixels()))
    again = vgg_mm.load("A", "hf://org/mine", input=net.input)
    assert again.model.head.fc8.bias.equal(net.model.head.fc8.bias)
    assert asked == [("org/mine", "v1"), ("org/mine", None)]
    with pytest.raises(UserError, match="hf://org/none could not be had: OSError: 404 Client Err"):
        vgg_mm.load("hf://org/none")
    with pytest.raises(UserError, match="hf://org/empty has no model.safetensors"):
        vgg_mm.load("hf://org/empty")
