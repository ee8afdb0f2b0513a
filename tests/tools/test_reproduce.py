"""tools/reproduce/reproduce.py: geometry, plan, a miniature end to end, statistics, report."""

import json
import re
import runpy
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.visualization import UniversalVisualizer

from tools.analysis import report as training_report
from tools.reproduce import answers, claims, plan, report, results, steps, trial
from tools.reproduce.bootstrap import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNTESTED,
    bootstrap,
    holm,
    interval,
    joint,
    judge,
)
from tools.reproduce.claims import CLAIMS, EQUAL, LARGER, NOT_SMALLER, PARTS
from tools.reproduce.scales import FULL, SCALES
from vgg_mm.data.scenes import Settings
from vgg_mm.errors import DIVERGED, UserError
from vgg_mm.models import VGG
from vgg_mm.paper import ROWS, TABLE_3, TRAININGS, config_name, scaled
from vgg_mm.testing import Evaluation, Guesses, Scores
from vgg_mm.testing.evaluation import grid_crops

ROOT = Path(__file__).parents[2]
MICRO = SCALES["micro"]
SMALL = [scale for scale in SCALES.values() if scale is not FULL]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the docs' commands are typed


# --- the geometry


def seen(scale, Q, width):
    """The dense map (h, w) of a 4:3 image and the crops' corners, by the nets themselves."""
    short, long = scaled(Q, scale.crop), round(Q * 4 / 3 * scale.crop / 224)
    strides = (*[2] * scale.pools, *[None] * (5 - scale.pools))
    with torch.device("meta"):
        net = VGG("D", width=width, pool_strides=strides)
        image = torch.empty(1, 3, short, long)
        whole = Evaluation.seen(SimpleNamespace(module=SimpleNamespace(backbone=net)), image)
        maps = [net(x)[0].shape[2:] for x in (whole, image[..., : scale.crop, : scale.crop])]
    crops = grid_crops(torch.arange(short * long).view(1, short, long), 5, scale.crop)
    corners = [divmod(int(crop[0, 0, 0]), long) for crop in crops]
    return [tuple(side - scale.kernel + 1 for side in each) for each in maps], corners


@pytest.mark.parametrize("scale", SMALL, ids=lambda scale: scale.name)
def test_maps_and_crops_are_the_papers_position_for_position(scale):
    assert scale.kernel == 7 and not scale.degenerate
    f = 224 / scale.crop
    for Q in sorted({Q for row in ROWS for *_, scales in row.models for Q in scales}):
        ours, full = seen(scale, Q, 1), seen(FULL, Q, 1)
        assert ours[0] == full[0] == [scale.positions(Q), (1, 1)]
        assert scaled(Q, scale.crop) * f == Q
        assert np.allclose(np.array(ours[1]) * f, full[1], atol=f)  # to a pixel


def test_scenes_are_as_large_as_the_largest_scale():
    for scale in SMALL:
        assert scale.scenes.shorts[0] >= scaled(512, scale.crop)
    assert SCALES["small"].scenes.images[2] >= 10_000 and SCALES["small"].seeds >= 3


def test_a_degenerate_geometry_is_told_and_tests_nothing(made):
    old = replace(MICRO, crop=32, pools=5)
    assert old.kernel == 1 and {288, 352, 384, 416} <= {*old.degenerate}
    text = "".join(report.geometry(old))
    assert "not the paper's** at Q =" in text
    assert "conv5_3 sees 0.9 crops in the paper, 6.1 here" in text
    assert "conv5_3" not in "".join(report.geometry(FULL))
    lines = report.verdicts(old, results.Results(made / results.FILE, 200)).splitlines()
    (jitter,) = (line for line in lines if "scale jitter" in line)
    (deeper,) = (line for line in lines if "Deeper is better" in line)
    assert UNTESTED in jitter and UNTESTED not in deeper


# --- the plan


