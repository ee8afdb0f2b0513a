"""What a test tells of itself: how far it is, and what the paper has for its protocol."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine import Config

from tools.analysis.paper_tables import beside_paper
from tools.keeping import ProgressBarHook, RemainingSampler, SaveScores
from vgg_mm.errors import UserError
from vgg_mm.testing import Scores
from vgg_mm.testing.evaluation import multi_scale


def lines(capsys, hook, batches, images=9, scored=2):
    loader = SimpleNamespace(dataset=range(images), sampler=SimpleNamespace(scored=scored))
    runner = SimpleNamespace(test_dataloader=loader)
    hook.before_test_epoch(runner)
    for i, size in enumerate(batches):
        hook.after_test_iter(runner, i, {}, [None] * size)
    hook.after_test_epoch(runner)
    return capsys.readouterr().err.splitlines()


def test_counts_what_was_scored_before_and_by_other_processes(capsys, monkeypatch):
    told = lines(capsys, ProgressBarHook(every=0), [3, 3])
    assert ["5/9" in told[0], "8/9" in told[1]] == [True, True] and len(told) == 2
    assert told[0].endswith("left")
    monkeypatch.setattr("tools.keeping.get_world_size", lambda: 2)
    told = lines(capsys, ProgressBarHook(every=0), [2, 2])  # of the seven, this process has four
    assert "6/9" in told[0] and "9/9" in told[1] and "0:00:00" in told[1]


def test_prints_now_and_then_and_only_from_the_main_process(capsys, monkeypatch):
    assert lines(capsys, ProgressBarHook(every=1000), [3, 3]) == []
    monkeypatch.setattr("tools.keeping.is_main_process", lambda: False)
    assert lines(capsys, ProgressBarHook(every=0), [3, 3]) == []


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "9/9" in "".join(lines(capsys, ProgressBarHook(), [7]))


def save(file, images=3, classes=12, **changes):
    protocol = dict(
        config="vgg16_d_jitter", arch="D", S=[256, 512], views=["dense"], scales=[384],
        flip=True, grid=5, crop_size=224, checkpoint="best.pth", sha256="0",
    ) | changes  # fmt: skip
    V = len(protocol["views"])
    names = np.array([f"{i}.jpg" for i in range(images)])
    posteriors = np.full((images, V, classes), 1 / classes, np.float16)
    Scores(
        posteriors,
        labels=np.zeros(images, int),
        names=names,
        classes=np.arange(classes),
        root="",
        protocols=[protocol],
    ).save(file)
    return file


def test_names_are_whatever_the_disk_has_and_each_is_there_once(tmp_path):
    parts = tmp_path / "s.npz.parts"
    saver = SaveScores(file=str(tmp_path / "s.npz"), protocol={}, parts=str(parts))
    name = os.fsdecode(b"a/caf\xe9.jpg")
    values = torch.zeros(1, 2)
    saver.process({}, [dict(img_path=name, gt_label=torch.tensor([0]), posteriors=values)])
    saver._keep()
    data = type("Data", (list,), dict(get_data_info=lambda self, i: dict(img_path=self[i])))
    assert [*RemainingSampler(data([name, "a/b.jpg"]), str(parts))] == [1]
    with pytest.raises(UserError, match="b.jpg is in the data set more than once"):
        RemainingSampler(data(["b.jpg", "a.jpg", "b.jpg"]), str(parts))


def test_the_papers_row_is_that_of_the_very_protocol(tmp_path):
    file = tmp_path / "scores.npz"
    scales = [256, 384, 512]
    both = dict(views=["dense"] * 3 + ["crops"] * 3, scales=scales * 2)
    row, data = beside_paper(save(file, **both)).splitlines()
    assert row == (
        "the paper's: 24.4% and 7.2% (net D, S [256;512], Q 256,384,512, multi-crop & dense)"
    )
    assert data.startswith("Tested on 3 images of 12 classes: not ILSVRC-2012's validation set")
    assert beside_paper(save(file, views=["dense"] * 2, scales=[384, 512])) == ""
    assert beside_paper(save(file, **both, grid=3)) == ""
    assert beside_paper(save(file, **both, flip=False)) == ""
    assert beside_paper(save(file, **both, config="mine")) == ""


def test_imagenets_figures_may_be_compared(tmp_path):
    file = save(tmp_path / "s.npz", 50_000, 1000)
    assert beside_paper(file).splitlines() == [
        "the paper's: 25.6% and 8.1% (net D, S [256;512], Q 384, dense)",
        "Tested on 50000 images of 1000 classes.",
    ]


def test_a_config_that_does_not_say_how_to_test_is_told_so():
    with pytest.raises(UserError, match="does not say how to test: it needs a tta_model"):
        multi_scale(Config(dict(tta_pipeline=[dict(type="vgg_mm.MultiScale", scales=[1])])))
