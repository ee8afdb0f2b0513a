"""Results that need not fit into memory, through any interruption."""

import errno
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from tools import keeping as module
from tools.analysis.fusion import fuse
from tools.benchmarks import stores
from tools.keeping import RemainingSampler, SaveScores
from vgg_mm import arrays
from vgg_mm.errors import UserError
from vgg_mm.testing import Scores

N, CLASSES = 30, 6


@pytest.fixture
def small_blocks(monkeypatch):
    def use(numbers):
        monkeypatch.setattr(arrays, "BLOCK", numbers)
        monkeypatch.setattr(module, "BLOCK", numbers)

    return use


class Shuffled:
    """A data set whose images are listed in no order of their names."""

    def __len__(self):
        return N

    def get_data_info(self, index):
        return dict(img_path=f"/images/{index % 4}/{index:02}.jpg", gt_label=index % CLASSES)


POSTERIORS = np.random.default_rng(0).dirichlet([1] * CLASSES, (N, 2)).astype(np.float32)


def run(folder, until=N, every=0, half=False, batch=3):
    """A test of what remains, which ends after so many images."""
    saver = SaveScores(folder / "s.npz", dict(config="x"), folder / "s.parts", half, every)
    indices = list(RemainingSampler(Shuffled(), folder / "s.parts"))
    for at in range(0, min(until, len(indices)), batch):
        infos = [(i, Shuffled().get_data_info(i)) for i in indices[at : at + batch]]
        saver.process({}, [i | dict(posteriors=torch.from_numpy(POSTERIORS[n])) for n, i in infos])
    if until >= len(indices):
        saver.evaluate(N)
    return indices


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return (folder / "s.npz").read_bytes()


def test_the_file_is_sorted_whatever_the_order_and_the_blocks(whole, tmp_path, small_blocks):
    (tmp_path / "s.npz").write_bytes(whole)
    stored = Scores.load(tmp_path / "s.npz")
    order = sorted(range(N), key=lambda i: (i % 4, i))
    assert stored.names.tolist() == [f"{i % 4}/{i:02}.jpg" for i in order]
    assert stored.labels.tolist() == [i % CLASSES for i in order]
    np.testing.assert_array_equal(stored.posteriors, POSTERIORS[order])
    small_blocks(25)  # two images
    assert run(tmp_path, batch=7) == order
    assert (tmp_path / "s.npz").read_bytes() == whole


def test_a_test_ended_at_any_image_ends_in_the_same_bytes(whole, tmp_path):
    tested = [run(tmp_path, until)[:until] for until in (3, 9, 6)] + [run(tmp_path)]
    assert sorted(sum(tested, [])) == [*range(N)]
    assert (tmp_path / "s.npz").read_bytes() == whole
    assert [*tmp_path.iterdir()] == [tmp_path / "s.npz"]


def killed(*_):
    os._exit(9)  # nothing is cleaned up


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def ended(folder, call, at, how):
    """Whether a test ended at the call ``at`` of a function of os, in a process of its own."""
    if not (child := os.fork()):
        code, real, left = 1, getattr(os, call), [at]

        def dying(*args, **kwargs):
            left[0] -= 1
            return real(*args, **kwargs) if left[0] else how()

        setattr(os, call, dying)
        try:
            run(folder, batch=9)
            code = 0
        except UserError as error:
            code = 9 if "(No space left on device); what was there is as it" in str(error) else 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize(
    "call, how, times",  # four parts and the file, then the parts' removal
    [("fsync", killed, 5), ("fsync", full, 5), ("replace", killed, 5), ("unlink", killed, 9)],
)
def test_an_end_at_any_instant_loses_nothing(call, how, times, whole, tmp_path):
    at = 1
    while ended(folder := tmp_path / str(at), call, at, how):
        kept = sum(len(arrays.read_arrays(part)["names"]) for part in folder.glob("s.parts/*.npz"))
        assert len(run(folder)) == N - kept
        assert (folder / "s.npz").read_bytes() == whole
        assert not (folder / "s.parts").exists()
        at += 1
    assert at > times


def test_another_precision_goes_on_with_what_is_there(whole, tmp_path):
    run(tmp_path, until=12, half=False)
    run(tmp_path, half=True)
    (tmp_path / "w.npz").write_bytes(whole)
    half, single = (Scores.load(tmp_path / f"{name}.npz").posteriors for name in "sw")
    assert half.dtype == np.float16 and half.nbytes * 2 == single.nbytes
    np.testing.assert_array_equal(half, single.astype(np.float16))


def test_memory_does_not_grow_with_the_images(tmp_path, small_blocks):
    small_blocks(2**18)  # 1 MB of posteriors
    images, numbers = 8000, 1024  # 33 MB of them
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    for work in (lambda: stores.save(one, images, numbers), lambda: stores.average(one, two)):
        tracemalloc.start()
        work()
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()
    once, twice = (Scores.load(file).posteriors for file in (one, two))
    assert once.shape == twice.shape == (images, 1, numbers)
    np.testing.assert_array_equal(once, twice)


def test_blocks_change_no_figure(whole, tmp_path, small_blocks):
    file = tmp_path / "s.npz"
    file.write_bytes(whole)
    scores = Scores.load(file)
    scores.posteriors = scores.posteriors.copy()
    scores.posteriors[[3, 17], 1, 2] = np.nan
    other = replace(scores, posteriors=scores.posteriors[:, :1])

    def figures():
        fused = fuse([("a", scores), ("b", other)], [0.25, 0.75])
        fused.save(tmp_path / "fused.npz")
        return [
            *scores.metrics().values(), *scores.wrong(2), *scores.no_numbers(),
            *fused.metrics().values(), (tmp_path / "fused.npz").read_bytes(),
        ]  # fmt: skip

    at_once = figures()
    mean = np.where(np.isfinite(scores.posteriors).all((1, 2))[:, None], scores.mean(), -1)
    best = np.argsort(-mean, 1)
    right = (best[:, :2] == scores.labels[:, None]).any(1) & (mean >= 0).all(1)
    assert scores.wrong(2).tolist() == (~right).tolist()
    assert scores.no_numbers().nonzero()[0].tolist() == [3, 17]
    expected = 0.25 * scores.mean() + 0.75 * other.mean()
    np.testing.assert_array_equal(Scores.load(tmp_path / "fused.npz").mean(), expected)
    small_blocks(25)
    assert figures() == at_once
