"""Every row of Tables 3-6 by its own command, on ten pictures and with narrow nets."""

import csv
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmpretrain.registry import MODELS
from PIL import Image

from tools.analysis.stored import scores_command
from vgg_mm.cli.commands import commands
from vgg_mm.paper import TABLE_3, TABLE_4, TABLE_5, TABLE_6
from vgg_mm.testing import Scores
from vgg_mm.testing.evaluation import VIEWS

ROOT = Path(__file__).parents[2]
NARROW = {
    "model.backbone.width": 1,
    "model.head.in_channels": 8,
    "model.head.channels": 8,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
}
N = 10


def options(**more):
    changed = NARROW | {f"test_dataloader.{key}": value for key, value in more.items()}
    return ["--cfg-options", *(f"{key}={value}" for key, value in changed.items())]


def call(cwd, tool, *args):
    """Runs a tool in this process, for in its own each costs seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"tools/{tool}.py", *map(str, args)])
        runpy.run_path(str(commands()[tool]), run_name="__main__")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """A folder with ``configs``, ten pictures in ``data/imagenet``, and a checkpoint a config."""
    cwd = tmp_path_factory.mktemp("paper")
    (cwd / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    listed = []
    for i in range(N):
        file = cwd / f"data/imagenet/val/n{i % 4:08}/{i}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (60, 45) if i % 3 else (45, 60)
        picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(size)
        picture.save(file)
        listed.append(f"{file.parent.name}/{file.name} {100 * (i % 4)}\n")
    (cwd / "data/imagenet/meta").mkdir()
    (cwd / "data/imagenet/meta/val.txt").write_text("".join(listed))
    for row in TABLE_3:
        cfg = Config.fromfile(ROOT / f"configs/{row.config}.py")
        cfg.merge_from_dict(NARROW)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):  # posteriors neither alike nor saturated
                torch.nn.init.kaiming_normal_(layer.weight)
        model.head.fc8.weight.data *= 0.5
        (cwd / f"work_dirs/{row.config}").mkdir(parents=True)
        torch.save(dict(state_dict=model.state_dict()), cwd / f"work_dirs/{row.config}/best.pth")
    return cwd


@pytest.fixture(scope="module")
def scores(cwd):
    """The scores of each config, made by the command that the tables give."""
    for row in TABLE_3:
        python, tool, *args = shlex.split(scores_command(row.arch, row.S))
        assert (python, tool) == ("python", "tools/test.py")
        call(cwd, "test", *args, *options())
    return {row.config: Scores.load(cwd / f"scores/{row.config}.npz") for row in TABLE_3}


def select(stored, views, scales):
    """The part of a file with these views and scales."""
    (protocol,) = stored.protocols
    pairs = list(zip(protocol["views"], protocol["scales"], strict=True))
    chosen = [pairs.index((view, Q)) for view in views for Q in scales]
    return replace(stored, posteriors=stored.posteriors[:, chosen])


@pytest.mark.parametrize("row", [*TABLE_3, *TABLE_4, *TABLE_5, *TABLE_6], ids=str)
def test_the_stored_protocol_is_the_rows(row, scores):
    for arch, S, scales in row.models:
        (config,) = {r.config for r in TABLE_3 if (r.arch, r.S) == (arch, S)}
        stored = scores[config]
        (protocol,) = stored.protocols
        said = {key: protocol[key] for key in ("config", "arch", "flip", "grid", "crop_size")}
        assert said == dict(config=config, arch=arch, flip=True, grid=5, crop_size=224)
        assert protocol["S"] == (list(S) if isinstance(S, tuple) else S)
        part = select(stored, VIEWS[row.views], scales)
        assert part.posteriors.shape == (N, len(VIEWS[row.views]) * len(scales), 1000)
        assert np.allclose(part.posteriors.sum(2), 1, atol=1e-4)


def test_the_tables_are_full(cwd, scores):
    call(cwd, "tables", "scores", "--csv", "tables.csv")
    lines = [
        line
        for line in csv.DictReader((cwd / "tables.csv").read_text().splitlines())
        if line["table"][:7] in ("Table 3", "Table 4", "Table 5", "Table 6")
    ]
    assert len(lines) == len([*TABLE_3, *TABLE_4, *TABLE_5, *TABLE_6])
    for line in lines:
        assert 0 <= float(line["top-5 val. error (%)"]) <= 100 and not line["to make it"]


def test_without_flags_it_is_the_row_of_table_3(cwd, capsys):
    best = "work_dirs/vgg11_a_256/best.pth"
    call(cwd, "test", "configs/vgg11_a_256.py", best, "--out", "a.npz", *options())
    printed = capsys.readouterr().out
    assert "\nthe paper's: 29.6% and 10.4% (net A, S 256, Q 256, dense)\n" in printed
    assert f"\nTested on {N} images of 1000 classes: not ILSVRC-2012's validation set" in printed
    protocol = Scores.load(cwd / "a.npz").protocols[0]
    assert (protocol["views"], protocol["scales"]) == (["dense"], [256])


def command(out, views="both", scales=(256, 384, 512)):
    best = "work_dirs/vgg16_d_jitter/best.pth"
    return [
        "configs/vgg16_d_jitter.py", best, "--out", out, "--views", views,
        "--scales", *map(str, scales),
    ]  # fmt: skip


def same(one, other):
    assert one.names.tolist() == other.names.tolist()
    assert one.labels.tolist() == other.labels.tolist()
    assert np.allclose(one.posteriors, other.posteriors, rtol=0, atol=1e-6)


def test_workers_batches_and_order_change_no_score(cwd, scores):
    args = command("workers.npz", scales=[256])
    backwards = str(list(range(N))[::-1]).replace(" ", "")
    changed = options(num_workers=2, batch_size=3, **{"dataset.indices": backwards})
    call(cwd, "test", *args, *changed)
    expected = select(scores["vgg16_d_jitter"], VIEWS["both"], [256])
    same(Scores.load(cwd / "workers.npz"), expected)
    assert np.abs(expected.posteriors - expected.posteriors[::-1]).max() > 1e-4


def test_both_is_the_two_files_fused(cwd, scores):
    for views in ("dense", "crops"):
        call(cwd, "test", *command(f"{views}.npz", views, [256]), *options())
    call(cwd, "fuse", "dense.npz", "crops.npz", "--out", "fused.npz")
    fused = Scores.load(cwd / "fused.npz").mean()
    both = select(scores["vgg16_d_jitter"], VIEWS["both"], [256]).mean()
    assert np.allclose(fused, both, rtol=0, atol=1e-6)


def environment():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path}


def test_two_processes_score_an_odd_number_of_images_once_each(cwd, scores):
    config, best, *args = command("two.npz", scales=[256])
    done = subprocess.run(
        [ROOT / "tools/dist_test.sh", config, best, "2", *args, *options(**{"dataset.indices": 7})],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1 error") == 1
    two = Scores.load(cwd / "two.npz")
    one = select(scores["vgg16_d_jitter"], VIEWS["both"], [256])
    assert two.names.tolist() == one.names[np.isin(one.names, two.names)].tolist()
    assert len(two.names) == 7
    rows = np.isin(one.names, two.names)
    assert np.allclose(two.posteriors, one.posteriors[rows], rtol=0, atol=1e-6)


def test_a_test_that_was_killed_twice_gives_the_same_scores(cwd, scores):
    args = [sys.executable, ROOT / "tools/test.py", *command("killed.npz"), *options(batch_size=1)]

    def kept():
        return sum(len(np.load(part)["names"]) for part in cwd.glob("killed.npz.*.parts/*.npz"))

    before = 0
    for _ in range(2):
        running = subprocess.Popen(args, cwd=cwd, env=environment(), stderr=subprocess.DEVNULL)
        while kept() == before and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert before < kept() < N
        before = kept()
    assert not (cwd / "killed.npz").exists()
    call(cwd, "test", *args[2:])
    same(Scores.load(cwd / "killed.npz"), scores["vgg16_d_jitter"])
    assert not list(cwd.glob("killed.npz.*.parts"))


def test_a_test_that_lacked_only_its_end(cwd, monkeypatch):
    args = ["configs/vgg11_a_256.py", "work_dirs/vgg11_a_256/best.pth", "--out", "end.npz"]
    args += options(batch_size=3)
    with monkeypatch.context() as patch:
        patch.setattr("tools.keeping.SaveScores._merge", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            call(cwd, "test", *args)
    call(cwd, "test", *args)
    assert len(Scores.load(cwd / "end.npz").names) == N
