"""One image in the style of another."""

import re

import cv2
import numpy as np
import pytest
import torch

from vgg_mm.models import VGG, Glorot


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Net A's convs at random, with a note of their input."""
    torch.manual_seed(0)
    net, path = VGG("A"), tmp_path_factory.mktemp("weights") / "a.pth"
    Glorot()(net)
    given = dict(order="RGB", top=255, mean=(124.0, 117.0, 104.0), std=(60.0, 60.0, 60.0))
    torch.save({"state_dict": net.state_dict(), "meta": {"input": given}}, path)
    return path


def test_the_image_comes_nearer_to_the_others_style_and_colours(weights, jpeg_tree, tool, tmp_path):
    out = tmp_path / "painted.png"
    green, red = (jpeg_tree / "train" / name / "0.jpg" for name in ("green", "red"))
    options = ["--arch", "A", "--weights", weights, "--side", 32, "--steps", 100]
    options += ["--content-weight", 0]
    says = tool("style", green, red, "--out", out, *options)
    before, after = map(float, re.search(r"fell from (\S+) to (\S+)\.", says).groups())
    assert after < before / 2
    blue_green_red = [cv2.imread(str(path)).mean((0, 1)) for path in (green, out, red)]
    distances = [np.abs(colours - blue_green_red[2]).sum() for colours in blue_green_red]
    assert distances[1] < 0.9 * distances[0]  # a random net: the way there, not all of it
    assert cv2.imread(str(out)).shape == (43, 32, 3)


def test_weights_that_do_not_tell_their_input(weights, jpeg_tree, tool, mistake, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(weights)["state_dict"], bare)
    image = jpeg_tree / "train/red/0.jpg"
    typed = ["style", image, image, "--arch", "A", "--weights", bare, "--side", 32, "--steps", 1]
    typed += ["--out", tmp_path / "painted.png"]
    assert "bare.pth does not tell what its net wants: say input=" in mistake(*typed)
    assert "Painted" in tool(*typed, "--input", "vgg_mm")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--side", 8], "--side 8: a net sees nothing"),
        (["--out", "x.bmp"], "x.bmp: write a .png"),
        (["--arch", "F"], "arch 'F'; use A, B, C, D, E"),
        (["--weights", "missing.pth"], "missing.pth"),
    ],
)
def test_what_is_wrong_is_named(options, message, weights, jpeg_tree, tool):
    image = jpeg_tree / "train/red/0.jpg"
    with pytest.raises(SystemExit, match=message):
        tool("style", image, image, "--weights", weights, *options)
