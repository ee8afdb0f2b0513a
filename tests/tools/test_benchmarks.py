"""The benchmarks' machinery; their figures need a quiet machine and full-size nets."""

import json
import mmap
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tools.benchmarks import distributed, interleaved, link, shards, stores
from tools.benchmarks.input import generate, peers
from tools.benchmarks.input_peers import PEERS, Work
from tools.benchmarks.testing import check, peak_memory
from vgg_mm.errors import UserError
from vgg_mm.models import VGG

ROOT = Path(__file__).parents[2]


def test_the_testing_benchmark_agrees_with_timm_and_stock(tmp_path, monkeypatch, capsys):
    pytest.importorskip("timm")
    file = tmp_path / "figures.json"
    arguments = ["testing", "--width", "1", "--rounds", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["tools/benchmarks/benchmark.py", *arguments])
    runpy.run_path(str(ROOT / "tools/benchmarks/benchmark.py"), run_name="__main__")
    figures = json.loads(file.read_text())
    assert set(figures) >= {
        "dense_vs_timm",
        "dense_vs_timm_channels_last",
        "crops_vs_stock",
        "dense_vs_crops",
        "fraction_of_mm",
        "time_growth",
        "worker_bytes_vs_stock",
    }
    sent = 3 * (341 * 256 + 512 * 384 + 683 * 512)
    assert figures["worker_bytes_vs_stock"] == pytest.approx(150 * 3 * 224 * 224 / sent)
    assert capsys.readouterr().out.count("differ from ours by") == 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_stores_benchmark_counts_memory_but_not_files(tmp_path):
    fresh = mmap.mmap(-1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # none freed before

    def use():
        np.frombuffer(fresh, np.uint8)[:] = 1
        time.sleep(0.05)

    mib, _ = stores.peak(use)
    assert 30 < mib < 60
    file = tmp_path / "figures.json"
    arguments = ["--images", "100", "--numbers", "8", "--folder", str(tmp_path)]
    stores.main([*arguments, "--json", str(file)])
    figures = json.loads(file.read_text())
    assert figures["data_mib"] == 100 * 8 * 4 / 2**20
    assert figures["save_peak_mib"] < 60 and figures["fuse_peak_mib"] < 60
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.skipif(not shutil.which("jpegtran"), reason="tiles with jpegtran")
def test_the_input_benchmark_measures_given_pictures(tool, tmp_path):
    generate(tmp_path, 3)
    file = tmp_path / "figures.json"
    arguments = ["input", "--data", str(tmp_path), "--rounds", "1", "--json", str(file)]
    assert "3 of 3 tiled" in tool("benchmark", *arguments)
    figures = json.loads(file.read_text())
    assert set(figures) >= {
        "untouched_vs_mmpretrain",
        "tiled_vs_mmpretrain",
        "loader_vs_mmpretrain",
        "loader_vs_default_collate",
    }
    assert 0.9 < figures["tiled_bytes"] < 1.1
    assert figures["tiled_decoding"] < figures["untouched_decoding"] < 1


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_does_the_same_work(name, tmp_path):
    rows = np.mgrid[:150, :200][0].astype(np.uint8)
    for i in range(3):
        image = np.stack([rows, np.full_like(rows, 60 * i), np.full_like(rows, 90)], -1)
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    paths = [str(tmp_path / f"{i}.jpg") for i in range(3)] * 3
    try:
        batches = PEERS[name](paths, 2, Work((100, 140), 90, 4, [10, 20, 30]))
    except ImportError as error:
        pytest.skip(str(error))
    for _ in range(2):
        made = [batch.clone() for batch in batches()]
        assert [tuple(batch.shape) for batch in made] == [(n, 3, 90, 90) for n in (4, 4, 1)]
        made = torch.cat(made)
        assert made.dtype == torch.float32
        assert (made[:, 0] - (90 - 10)).abs().max() <= 3
        greens = made[:, 1].mean((1, 2)).sort().values + 20
        assert (greens - torch.tensor([0, 60, 120]).repeat_interleave(3)).abs().max() <= 3
        blues = made[:, 2, :, 45] + 30
        steps = (blues[:, -1] - blues[:, 0]) / 89  # source pixels a pixel: short / S
        assert 150 / 140 - 0.05 <= steps.min() < steps.max() <= 150 / 100 + 0.05
        assert blues[:, 0].std() > 3


def test_peers_that_are_missing_are_told(monkeypatch, capsys):
    for module in ("nvidia.dali", "spdl", "simplejpeg"):
        monkeypatch.setitem(sys.modules, module, None)
    assert peers(["a.jpg"], 1) == {}
    assert capsys.readouterr().out.count("without ") == len(PEERS)


def test_the_distributed_benchmark_counts_what_a_ring_sends(tmp_path):
    file, width, batch, n = tmp_path / "figures.json", 2, 12, 3
    arguments = ["distributed", "--arch", "A", "--width", str(width), "--batch", str(batch)]
    arguments += ["--processes", str(n), "--json", str(file)]
    command = [sys.executable, ROOT / "tools/benchmarks/benchmark.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(file.read_text())
    convs = sum(w.numel() for w in VGG("A", width).parameters())
    fc = [(8 * width * 49, 128), (128, 128), (128, 1000)]
    fcs = sum(outputs * (inputs + 1) for inputs, outputs in fc)
    share = 4 * 2 * (n - 1) / n / 1e6  # there and back
    assert figures["ddp_megabytes"] == pytest.approx(share * (convs + fcs))
    through = batch * (fc[0][0] + 129 + 129 + 1002)  # outputs as a multiple of 3
    assert figures["split_megabytes"] == pytest.approx(share * (convs + through))
    held = convs + sum(-(-outputs // n) * (inputs + 1) for inputs, outputs in fc)
    assert figures["memory_vs_ddp"] == pytest.approx(held / (convs + fcs))
    assert figures["bytes_vs_ddp"] == figures["split_megabytes"] / figures["ddp_megabytes"]


@pytest.mark.parametrize("rate", [0.1, None])
def test_the_link_benchmark_times_both_ways(monkeypatch, capsys, rate):
    if rate and not link.allowed():
        pytest.skip("no network namespaces here")
    small = "import functools; from tools.benchmarks import link; "
    small += "link.VGGHead = functools.partial(link.VGGHead, channels=8); link.host()"
    monkeypatch.setattr(link, "HOST", small)
    if not rate:
        monkeypatch.setattr(link, "allowed", lambda: False)
    figures = distributed.timed([0.1], [2], images=2, rounds=1)
    told = "loopback" if rate is None else "0.1gbit"
    assert figures.keys() == {f"step_vs_ddp_{told}"} and 0 < figures[f"step_vs_ddp_{told}"] < 100
    assert ("No rights" in capsys.readouterr().out) == (rate is None)


def test_mmpretrains_vgg_config_leaves_the_collation_to_mmengine():
    configs = Path(mmpretrain.__file__).parent / ".mim/configs"
    cfg = Config.fromfile(configs / "vgg/vgg16_8xb32_in1k.py")
    assert "collate_fn" not in cfg.train_dataloader


def test_results_that_differ_end_the_benchmark():
    with pytest.raises(UserError, match="timm's logits are not ours: a difference of 1.0e-03"):
        check("timm's logits", torch.tensor([1.0, 2.002]), torch.tensor([1.0, 2.0]))
    with pytest.raises(UserError):
        check("timm's logits", torch.tensor([float("nan")]), torch.tensor([1.0]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_that_of_the_run():
    peak = peak_memory(lambda: torch.ones(2**26) + 1, torch.device("cpu"))  # 256 MiB, twice
    assert peak == pytest.approx(512, rel=0.05)


def test_runs_take_turns_after_one_that_is_not_counted():
    called = []
    times = interleaved({name: lambda name=name: called.append(name) for name in "ab"}, rounds=2)
    assert called == ["a", "b"] * 3 and set(times) == {"a", "b"}


def test_the_perceptual_benchmark_agrees_with_piq_if_it_is_there(tool, tmp_path):
    file = tmp_path / "figures.json"
    small = ["--width", "4", "--side", "48", "--rounds", "1"]
    says = tool("benchmark", "perceptual", *small, "--json", str(file))
    figures = json.loads(file.read_text())
    assert set(figures) >= {"peak_mib", "style_peak_mib"}
    there = "piq is not installed" not in says
    assert ("style_time_vs_piq" in figures) == there
    assert says.count("piq's losses differ from ours by") == 2 * there


def test_the_shards_benchmark_measures_both_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "DROP", tmp_path / "no/such/file")  # other programs' files stay
    file = tmp_path / "figures.json"
    arguments = ["--files", "50", "--kb", "2", "--rounds", "1", "--folder", str(tmp_path)]
    shards.main([*arguments, "--json", str(file)])
    figures = json.loads(file.read_text())
    assert figures.keys() == {
        f"{state}_{what}" for state in ("cold", "warm") for what in ("folder", "shards", "ratio")
    }
    assert figures["warm_ratio"] == figures["warm_shards"] / figures["warm_folder"]
    assert "not allowed" in capsys.readouterr().err and [*tmp_path.iterdir()] == [file]
