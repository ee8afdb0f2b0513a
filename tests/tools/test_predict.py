import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain import ImageClassificationInferencer
from mmpretrain.registry import MODELS
from whole_strides import whole_strides

from tools.analysis.drawing import draw
from vgg_mm.api import load
from vgg_mm.cli.commands import commands
from vgg_mm.data import read_image, rescale
from vgg_mm.data.scenes import Settings, draw_scenes
from vgg_mm.errors import UserError
from vgg_mm.testing.evaluation import Evaluation

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests/crops_of_64.py"
CLASSES = ["ant", "bee", "costs $5, not $6", "dog", "elk", "fox", "gnu", "hen"]
PICTURES = {
    "deep/tall.JPG": (300, 120, 3),
    "deep/tiny.bmp": (3, 2, 3),
    "grey.webp": (64, 64),
    "wide.png": (90, 200, 3),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def cfg():
    return Config.fromfile(CONFIG)


@pytest.fixture(scope="module")
def model(cfg):
    """The demo's net with random weights; those of fc8 are large, so that pictures differ."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    with torch.no_grad():
        model.head.fc8.weight.normal_(std=0.2)
    return model


@pytest.fixture
def checkpoint(model, tmp_path):
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.fixture
def folder(tmp_path):
    """Pictures wide, tall, tiny and grey, at two depths, beside what is no picture."""
    rng = np.random.default_rng(0)
    (tmp_path / "in/deep").mkdir(parents=True)
    for name, shape in PICTURES.items():
        coarse = rng.integers(0, 256, [(side + 9) // 10 for side in shape[:2]] + [*shape[2:]])
        image = cv2.resize(np.uint8(coarse), shape[1::-1])
        assert cv2.imwrite(str(tmp_path / "in" / name), image)
    (tmp_path / "in/notes.txt").write_text("no picture")
    return tmp_path / "in"


@pytest.fixture
def tool(tool):
    return lambda *args, name="predict": tool(name, *args)


def normalised(cfg, image):
    """BGR uint8 (H, W, 3) to what the net sees, (1, 3, H, W)."""
    rgb = torch.from_numpy(image[..., ::-1].astype(np.float32)).permute(2, 0, 1)
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).float() for key in ("mean", "std"))
    return ((rgb - mean[:, None, None]) / std[:, None, None])[None]


def posterior(model, x):
    with torch.no_grad():
        maps = model.backbone(x)[-1]
        return model.head.score_map([maps]).mean((2, 3)).softmax(1)[0]


def by_hand(cfg, model, picture):
    """Dense at Q, with the mirror image."""
    image = read_image(str(picture))
    (Q,) = cfg.tta_pipeline[1].scales
    x = normalised(cfg, whole_strides(rescale(image, Q)))
    return (posterior(model, x) + posterior(model, x.flip(3))) / 2


def test_predicts_densely_with_the_mirror_image(cfg, model, checkpoint, folder):
    net = load(cfg, checkpoint)
    assert list(net.classes) == CLASSES
    found = []
    for picture in (folder / name for name in PICTURES):
        found.append(net.posteriors(picture)[0].mean(0))
        torch.testing.assert_close(found[-1], by_hand(cfg, model, picture), rtol=1e-4, atol=1e-6)
        top = net.predict(picture, 3)
        values, labels = found[-1].topk(3)
        assert top == [(CLASSES[i], v) for i, v in zip(labels, values.tolist(), strict=True)]
        assert len(net.predict(picture, 99)) == len(CLASSES)
    assert torch.stack(found).std(0).max() > 0.01


def test_no_class_is_named_where_the_probabilities_are_no_numbers(
    model, checkpoint, folder, tool, tmp_path
):
    saved = torch.load(checkpoint)
    saved["state_dict"]["head.fc8.bias"] = torch.full((8,), torch.nan)
    torch.save(saved, checkpoint)
    for name in ("predict", "score_map"):
        with pytest.raises(
            SystemExit, match=r"^error: .*wide\.png: the net's probabilities are no"
        ):
            tool(CONFIG, checkpoint, folder / "wide.png", name=name)
    assert not list(tmp_path.glob("**/*.png.png"))


def test_tool_names_and_draws_a_folder(cfg, checkpoint, folder, tool, tmp_path):
    out = tool(CONFIG, checkpoint, folder, "--top", 2)
    net = load(cfg, checkpoint)
    expected = []
    for name in PICTURES:
        expected.append(f"{folder / name}")
        for label, value in net.predict(folder / name, 2):
            expected.append(f"{100 * value:7.2f}%  {label}")
        drawn = cv2.imread(str(tmp_path / f"predictions/{name}.png"))
        assert drawn.shape[1] == 1000 and drawn.std() > 10
    assert out.splitlines() == [*expected, "Drawn in predictions"]
    assert len(list((tmp_path / "predictions").rglob("*.*"))) == 4


def test_tool_does_not_predict_its_own_drawings(checkpoint, folder, tool, monkeypatch):
    monkeypatch.chdir(folder)
    first, second = (tool(CONFIG, checkpoint, ".") for _ in range(2))
    assert first == second and "predictions/wide.png.png" not in second
    with pytest.raises(SystemExit, match="no image in . but those in ."):
        tool(CONFIG, checkpoint, ".", "--out", ".")
    monkeypatch.chdir(folder.parent)
    assert folder.joinpath("wide.png").name in tool(CONFIG, checkpoint, folder.name, "--out", ".")


def test_tool_names_one_picture(checkpoint, folder, tool, tmp_path):
    out = tool(CONFIG, checkpoint, folder / "wide.png", "--out", tmp_path / "a/b")
    assert len(out.splitlines()) == 7  # the name, five classes, the folder
    assert (tmp_path / "a/b/wide.png.png").is_file()


def test_tool_goes_on_after_a_bad_picture(checkpoint, folder, tool, capsys):
    (folder / "a.jpg").touch()
    (folder / "deep/z.jpg").write_bytes((folder / "deep/tall.JPG").read_bytes()[:-9])
    (folder / "gone.png").symlink_to(folder / "nowhere")
    with pytest.raises(SystemExit) as exit:
        tool(CONFIG, checkpoint, folder)
    error = str(exit.value)
    assert error.startswith("error: 3 of 7 images failed:\n")
    for name in ("a.jpg: the file is empty.", "deep/z.jpg: the image is trunc", "gone.png: No "):
        assert f"\n  {folder}/{name}" in error
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4 * 6 + 1 and f"{folder}/wide.png\n" in out
    with pytest.raises(SystemExit, match="1 of 1 images failed:\n.*a.jpg: the file"):
        tool(CONFIG, checkpoint, folder / "a.jpg")
    assert capsys.readouterr().out == ""


def test_tool_goes_on_after_pictures_too_large_or_too_thin(
    checkpoint, folder, tool, monkeypatch, capsys
):
    cv2.imwrite(str(folder / "strip.png"), np.zeros((2, 60000, 3), np.uint8))
    cv2.imwrite(str(folder / "deep/long.png"), np.zeros((3, 299, 3), np.uint8))
    monkeypatch.setenv("VGG_MM_MAX_PIXELS", "130000")
    outputs = Evaluation._outputs

    def in_little_memory(self, x):
        if x.shape[-1] > 5 * x.shape[-2]:
            raise RuntimeError(
                "alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory\nframe #0"
            )
        return outputs(self, x)

    monkeypatch.setattr(Evaluation, "_outputs", in_little_memory)
    cv2.imwrite(str(folder / "huge.png"), np.zeros((362, 361, 3), np.uint8))
    cv2.imwrite(str(folder / "wider.png"), np.zeros((30, 160, 3), np.uint8))
    with pytest.raises(SystemExit) as exit:
        tool(CONFIG, checkpoint, folder)
    first, *failed = str(exit.value).split("\n  ")
    assert first == "error: 4 of 8 images failed:"
    for line, name, says in zip(
        failed,
        ["deep/long.png", "huge.png", "strip.png", "wider.png"],
        [
            "7276x73 pixels if its 299x3 are scaled to a shortest side of 73, more than 130,000",
            "361x362 pixels, more than 130,000",
            "60000x2 pixels are too thin",
            "too large for the memory (RuntimeError: alloc_cpu.cpp:127] DefaultCPUAllocator: not",
        ],
        strict=True,
    ):
        assert line.startswith(f"{folder / name}: {says}"), line
    assert len(capsys.readouterr().out.splitlines()) == 4 * 6 + 1


def test_errors(checkpoint, folder, tool, tmp_path):
    (tmp_path / "empty").mkdir()
    for args, message in {
        (CONFIG, checkpoint, tmp_path / "empty"): "no image in .*empty",
        (CONFIG, checkpoint, "nothing.jpg"): "no image or folder nothing.jpg",
        (CONFIG, "none.pth", folder): "no checkpoint none.pth",
        (tmp_path / "none.py", checkpoint, folder): "no config .*none.py",
        (CONFIG, folder / "notes.txt", folder): ".*notes.txt is not a checkpoint that loads safely",
        (CONFIG, checkpoint, folder, "--top", 0): "--top 0",
        (CONFIG, checkpoint, folder, "--out", folder / "notes.txt"): "cannot draw in .*notes.txt",
    }.items():
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            tool(*args)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_checkpoint_runs_no_code(cfg, tmp_path):
    torch.save({"state_dict": {}, "meta": Payload()}, "evil.pth")
    with pytest.raises(UserError, match="loads safely"):
        load(cfg, "evil.pth")
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], "list.pth")
    with pytest.raises(UserError, match="loads safely"):
        load(cfg, "list.pth")


def test_another_nets_checkpoint_is_the_error_of_testing(checkpoint, folder, tool):
    draw_scenes("data/demo", Settings(images=(8, 8, 0), classes=8))
    options = ("--cfg-options", "model.head.num_classes=3")
    messages = []
    for args, name in (((folder, *options), "predict"), (options, "test")):
        with pytest.raises(SystemExit) as exit:
            tool(CONFIG, checkpoint, *args, name=name)
        messages.append(str(exit.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"error: {checkpoint} does not fit the config's net: head.fc8 is")


def test_class_names_that_the_checkpoint_lacks(cfg, model, folder, tmp_path):
    draw_scenes("data/demo", Settings(images=(8, 8, 0), classes=8))
    torch.save(model.state_dict(), "bare.pth")
    assert list(load(cfg, "bare.pth").classes) == sorted(os.listdir("data/demo/val"))

    imagenet = Config(cfg.to_dict())
    imagenet.train_dataloader.dataset = dict(type="vgg_mm.ImageNet", data_root="not/here")
    net = load(imagenet, "bare.pth")  # needs no data to know its classes
    assert len(net.classes) == 1000
    with pytest.raises(UserError, match="the net has 8 classes, .* names 1000"):
        net.predict(folder / "wide.png")


def test_a_config_without_a_protocol_is_an_error(cfg, checkpoint):
    lacking = Config({key: cfg[key] for key in cfg if key != "tta_model"})
    with pytest.raises(UserError, match="does not say how to test: it needs a tta_model"):
        load(lacking, checkpoint)


def test_a_drawing_shows_the_picture_and_a_bar_a_class(tmp_path):
    cv2.imwrite("red.png", np.full((50, 70, 3), (0, 0, 255), np.uint8))
    drawings = []
    for value in (0.2, 0.9):
        names = ["$", "W" * 99]
        draw("red.png", [(names[1], value), (names[0], 0.1)], tmp_path / "new/drawn.png", names)
        drawings.append(cv2.imread("new/drawn.png").astype(int))
    red = (drawings[0] == (0, 0, 255)).all(2)
    assert 0.3 < red.mean() and red[: red.shape[0] // 2].sum() > red.sum() / 2
    blue = [((image[..., 0] - image[..., 2]) > 60).sum() for image in drawings]
    assert 3 < blue[1] / blue[0] < 6
    for image in drawings:  # nothing is cut off
        assert (image[:, [0, -1]] == 255).all() and (image[-1] == 255).all()


def test_mmpretrains_inferencer(cfg, model, checkpoint, folder):
    inferencer = ImageClassificationInferencer(str(CONFIG), pretrained=str(checkpoint))
    _, rescaling, crop, _ = cfg.test_dataloader.dataset.pipeline
    Q, size = rescaling.Q, crop.size
    for name in ("wide.png", "deep/tall.JPG"):
        image = rescale(read_image(str(folder / name)), Q)
        top, left = ((side - size) // 2 for side in image.shape[:2])
        image = image[top : top + size, left : left + size]
        expected = posterior(model, normalised(cfg, image)).numpy()
        (result,) = inferencer(str(folder / name))
        np.testing.assert_allclose(result["pred_scores"], expected, rtol=1e-4, atol=1e-6)
        assert result["pred_class"] == CLASSES[expected.argmax()]
        (again,) = inferencer(read_image(str(folder / name)))
        np.testing.assert_array_equal(again["pred_scores"], result["pred_scores"])


def test_help_is_instant():
    code = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "cv2", "mmcv", "matplotlib"} & sys.modules.keys()
"""
    for tool in ("predict", "score_map", "describe", "dataset_stats"):
        subprocess.run(
            [sys.executable, "-c", code, commands()[tool], "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
