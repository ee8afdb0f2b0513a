"""Arrays that may be larger than the memory."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from vgg_mm import arrays
from vgg_mm.arrays import Rows, blocks, read_arrays, write_arrays

RNG = np.random.default_rng(0)
LARGE = RNG.normal(size=(50, 3, 7)).astype(np.float32)
SMALL = dict(names=np.array(["a", "bcd"]), n=np.arange(5), root="/x", nothing=np.empty((0, 2)))


def numpys(save=np.savez, **more):
    file = io.BytesIO()
    save(file, **SMALL, **more)
    return file.getvalue()


@pytest.mark.parametrize("block", [1, 21, 1000, arrays.BLOCK])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_writes_what_numpy_writes(block, dtype, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    asked = []

    def make(rows):
        asked.append(rows)
        return LARGE[rows]

    file = io.BytesIO()
    write_arrays(file, {**SMALL, "large": Rows(LARGE.shape, dtype, make)})
    assert file.getvalue() == numpys(large=LARGE.astype(dtype))
    assert len(asked) == {1: 50, 21: 50, 1000: 2}.get(block, 1)


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 50)
    assert [LARGE[rows].shape[0] for rows in blocks(LARGE)] == [2] * 25
    assert [range(7)[rows] for rows in blocks(np.empty((7, 20)))] == [
        range(2), range(2, 4), range(4, 6), range(6, 7)
    ]  # fmt: skip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote(save, tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(numpys(save, large=LARGE, turned=np.asfortranarray(LARGE)))
    found = read_arrays(file)
    assert found.keys() == {*SMALL, "large", "turned"}
    for name, expected in {**SMALL, "large": LARGE, "turned": LARGE}.items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == np.asanyarray(expected).dtype


def test_what_is_read_stays_on_the_disk(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, large=np.ones((2000, 1000)))
    tracemalloc.start()
    large = read_arrays(file)["large"]
    assert large[1990:].sum() == 10_000
    assert tracemalloc.get_traced_memory()[1] < 1e6 < large.nbytes
    tracemalloc.stop()
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 2


def test_no_file_of_arrays(tmp_path):
    file = tmp_path / "x.npz"
    whole = numpys(large=LARGE)
    for content in (b"", b"text", whole[:-30], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            read_arrays(file)
    np.savez(file, x=np.array([dict()], dtype=object))
    with pytest.raises(ValueError, match="OBJECT"):  # would run what a file says
        read_arrays(file)