@pytest.mark.parametrize("name", ["imagenet", "small"])
def test_the_chain_finds_what_it_starts_from(name):
    scale, made, configs = SCALES[name], set(), {}
    planned = plan.make_plan(scale, Path("w"), 2)
    assert len(planned) == 2 * (len(plan.models(scale)) + 3 + bool(scale.scenes))
    for step in planned:
        needed = {word for word in step.command if word.endswith(("best.pth", "scores.npz"))}
        assert needed <= made and all(need in planned[: planned.index(step)] for need in step.needs)
        if "--with" in step.command:
            assert step.command[step.command.index("--with") + 1] in configs
        work = f"{step.folder}/work_dirs/{step.name}"
        made |= {f"{work}/best.pth", f"{work}/scores.npz"}
        if step.config:
            configs[str(step.config_file)] = step.config
    chain = {
        (m.arch, m.S): m.start for m in plan.models(scale) if m.name == config_name(m.arch, m.S)
    }
    assert [*chain][:12] == [*TRAININGS]
    assert chain["E", (256, 512)] == "vgg19_e_384" and chain["E", 384] == "vgg19_e_256"
    assert chain["E", 256] == "vgg11_a_256" and not chain["A-LRN", 256]


def test_every_size_follows_from_the_crop(tmp_path):
    scale = SCALES["small"]
    for step in plan.make_plan(scale, Path("w"), 1):
        if not step.config:
            continue
        file = tmp_path / "config.py"
        file.write_text(step.config)
        cfg = Config.fromfile(file)
        (model,) = (m for m in plan.models(scale) if m.name == step.name)
        load = cfg.train_dataloader.dataset.dataset.pipeline[0]
        S = load.S if isinstance(load.S, int) else tuple(load.S)
        assert S == scaled(model.S, 28) and load.size == cfg.tta_model.get("crop_size", 28) == 28
        assert (
            cfg.val_dataloader.dataset.pipeline[1].Q
            == cfg.Q
            == scaled(384 if model.S != 256 else 256, 28)
        )
        assert cfg.tta_pipeline[1].scales == [scaled(Q, 28) for Q in model.Q]
        assert cfg.test_dataloader.dataset.split == "test"
        rate = cfg.start_from_lr if model.fine else cfg.optim_wrapper.optimizer.lr
        assert model.boxes or rate == scale.lr / (10 if model.fine else 1)
        assert cfg.train_cfg.max_epochs == (2 if model.fine else 8)
        assert cfg.param_scheduler == dict(type="MultiStepLR", milestones=[] if model.fine else [6])


def test_imagenets_plan_is_the_paper(tmp_path):
    planned = plan.make_plan(FULL, Path("w"), 1, processes=4)
    (d,) = (step for step in planned if step.name == "vgg16_d_256")
    assert d.command[0].endswith("dist_train.sh") and d.command[2:] == (
        *("4", "--resume", "--init-from-a", "w/seed0/work_dirs/vgg11_a_256/best.pth"),
        *("--work-dir", "w/seed0/work_dirs/vgg16_d_256"),
    )
    (tmp_path / "config.py").write_text(d.config)
    given = runpy.run_path(str(tmp_path / "config.py"))
    paper = Config.fromfile("configs/vgg16_d_256.py")
    for key in ("model", "optim_wrapper", "param_scheduler", "train_cfg", "custom_hooks"):
        ours = given[key]
        if key == "model":  # the nets' defaults, written out
            backbone, head = ours["backbone"], ours["head"]
            assert backbone.pop("width") == 64 and backbone.pop("pool_strides") == [2] * 5
            sizes = [head.pop(each) for each in ("in_channels", "channels", "kernel_size")]
            assert sizes == [512, 4096, 7]
        assert ours == paper[key].to_dict() if hasattr(paper[key], "to_dict") else paper[key]


def test_work_is_in_proportion_to_multiply_adds():
    work = {step.name: step.work for step in plan.make_plan(SCALES["small"], Path("w"), 1)}
    assert work["vgg11_a_256"] < work["vgg13_b_256"] < work["vgg16_d_256"] < work["vgg19_e_256"]
    assert plan.multiply_adds(FULL, "D", 224, 224) == pytest.approx(15.47e9, rel=1e-3)
    assert plan.multiply_adds(SCALES["small"], "D", 28, 28) == pytest.approx(12.8e6, rel=0.01)


# --- a miniature, end to end


