"""Fusion of stored posteriors (Sec. 4), as a user calls it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vgg_mm.testing import Scores

ROOT = Path(__file__).parents[2]
N, CLASSES = 60, 8


def scores(seed, V=2, half=False):
    """Posteriors of a net that is right somewhat more often than chance."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % CLASSES
    logits = rng.normal(size=(N, V, CLASSES)) + 0.8 * np.eye(CLASSES)[labels][:, None]
    posteriors = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Scores(
        posteriors.astype(np.float16 if half else np.float32),
        labels=labels,
        names=np.array([f"{i % CLASSES}/{i:03}.jpg" for i in range(N)]),
        classes=np.array([f"class {i}" for i in range(CLASSES)]),
        root="pictures",
        protocols=[dict(config=f"net{seed}", views=["dense"] * V, scales=list(range(V)))],
    )


def top_errors(posteriors, labels):
    """Top-1 and top-5 error in %, by sorting."""
    order = np.argsort(-posteriors, axis=1)
    return [100 * np.mean((order[:, :k] != labels[:, None]).all(1)) for k in (1, 5)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three models' scores, with different numbers of views."""
    monkeypatch.chdir(tmp_path)
    made = {"a.npz": scores(1, V=1), "b.npz": scores(2, V=6), "c.npz": scores(3, V=2, half=True)}
    for name, each in made.items():
        each.save(name)
    return made


@pytest.fixture
def tool(tool):
    return partial(tool, "fuse")


def shown(posteriors, labels):
    return "top-1 error {:.1f}%, top-5 error {:.1f}%".format(*top_errors(posteriors, labels))


def test_every_model_counts_alike_however_many_views_it_has(files, tool):
    means = [each.posteriors.astype(float).mean(1) for each in files.values()]
    labels = files["a.npz"].labels
    out = tool(*files, "--out", "made/fused.npz")
    *each, fused = out.splitlines()
    for line, name, mean in zip(each, files, means, strict=True):
        assert line == f"{name}, weight 0.333: {shown(mean, labels)}"
    expected = sum(means) / 3
    assert fused == f"fused: {shown(expected, labels)}"
    assert len({shown(mean, labels) for mean in [*means, expected]}) == 4
    saved = Scores.load("made/fused.npz")
    assert saved.posteriors.shape == (N, 1, CLASSES)
    assert np.allclose(saved.posteriors[:, 0], expected, atol=1e-6)
    assert [p["config"] for p in saved.protocols] == ["net1", "net2", "net3"]
    assert (saved.names == files["a.npz"].names).all() and (saved.labels == labels).all()


def test_weights_are_normalised(files, tool):
    tool("a.npz", "b.npz", "--weights", 3, 1, "--out", "fused.npz")
    a, b = (files[name].posteriors.astype(float).mean(1) for name in ("a.npz", "b.npz"))
    assert np.allclose(Scores.load("fused.npz").posteriors[:, 0], 0.75 * a + 0.25 * b, atol=1e-6)
    tool("a.npz", "b.npz", "--weights", 0, 5, "--out", "b_alone.npz")
    assert np.allclose(Scores.load("b_alone.npz").posteriors[:, 0], b, atol=1e-6)


def test_a_fused_file_fuses_again(files, tool):
    tool("a.npz", "b.npz", "--out", "ab.npz")
    tool("ab.npz", "c.npz", "--weights", 2, 1, "--out", "abc.npz")
    tool(*files, "--out", "at_once.npz")
    two_steps, at_once = (Scores.load(name) for name in ("abc.npz", "at_once.npz"))
    assert np.allclose(two_steps.posteriors, at_once.posteriors, atol=1e-6)
    assert two_steps.protocols == at_once.protocols


@pytest.mark.parametrize(
    "weights, says",
    [
        ([1], "1 weights for 2 files"),
        ([1, 1, 1], "3 weights for 2 files"),
        ([0, 0], "weights 0 0: use numbers of 0 or more, with a positive sum"),
        ([2, -1], "weights 2 -1: use"),
        (["nan", 1], "weights nan 1: use"),
    ],
)
def test_bad_weights(weights, says, files, mistake):
    assert says in mistake("a.npz", "b.npz", "--weights", *weights)


def swap(values, i, j):
    values[[i, j]] = values[[j, i]]


def rename(other):
    other.names[41] = "1/x.jpg"
    other.names[50] = "1/y.jpg"


def relabel(other):
    other.labels[7] = 3


def shorten(other):
    other.names = other.names[:-1]


DIFFERENCES = [
    (rename, "image 41 is '1/041.jpg' in a.npz and '1/x.jpg' in b.npz."),
    (lambda s: swap(s.names, 5, 9), "image 5 is '5/005.jpg' in a.npz and '1/009.jpg' in b.npz (the "
     "same ones in another order)."),
    (shorten, f"image {N - 1} is '3/059.jpg' in a.npz and missing in b.npz."),
    (lambda s: swap(s.classes, 2, 3), "class 2 is 'class 2' in a.npz and 'class 3' in b.npz (the "),
    (relabel, "label 7 is 7 in a.npz and 3 in b.npz."),
]  # fmt: skip


@pytest.mark.parametrize("change, says", DIFFERENCES)
def test_other_data_is_refused_at_the_first_difference(change, says, files, mistake):
    change(files["b.npz"])
    files["b.npz"].save("b.npz")
    message = mistake("a.npz", "b.npz", "--out", "fused.npz")
    assert message.startswith("error: a.npz and b.npz were not tested on the same data: " + says)
    assert not Path("fused.npz").exists()


def test_other_mistakes(files, mistake):
    assert "a.npz alone is no fusion" in mistake("a.npz")
    assert "no scores none.npz" in mistake("a.npz", "none.npz")
    Path("text.npz").write_text("no scores")
    assert "text.npz is not a file that tools/test.py --out wrote" in mistake("a.npz", "text.npz")


def test_without_a_file_to_write_it_prints(files, tool):
    assert len(tool("a.npz", "b.npz").splitlines()) == 3
