"""The paired difference of two tests' errors."""

import re

import numpy as np
import pytest

from vgg_mm.testing import Guesses, Scores

N = 400


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(file, right, guesses=5, names="ILSVRC2012_val_{:08}.JPEG"):
    values = np.zeros((N, guesses, 7))
    values[np.flatnonzero(right), 0, 6] = 1
    Guesses(
        values,
        labels=np.zeros(N, int),
        names=np.array([names.format(i) for i in range(N)]),
        classes=np.array(["thing"]),
        root="",
        protocols=[{}],
    ).save(file)


def told(line):
    numbers = re.findall(r"[-+]?\d+\.\d+", line)
    one, other, difference, low, high = map(float, numbers)
    return one, other, difference, low, high


def test_the_interval_is_of_the_pairs(tool):
    rng = np.random.default_rng(0)
    right = rng.random(N) < 0.6
    worse = right & (rng.random(N) < 0.9)  # the same images but for some that are lost
    save("a.npz", worse)
    save("b.npz", right)
    first, second = tool("compare", "a.npz", "--against", "b.npz").splitlines()
    lost = right & ~worse
    one, other, difference, low, high = told(first)
    assert (one, other) == tuple(round(100 * (1 - x.mean()), 2) for x in (worse, right))
    assert difference == pytest.approx(100 * lost.mean())
    # That of a share, which the two errors' own spread, ten times as large, is not.
    half = 196 * lost.std() / N**0.5
    assert low == pytest.approx(difference - half, rel=0.15)
    assert high == pytest.approx(difference + half, rel=0.1)
    assert first.startswith("top-1 error") and second.startswith("top-5 error")
    assert first.endswith(f"({N} images, 1 seed(s))")
    (again, _) = tool("compare", "b.npz", "--against", "a.npz").splitlines()
    assert told(again)[2:] == pytest.approx((-difference, -high, -low), abs=0.011)


def test_seeds_and_a_blacklist(tool):
    for i in range(2):
        save(f"a{i}.npz", np.arange(N) >= 100, guesses=1)
        save(f"b{i}.npz", np.arange(N) >= 100 + 50 * i, guesses=1)
    with open("list.txt", "w") as file:
        file.write("\n".join(map(str, range(100))))
    typed = ["compare", "a0.npz", "a1.npz", "--against", "b0.npz", "b1.npz"]
    (line,) = tool(*typed, "--blacklist", "list.txt").splitlines()
    one, other, difference, low, high = told(line)
    assert (one, other) == (0, round(100 * 25 / 300, 2)) and difference == -other
    assert "(300 images, 2 seed(s))" in line
    assert low < -20 and 3 < high < 6  # one seed twice, or the other, and wider for being two


def test_posteriors_are_compared_too_and_mistakes_are_told(tool):
    posteriors = np.random.default_rng(1).random((N, 2, 9))
    scores = Scores(
        posteriors,
        labels=np.arange(N) % 9,
        names=np.array([str(i) for i in range(N)]),
        classes=np.array([str(i) for i in range(9)]),
        root="",
    )
    scores.save("a.npz")
    scores.posteriors = posteriors[::-1]
    scores.save("b.npz")
    one, five = tool("compare", "a.npz", "--against", "b.npz").splitlines()
    assert told(one)[1] == pytest.approx(scores.error(1), abs=0.006)
    assert told(five)[1] == pytest.approx(scores.error(5), abs=0.006)
    save("boxes.npz", np.ones(N))
    save("others.npz", np.ones(N), names="{}.jpg")
    for typed, says in (
        (["a.npz", "--against", "boxes.npz"], "boxes.npz is not a file that"),
        (["boxes.npz", "--against", "others.npz"], "were not tested on the same data: image 0"),
        (["a.npz", "b.npz", "--against", "a.npz"], "2 files against 1: give as many"),
    ):
        with pytest.raises(SystemExit, match=says):
            tool("compare", *typed)