WANTED = (
    "scenes vgg11_a_256 vgg16_d_256 vgg16_d_384 vgg16_d_jitter vgg8_b_5x5_256"
    " vgg16_d_384_boxes vgg16_d_256_boxes boxes_two_nets"
).split()


def in_process(step):
    """Runs a step's command without the seconds that a new process takes to start."""
    for kind in (DefaultScope, MessageHub, MMLogger, UniversalVisualizer):
        kind._instance_dict.clear()  # two runs of one name and second would share them
    sys.argv = [*step.command[1:]]
    stdout, sys.stdout = sys.stdout, open(step.log, "a")
    status = 0
    try:
        runpy.run_path(step.command[1], run_name="__main__")
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout = stdout
    return SimpleNamespace(poll=lambda: status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Some of the steps in one go, every kind of start and of test among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(training_report, "draw_report", lambda *_: None)  # seconds each
        root = tmp_path_factory.mktemp("reproduced")
        scale = replace(MICRO, scenes=Settings(images=(8, 8, 8), classes=8, short=(66, 72)))
        planned = [step for step in plan.make_plan(scale, root, 1) if step.name in WANTED]
        steps.run_plan(planned, 1e9, in_process)
        results.collect(scale, root, 1)
        report.write_report(scale, root, planned)
    return scale, root, planned


def test_the_miniature_measures_its_rows(finished):
    scale, root, planned = finished
    assert all(step.marker.exists() for step in planned) and len(planned) == len(WANTED)
    measured = results.Results(root / "report" / results.FILE, 100)
    rows = {(row.arch, row.S) for row in TABLE_3 if not measured.lacking(row)}
    assert rows == {("A", 256), ("D", 256), ("D", 384), ("D", (256, 512))}
    both = next(row for row in ROWS if getattr(row, "arch", "") == "D" and row.views == "both")
    scores = Scores.load(root / "seed0/work_dirs/vgg16_d_jitter/scores.npz")
    assert measured.error(claims.entry(both))[0] == pytest.approx(scores.error(1))
    boxes = Guesses.load(root / "seed0/boxes/two_nets.npz")
    assert measured.error(claims._TWO_BOXES)[0] == pytest.approx(boxes.error(5))
    assert measured.error(claims._TWO_BOXES, 1)[0] == pytest.approx(boxes.error(1))
    text = (root / "report/report.md").read_text()
    assert "not measured" in text and "figures/score_map_0.png" in text
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    for name in figures:  # none is blank
        assert mmcv.imread(str(root / "report" / name)).std() > 15
    assert {Path(name).stem for name in figures} >= {"forest", "depth", "scales", "curves"}
    assert (root / "report/report.html").stat().st_size < 2**20


def test_what_is_missing_of_a_copied_folder_is_made_again(finished):
    *_, planned = finished
    scenes, aside = planned[0].makes, planned[0].makes.with_name("aside")
    scenes.rename(aside)
    ran = []
    with pytest.raises(InterruptedError):
        steps.run_plan(planned, 1e9, lambda step: ran.append(step) or interrupt())
    assert ran == planned[:1] and steps.time_left(planned, 1e9) > 0
    aside.rename(scenes)


def interrupt():
    raise InterruptedError


def test_nothing_is_done_twice(finished):
    *_, planned = finished
    steps.run_plan(planned, 1e9, lambda *_: pytest.fail("a step ran again"))
    assert "time left: about 0:00:00" in steps.plan_text(planned, 1e9)
    assert steps.time_left(planned, 1e9) == 0


def test_other_settings_need_another_folder(tmp_path):
    steps.check_settings(tmp_path, {"crop": 32, "S": (37, 73)})
    steps.check_settings(tmp_path, {"crop": 32, "S": (37, 73)})
    with pytest.raises(UserError, match=r"other settings \(crop: see .*settings.json"):
        steps.check_settings(tmp_path, {"crop": 64, "S": (37, 73)})


def step(folder, name, code, needs=(), work=0.0):
    return plan.Step(name, folder, ("python", "-c", code), needs, work)


def test_a_step_that_fails_is_named_with_its_log_and_ends_the_others(tmp_path):
    failing = step(tmp_path, "failing", "exit('no room left')")
    sleeping = step(tmp_path, "sleeping", "import time; time.sleep(60)")
    never = step(tmp_path, "never", "", needs=(failing,))
    began, started = time.monotonic(), []

    def begin(each):
        started.append(steps.start(each, threads=1))
        return started[-1]

    with pytest.raises(UserError, match=r"status 1[\s\S]*no room left") as error:
        steps.run_plan([sleeping, failing, never], 1e9, begin, jobs=2)
    assert time.monotonic() - began < 30 and started[0].returncode < 0 and len(started) == 2
    assert str(failing.log) in str(error.value) and not failing.marker.exists()


def test_the_time_left_is_no_less_than_the_longest_chain(tmp_path):
    first = step(tmp_path, "first", "", work=1e11)
    second = step(tmp_path, "second", "", needs=(first,), work=1e11)
    third = step(tmp_path, "third", "", work=1e11)
    one = steps.BEGIN + 100
    assert steps.time_left([first, second, third], 1e9) == pytest.approx(3 * one)
    assert steps.time_left([first, second, third], 1e9, jobs=9) == pytest.approx(2 * one)
    first.marker.parent.mkdir()
    first.marker.write_text(json.dumps({"seconds": steps.BEGIN + 50, "whole": True}))
    speed = (1e11 + steps.TRUST * 1e9) / (50 + steps.TRUST)
    assert steps.time_left([first, second], 1e9) == pytest.approx(steps.BEGIN + 1e11 / speed)


def test_a_folder_is_worked_in_alone(tmp_path):
    """A step that outlives its killed parent keeps the next one waiting."""
    code = "import sys, time; time.sleep(1)"
    with steps.alone(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", code], pass_fds=(lock.fileno(),))
    start = time.monotonic()
    with steps.alone(tmp_path):
        assert child.wait() == 0
    assert time.monotonic() - start > 0.3


# --- the learning rate


def test_trials_go_on_past_the_grids_edge(tmp_path, monkeypatch):
    scale = replace(MICRO, rates=(1e-2, 2e-2, 4e-2))
    errors = {plan.TRIED[0]: 5e-3, plan.TRIED[1]: 2e-2}  # net -> its best rate

    def load(file):
        lr, net = float(file.parts[-4].removeprefix("trial_")), file.parent.name
        return SimpleNamespace(error=lambda k: 100 * abs(np.log2(lr / errors[net])))

    monkeypatch.setattr(trial, "Scores", SimpleNamespace(load=load))
    ran = []
    lr, tried = trial.chosen_rate(scale, tmp_path, lambda some: ran.append(len(some)))
    assert ran == [1 + 2 * n for n in (3, 4, 5)] and lr in (5e-3, 1e-2, 2e-2)
    assert {*trial.tried(tmp_path)} == {2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2}
    assert trial.trials(scale, tmp_path) == (lr, tried)
    assert trial.chosen_rate(FULL, tmp_path / "none", pytest.fail) == (FULL.lr, [])


def test_a_trial_that_diverges_is_the_worst_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    scale = replace(MICRO, passes=1, trial=16, scenes=Settings((16, 8, 0), classes=8, short=66))
    planned = scenes, shallow, deep = trial.trial_plan(scale, tmp_path, 1e30)
    steps.run_plan(planned, 1e9, in_process)
    assert shallow.diverged and deep.diverged and not scenes.diverged
    assert trial._error(shallow) == trial._error(deep) == 100 and not deep.log.exists()
    assert "the training ends" not in scenes.log.read_text()


def test_a_model_that_diverges_ends_the_run(tmp_path):
    failing = step(tmp_path, "diverging", f"exit({DIVERGED})")
    with pytest.raises(UserError, match=f"status {DIVERGED}"):
        steps.run_plan([failing], 1e9)
    tried = replace(failing, trial=True)
    after = step(tmp_path, "after", "exit('started')", needs=(tried,))
    steps.run_plan([tried, after], 1e9)
    assert tried.diverged and after.diverged


def test_the_trials_scenes_are_a_part_of_the_first_seeds(tmp_path):
    scale = replace(MICRO, passes=1, trial=4, scenes=Settings((8, 2, 2), classes=4, short=(66, 72)))
    drawn = trial.trial_plan(scale, tmp_path, 1e-3)[0], plan.make_plan(scale, tmp_path, 1)[0]
    steps.run_plan(drawn, 1e9)
    part, whole = (
        {f.relative_to(step.makes): f.read_bytes() for f in step.makes.rglob("*.JPEG")}
        for step in drawn
    )
    assert len(part) == 6 and len(whole) == 12 and part.items() < whole.items()


# --- statistics


def test_bootstrap_finds_the_standard_error():
    rng = np.random.default_rng(1)
    wrong = (rng.random((1, 1, 400)) < 0.3).astype(float)
    draws = bootstrap(wrong, 4000)[:, 0]
    assert draws.mean() == pytest.approx(wrong.mean(), abs=0.002)
    p = wrong.mean()
    assert draws.std() == pytest.approx((p * (1 - p) / 400) ** 0.5, rel=0.05)
    low, high = interval(draws)
    assert high - low == pytest.approx(2 * 1.96 * draws.std(), rel=0.08)


def test_bootstrap_is_paired():
    rng = np.random.default_rng(2)
    one = (rng.random(300) < 0.4).astype(float)
    draws = bootstrap(np.stack([one, one, 1 - one])[:, None], 500)
    assert np.array_equal(draws[:, 0], draws[:, 1])
    assert np.allclose(draws[:, 0] + draws[:, 2], 1)


@pytest.mark.parametrize("N", [2, 3, 6])
def test_bootstrap_is_over_trainings_too_and_as_wide_as_they_say(N):
    # The images vary nothing, the trainings everything.
    rng = np.random.default_rng(N)
    means = rng.normal(size=N)
    draws = bootstrap(np.repeat(means[None, :, None], 50, 2), 20_000)[:, 0]
    assert draws.mean() == pytest.approx(means.mean(), abs=0.02)
    assert draws.std() == pytest.approx(means.std(ddof=1) / N**0.5, rel=0.03)


def test_holms_correction():
    assert np.allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert np.allclose(holm(np.array([0.5, 0.9])), [1, 1])


@pytest.mark.parametrize(
    ("mean", "claimed", "verdict"),
    [
        (1.0, LARGER, HOLDS),
        (-1.0, LARGER, FAILS),
        (0.1, LARGER, UNDECIDED),
        (0.0, EQUAL, HOLDS),
        (2.0, EQUAL, FAILS),
        (-2.0, EQUAL, FAILS),
        (0.95, EQUAL, UNDECIDED),
        (0.0, NOT_SMALLER, HOLDS),
        (-2.0, NOT_SMALLER, FAILS),
        (-1.05, NOT_SMALLER, UNDECIDED),
    ],
)
def test_the_rule(mean, claimed, verdict):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 3, 400))  # a standard error of 0.05 for one training alone
    values += mean - values.mean()
    values = values.repeat(2, 0)
    one, _ = judge(values, [claimed, LARGER], 4000)
    assert one.verdict == verdict and one.difference == pytest.approx(mean)
    assert one.low < mean < one.high and len(one.trainings) == 3
    assert one.detectable == pytest.approx(2.8 * (one.high - one.low) / 3.92, rel=0.1)


def test_more_comparisons_ask_for_more():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(30, 1, 400)).repeat(3, 1)  # trainings that do not differ
    values += 2.4 * 0.05 - values.mean((1, 2), keepdims=True)
    alone = judge(values[:1], [LARGER])[0]
    assert alone.verdict == HOLDS and alone.p < 0.05
    assert {each.verdict for each in judge(values, [LARGER] * 30)} == {UNDECIDED}
    assert judge(values[:1, :2], [LARGER])[0].verdict == UNDECIDED  # of two trainings


def test_power_is_what_it_says():
    """Of many studies of a difference that is just detectable, four of five find it."""
    rng, found = np.random.default_rng(4), 0
    true = 2.8 / 200**0.5
    for _ in range(200):
        (one,) = judge(true + rng.normal(size=(1, 1, 200)).repeat(3, 1), [LARGER], 500)
        found += one.verdict == HOLDS
        assert one.detectable == pytest.approx(true, rel=0.3)
    assert 0.7 < found / 200 < 0.9
    one = replace(one, difference=one.detectable / 2)
    assert one.times(LARGER, one.difference) == pytest.approx(4)
    assert one.times((1, 9), 1) is None


def test_a_claim_of_several_parts():
    assert joint([HOLDS, HOLDS]) == HOLDS
    assert joint([HOLDS, UNDECIDED]) == UNDECIDED
    assert joint([UNDECIDED, FAILS]) == FAILS


def test_the_claims_have_the_papers_differences():
    by_text = {part.text: part.paper and part.paper[0] for part in PARTS}
    assert len(by_text) == len(PARTS) and len(CLAIMS) == 14
    assert by_text["A-LRN - A, 0 or more"] == pytest.approx(0.1)
    assert by_text["A - D"] == pytest.approx(2.6)
    assert by_text["S = 384 - jitter, mean of C, D, E"] == pytest.approx((0.8 + 1.2 + 1.4) / 3)
    assert by_text["D - D fused with E, dense"] == pytest.approx(0.8)
    assert by_text["SCR - PCR, FC layers trained, centre crop"] == pytest.approx(2.1)
    assert by_text["S = 384 - it and S = 256, top-5"] == pytest.approx(0.6)
    for part in PARTS:
        assert part.paper is None or part.claimed[0] < part.paper[0] < part.claimed[1]


# --- the report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with made-up ranks of three trainings."""
    folder, rng = tmp_path_factory.mktemp("made") / "report", np.random.default_rng(0)
    folder.mkdir()
    hard, moved = rng.random(2000), rng.normal(size=(3, 1))
    ranks = {
        each.key: np.where(
            hard + rng.normal(0, 0.02, (3, 2000)) + 0.01 * moved < 1 - (each.paper or 27) / 100,
            0,
            7,
        ).astype(np.uint8)
        for each in results.ENTRIES
    }
    np.savez(folder / results.FILE, **ranks)
    return folder


@pytest.fixture(scope="module")
def reported(made):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        report.write_report(SCALES["small"], made.parent, [])
    return made


def test_the_report_has_everything(reported):
    text = (reported / "report.md").read_text()
    for number in range(3, 8):
        assert f"**Table {number}: " in text
    assert "not measured" not in text and UNTESTED not in text.partition("## Every")[2]
    assert text.count("| holds |") >= 2
    assert UNDECIDED in text and "To decide what does not hold or is undecided" in text
    assert text.index("Claims and verdicts") < text.index("figures/forest.png") < 6000
    assert (reported / "report.html").stat().st_size < 2**20
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert mmcv.imread(str(reported / name)).std() > 15


def test_what_it_would_take_and_the_objections(made, monkeypatch):
    scale, measured = SCALES["small"], results.Results(made / results.FILE, 300)
    number, images = measured.trainings, measured.images
    refuted, open_ = (
        next(part for part in PARTS if part.text == text)
        for text in ("A - D", "A without - A with it")
    )
    for part in PARTS:  # all hold but two
        verdict = measured.verdicts[part]
        measured.verdicts[part] = replace(verdict, verdict=HOLDS)
    measured.verdicts[refuted] = replace(verdict, verdict=FAILS, difference=-2.0, detectable=2.6)
    measured.verdicts[open_] = replace(verdict, verdict=UNDECIDED, difference=0.5, detectable=1.0)
    planned = plan.make_plan(scale, Path("w"), 2)
    ends = {"vgg11_a_256": 0.4, "vgg16_d_256": 0.6}
    monkeypatch.setattr(answers, "curves", lambda at: ({1: 9.0, 2: ends.get(at.name, 0.5)}, None))
    text = "\n\n".join(answers.needed(scale, measured, planned, made))
    one, ended = (line for line in text.splitlines() if "A - D" in line)
    assert ended == "| A - D | 0.4 | 0.6 | fits less: it wants more passes |"
    there = measured.mean(refuted.worse) * refuted.paper[1] / 100
    times = (2.6 / there) ** 2
    assert FAILS in one and "decided" in one
    assert f"{max(3, np.ceil(times * number)):,.0f} x {np.ceil(times * images):,.0f}" in one
    (two,) = (line for line in text.splitlines() if "A without" in line)
    assert f"| {4 * number} x {4 * images:,} | - |" in two and text.count("\n| ") == 7
    (command,) = (line for line in text.splitlines() if line.startswith("python"))
    assert "seed0/configs/vgg16_d_256.py" in command and "vgg16_d_256_longer " in command
    assert command.endswith('train_cfg.max_epochs=16 param_scheduler.milestones="[12]"')

    said = answers.objections(scale, measured, made)
    assert said.count("\n") == 6 and "66 to 99 pixels" in said and "30,000" in said
    for name in ("vgg16_d_jitter", "vgg16_d_256_thrice", "vgg16_d_384_twice"):
        assert f"{name} 20" in said
    assert "vgg16_d_256 16 and vgg11_a_256_twice 16" in said
    assert "not mended" in answers.objections(replace(MICRO, crop=32, pools=5), measured, made)


def test_every_verdict_is_that_of_the_ranks_beside_it(reported):
    """Also of the run whose report is in docs, once it is there."""
    scale = SCALES["small"]
    for folder in [reported, *ROOT.glob("docs/small-paper")]:
        text, measured = (folder / "report.md").read_text(), results.Results(folder / results.FILE)
        for block in (report.verdicts(scale, measured), *report.comparisons(scale, measured)):
            assert block in text
        for block in report.tables(measured):
            assert block in text
        assert sum(file.stat().st_size for file in folder.rglob("*.npz")) <= 6e6
        # One by hand: A - D of Table 3.
        a, d = (measured.ranks[f"dense {name}@256"] > 0 for name in ("vgg11_a_256", "vgg16_d_256"))
        assert f"| {100 * (a.mean() - d.mean()):+.2f}<br>[" in text


def test_the_report_in_a_browser_at_phone_width(reported, chromium, tmp_path):
    page = (reported / "report.html").read_text()
    # A frame as wide as a phone, whose document reports on itself.
    script = """<script>addEventListener("load", () => {
      const images = [...document.images], root = document.documentElement;
      const wide = [...document.querySelectorAll("body *")].filter(
        e => !e.closest(".box, pre") && e.getBoundingClientRect().right > innerWidth);
      parent.postMessage(JSON.stringify({
        images: images.length, missing: images.filter(i => !i.naturalWidth).length,
        page: root.scrollWidth, window: innerWidth, wide: wide.map(e => e.outerHTML.slice(0, 80)),
        tables: document.querySelectorAll("table").length,
        scrolling: [...document.querySelectorAll(".box")].filter(
          e => e.scrollWidth > e.clientWidth).length,
      }), "*");
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{script}</body>"))
    (tmp_path / "phone.html").write_text(
        "<iframe src=page.html width=375 height=800 style='border:0'></iframe><pre id=found></pre>"
        "<script>onmessage = e => found.textContent = e.data</script>"
    )
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])
    assert found["missing"] == 0 and found["images"] == page.count("<img ") == 3
    assert found["window"] == 375 and found["page"] <= 375 and not found["wide"]
    assert found["tables"] >= 8 and found["scrolling"] > 0


def test_ranks_are_the_errors_of_the_scores(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(12), (40, 2)).astype(np.float32)
    p[3] = np.nan
    scores = Scores(
        p, labels=rng.integers(12, size=40), names=np.arange(40).astype(str), root="",
        classes=np.arange(12).astype(str),
        protocols=[dict(views=["dense", "dense"], scales=[28, 32])],
    )  # fmt: skip
    one = claims.Entry((("net", (224, 256)),), "dense")
    ranks = results._ranked(MICRO, {"net": scores}, one)
    for k in (1, 5):
        assert np.array_equal(ranks >= k, scores.wrong(k))


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to report yet"):
        results.collect(MICRO, tmp_path, 2)


def test_the_plan_is_printed_without_running_anything(tool, tmp_path):
    said = tool("reproduce", "--scale", "small", "--plan", "--work-dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    left = re.search(r"time left: about (\d+):", said)
    assert int(left[1]) < 6  # hours on 2 cores
    init_default_scope("mmpretrain")
