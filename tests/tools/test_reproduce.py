"""tools/reproduce/reproduce.py: the plan, a miniature end to end, the statistics and the report."""

import gc
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
from mmengine.config import Config, DictAction
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.visualization import UniversalVisualizer

from tools.analysis import report
from tools.analysis.stored import scores_command
from tools.reproduce import images, rates
from tools.reproduce import steps as run
from tools.reproduce.bootstrap import (
    FAILS,
    HOLDS,
    UNDECIDED,
    bootstrap,
    images_needed,
    interval,
    judge,
)
from tools.reproduce.claims import CLAIMS, EQUAL, LARGER, NOT_SMALLER
from tools.reproduce.plan import MODELS, Run, make_plan
from tools.reproduce.report import write_report
from tools.reproduce.results import Results
from tools.reproduce.scales import SCALES, SMALL, Scale
from vgg_mm.data.scenes import Settings
from vgg_mm.errors import UserError
from vgg_mm.paper import TABLE_3, TABLE_6, TRAININGS, scaled
from vgg_mm.testing import Scores
from vgg_mm.testing.scores import file_sha256

ROOT = Path(__file__).parents[2]
RATES = {"train": 1e9, "test": 1e9}
MICRO = Scale("micro", crop=32, width=2, channels=8, batch=4, lr=1e-2, epochs=3, options=SMALL)
# Nets A and D stand for all: every kind of start, every kind of test, both ablations.
ARCHS = ("A", "D")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the docs' commands are typed


def plan(folder, tree, archs=ARCHS):
    return make_plan(MICRO, [Run(images.folders(tree), folder)], archs=archs)


def imagenets_plan(processes):
    run = Run(images.imagenet("data/imagenet"), Path("."))
    return make_plan(SCALES["imagenet"], [run], processes)


def in_process(step, command):
    """Runs a step's command without the seconds that a new process takes to start."""
    for kind in (DefaultScope, MessageHub, MMLogger, UniversalVisualizer):
        kind._instance_dict.clear()  # two runs of one name and second would share them
    sys.argv = command[1:]
    stdout, sys.stdout = sys.stdout, open(step.log, "a")
    try:
        runpy.run_path(command[1], run_name="__main__")
    finally:
        sys.stdout = stdout
    return SimpleNamespace(poll=lambda: 0)


# --- the plan


def test_imagenets_plan_is_what_the_docs_say():
    planned = {str(step) for step in imagenets_plan(4)}
    chained = 0
    for arch, S in TRAININGS:
        (row,) = (row for row in TABLE_3 if (row.arch, row.S) == (arch, S))
        docs = (ROOT / f"configs/{row.config}.py").read_text()
        *_, command = re.findall(r"^    (tools/dist_train.sh .*)$", docs, re.M)
        assert command in planned
        chained += "best.pth" in command
    assert chained == 10
    tests = [str(step) for step in imagenets_plan(1) if step.kind == "test"]
    assert tests[:12] == [scores_command(*training) for training in TRAININGS]


@pytest.mark.parametrize("name", SCALES)
def test_every_size_follows_from_the_crop(name, jpeg_tree):
    scale = SCALES[name]
    data = images.folders(jpeg_tree)
    for step in make_plan(scale, [Run(data, Path("w"))]):
        if step.kind == "train":
            command = step.command()
            cfg = Config.fromfile(command[2])
            paper = cfg.S if isinstance(cfg.S, int) else tuple(cfg.S)
            if "--cfg-options" in command:
                options = command[command.index("--cfg-options") + 1 :]
                parsed = (option.split("=", 1) for option in options)
                cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in parsed})
            crop = cfg.train_dataloader.dataset.dataset.pipeline[0]
            assert crop.get("size") == scale.crop == 32 * cfg.model.head.get("kernel_size", 7)
            S = cfg.S if isinstance(cfg.S, int) else tuple(cfg.S)
            assert S == scaled(paper, scale.crop)
            if "no_jitter" not in step.name:
                assert crop.S == cfg.S
            assert (
                cfg.tta_pipeline[1].scales == [cfg.Q] == [cfg.val_dataloader.dataset.pipeline[1].Q]
            )
            assert cfg.model.head.num_classes == 2
            assert cfg.train_cfg.max_epochs == scale.epochs


def test_the_chain_finds_what_it_starts_from(jpeg_tree):
    steps = make_plan(
        MICRO, [Run(images.folders(jpeg_tree), Path(f"w{s}"), seed=s) for s in (0, 1)]
    )
    assert len(steps) == 2 * 2 * 14
    trained = set()
    for step in steps:
        assert {Path(word) for word in step.command() if word.endswith("best.pth")} <= trained
        if step.kind == "train":
            trained.add(step.work_dir / "best.pth")


def test_work_is_in_proportion_to_multiply_adds(jpeg_tree):
    work = {s.name: s.work for s in plan(Path("w"), jpeg_tree, None) if s.kind == "train"}
    assert work["vgg11_a_256"] < work["vgg13_b_256"] < work["vgg16_d_256"] < work["vgg19_e_256"]
    (d,) = (s.work for s in imagenets_plan(1) if s.kind == "train" and s.name == "vgg16_d_256")
    assert d == pytest.approx(3 * 74 * 1_281_167 * 15.47e9, rel=1e-3)


# --- folds


def test_folds_are_drawn_each_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SCENES", Settings(images=(16, 8, 0), classes=8, short=32))
    trees = [*images.drawn(tmp_path, 2), images.drawn_to_choose_on(tmp_path)]
    seen = [file.read_bytes() for tree in trees for file in tree.rglob("*.JPEG")]
    assert len(seen) == len({*seen}) == 3 * 24
    for tree in trees:
        data = images.folders(tree, measure=False)
        assert (data.train, data.val, data.classes) == (16, 8, 8)


# --- statistics


def test_bootstrap_finds_the_standard_error():
    rng = np.random.default_rng(1)
    wrong = (rng.random((1, 1, 400)) < 0.3).astype(float)
    draws = bootstrap([wrong], 4000)[:, 0]
    assert draws.mean() == pytest.approx(wrong.mean(), abs=0.002)
    p = wrong.mean()
    assert draws.std() == pytest.approx((p * (1 - p) / 400) ** 0.5, rel=0.05)
    low, high = interval(draws)
    assert high - low == pytest.approx(2 * 1.96 * draws.std(), rel=0.08)


def test_bootstrap_is_paired():
    rng = np.random.default_rng(2)
    one = (rng.random(300) < 0.4).astype(float)
    draws = bootstrap([np.stack([one, one, 1 - one])[:, None]], 500)
    assert np.array_equal(draws[:, 0], draws[:, 1])
    assert np.allclose(draws[:, 0] + draws[:, 2], 1)


def test_bootstrap_is_over_seeds_and_folds_too():
    # Two seeds that are all right and all wrong: the images vary nothing, the seeds everything.
    seeds = np.zeros((1, 2, 50))
    seeds[:, 1] = 1
    draws = bootstrap([seeds], 4000)[:, 0]
    assert draws.std() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert set(draws) == {0, 0.5, 1}
    # Folds are drawn each by itself, and count by their images.
    draws = bootstrap([np.ones((1, 1, 30)), np.zeros((1, 1, 10))], 10)
    assert np.allclose(draws, 0.75)


@pytest.mark.parametrize(
    ("low", "high", "claimed", "verdict"),
    [
        (0.1, 2, LARGER, HOLDS),
        (-2, -0.1, LARGER, FAILS),
        (-0.5, 1.5, LARGER, UNDECIDED),
        (0, 1.5, LARGER, UNDECIDED),
        (-0.9, 0.5, EQUAL, HOLDS),
        (1.1, 3, EQUAL, FAILS),
        (-3, -1.1, EQUAL, FAILS),
        (-0.5, 1.5, EQUAL, UNDECIDED),
        (-0.9, 5, NOT_SMALLER, HOLDS),
        (-3, -1.1, NOT_SMALLER, FAILS),
        (-1.1, 5, NOT_SMALLER, UNDECIDED),
    ],
)
def test_the_rule(low, high, claimed, verdict):
    assert judge((low + high) / 2, low, high, 300, claimed).verdict == verdict


def test_the_size_that_decides():
    # Half the width is 4 times the difference: 16 times as many images.
    assert judge(0.5, -1.5, 2.5, 300).images == 4800
    assert judge(2.0, 1.0, 3.0, 300).images is None
    assert judge(0.0, -1.0, 1.0, 300).images is None
    # The end that is in the way is 1 off, and half of the width 2.
    assert judge(0.0, -2.0, 2.0, 300, NOT_SMALLER).images == 1200
    assert images_needed(0.5, 4.0, 300, LARGER) == 4800
    assert images_needed(0.0, 0.0, 300, EQUAL) is None  # no image tells the two apart
    assert images_needed(0.3 - 0.1 - 0.2, 4.0, 300, LARGER) is None  # zero, but for rounding


def test_the_claims_have_the_papers_differences():
    by_text = {part.text: part.papers for claim in CLAIMS for part in claim.parts}
    assert len(CLAIMS) == 7
    assert by_text["A-LRN - A, 0 or more"] == pytest.approx(0.1)
    assert by_text["A - D"] == pytest.approx(2.6)
    assert by_text["S = 384 - jitter, mean of C, D, E"] == pytest.approx((0.8 + 1.2 + 1.4) / 3)
    assert by_text["D - D fused with E, both views"] == pytest.approx(0.7)
    for claim in CLAIMS:
        for part in claim.parts:
            assert part.claimed[0] < part.papers < part.claimed[1]


# --- a miniature, end to end


@pytest.fixture(scope="module")
def cheap_collections():
    """Every data set collects garbage, which is slow after so many imports."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, jpeg_tree, cheap_collections):
    """The miniature in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(report, "draw_report", lambda *_: None)  # seconds each
        folder = tmp_path_factory.mktemp("reproduced")
        steps = plan(folder, jpeg_tree)
        run.run_plan(steps, rates.Rates(RATES), in_process)
        runs = [steps[0].run, replace(steps[0].run, seed=1, folder=folder / "fold0_seed1")]
        write_report(MICRO, runs, [*steps, *make_plan(MICRO, runs[1:])], folder)
    return folder, steps


def test_the_miniature_measures_its_rows(finished):
    folder, steps = finished
    assert len(steps) == 12
    assert all(step.marker.exists() for step in steps)
    results = Results(MICRO, [steps[0].run])
    measured = {(row.arch, row.S, row.views) for row in TABLE_3 if row in results.rows}
    assert measured == {(a, S, "dense") for a, S in TRAININGS if a in ARCHS}
    assert len(results.ablations) == 2 and results.images == 4
    (both,) = (r for r in results.rows if getattr(r, "arch", "") == "D" and r.views == "both")
    scores = Scores.load(folder / "scores/vgg16_d_jitter.npz")
    assert results.errors(both)[0] == pytest.approx(scores.error(1))
    assert results.lacking(TABLE_6[0]) == [("C", 256), ("C", 384), ("E", 256), ("E", 384)]


def test_the_report_leaves_out_what_is_not_done(finished):
    folder, _ = finished
    text = (folder / "report/report.md").read_text()
    assert "Of the 2 trainings planned these are not done: fold 0, seed 1." in text
    assert "--scale micro --seeds 2\n" in text
    assert "over 1 fold of the images and 1 seed" in text and "| fold0_seed1" not in text


def test_nothing_is_done_twice(finished):
    _, steps = finished
    run.run_plan(steps, rates.Rates(RATES), lambda *_: pytest.fail("a step ran again"))


def test_killed_at_any_instant_it_ends_with_the_same_tables(finished, tmp_path, jpeg_tree):
    folder, steps = finished
    fork = multiprocessing.get_context("fork")
    lighting = "vgg11_a_256_no_lighting"
    for seen in (
        "work_dirs/vgg11_a_256/last_checkpoint",  # in the first training, after an epoch
        "steps/test_vgg11_a_256.log",
        f"work_dirs/{lighting}/last_checkpoint",
        None,
    ):
        work = fork.Process(target=reproduce, args=(tmp_path, jpeg_tree))
        work.start()
        while seen and work.is_alive() and not (tmp_path / seen).exists():
            time.sleep(0.005)
        if seen:
            assert work.is_alive()
            work.kill()
        work.join()
    assert work.exitcode == 0
    markers = [json.loads(file.read_text())["whole"] for file in tmp_path.glob("steps/*.json")]
    assert len(markers) == 4 and markers.count(False) == 3
    for name in ("scores/vgg11_a_256.npz", f"ablations/{lighting}.npz"):
        once, killed = (Scores.load(root / name).posteriors for root in (folder, tmp_path))
        assert np.array_equal(once, killed)
    once, killed = (
        Results(MICRO, [replace(steps[0].run, folder=root)]) for root in (folder, tmp_path)
    )
    assert once.shown(TABLE_3[0]) == killed.shown(TABLE_3[0])
    assert once.judge_ablation(once.ablations[0]) == killed.judge_ablation(killed.ablations[0])


def reproduce(folder, tree):
    report.draw_report = lambda *_: None
    with run.alone(folder):
        run.run_plan(plan(folder, tree, ["A"]), rates.Rates(RATES), in_process)


def test_other_settings_need_another_folder(tmp_path):
    run.check_settings(tmp_path, {"crop": 32, "S": (37, 73)})
    run.check_settings(tmp_path, {"crop": 32, "S": (37, 73)})
    with pytest.raises(UserError, match=r"other settings \(crop: see .*settings.json"):
        run.check_settings(tmp_path, {"crop": 64, "S": (37, 73)})


def test_settings_are_compared_before_any_are_kept(tmp_path):
    run.check_settings(tmp_path, {"crop": 32}, keep=False)
    run.check_settings(tmp_path, {"crop": 64, "data_root": None})
    run.check_settings(tmp_path, {"crop": 64}, keep=False)
    with pytest.raises(UserError, match=r"\(data_root: see"):
        run.check_settings(tmp_path, {"crop": 64, "data_root": "mine"})


def test_the_time_left_counts_what_a_killed_training_has_done(tmp_path, jpeg_tree):
    training, test = (replace(step, work=1e12) for step in plan(tmp_path, jpeg_tree)[:2])
    assert training.iterations == MICRO.epochs * (8 // MICRO.batch)
    known = rates.Rates(RATES)
    whole = known.left(training)
    assert whole == known.seconds(training) == known.left(test) > rates.START
    newest = training.work_dir / "last_checkpoint"
    newest.parent.mkdir(parents=True)
    for name, share in (("iter_3.pth", 1 / 2), ("epoch_2.pth", 1 / 3), ("epoch_3.pth", 0)):
        newest.write_text(name)
        assert known.left(training) - rates.START == pytest.approx(share * (whole - rates.START))


def test_a_step_that_fails_is_named_with_its_log(tmp_path, jpeg_tree):
    step = replace(plan(tmp_path, jpeg_tree)[0], tool=["python", "-c", "exit('no room left')"])
    step = replace(step, start=(), rest=())
    with pytest.raises(UserError, match="status 1.*no room left") as error:
        run.run_plan([step], rates.Rates(RATES))
    assert str(step.log) in str(error.value) and not step.marker.exists()


def test_as_many_steps_run_at_once_as_asked_for(tmp_path, jpeg_tree):
    steps, running, most = plan(tmp_path, jpeg_tree), set(), []

    def begin(step, command):
        assert not step.needs or step.needs.marker.exists()
        running.add(step.marker)
        most.append(len(running))
        polls = iter([None, None, 0, 0])
        return SimpleNamespace(poll=lambda: next(polls), marker=step.marker)

    def ended(each):
        if status := poll(each):
            running.discard(each.step.marker)
        return status

    poll = run._Running.ended
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run._Running, "ended", ended)
        run.run_plan(steps, rates.Rates(RATES), begin, jobs=3)
    assert all(step.marker.exists() for step in steps)
    assert len(most) == len(steps) and max(most) == 3


def test_the_time_left_is_no_less_than_the_longest_chain(tmp_path, jpeg_tree):
    steps = [replace(step, work=1e11) for step in plan(tmp_path, jpeg_tree)]
    known = rates.Rates(RATES)
    one = known.seconds(steps[0])
    assert rates.time_left(steps, known) == pytest.approx(len(steps) * one)
    assert rates.time_left(steps, known, jobs=2) == pytest.approx(len(steps) / 2 * one)
    # Net A, D at S = 256, 384 and jittered, and the test of the last.
    assert rates.time_left(steps, known, jobs=99) == pytest.approx(5 * one)


def test_a_failure_ends_what_runs_beside_it(tmp_path, jpeg_tree):
    a, d, *_ = (step for step in plan(tmp_path, jpeg_tree) if step.kind == "train")
    sleeping = replace(a, tool=["python", "-c", "import time; time.sleep(60)"], rest=())
    failing = replace(d, tool=["python", "-c", "exit('no room left')"], start=(), rest=())
    began, started = time.monotonic(), []

    def begin(step, command):
        started.append(run.start(step, command, threads=1))
        return started[-1]

    with pytest.raises(UserError, match="no room left"):
        run.run_plan([sleeping, replace(failing, needs=None)], rates.Rates(RATES), begin, jobs=2)
    assert time.monotonic() - began < 30 and started[0].returncode == -signal.SIGTERM
    assert not sleeping.marker.exists()


def test_a_folder_is_worked_in_alone(tmp_path):
    """A step that outlives its killed parent keeps the next one waiting."""
    code = "import sys, time; time.sleep(1)"
    with run.alone(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", code], pass_fds=(lock.fileno(),))
    start = time.monotonic()
    with run.alone(tmp_path):
        assert child.wait() == 0
    assert time.monotonic() - start > 0.3


def test_the_plan_is_a_shell_script(finished):
    _, steps = finished
    text = run.plan_text(steps, rates.Rates(RATES, steps))
    assert "time left: about 0:00:00" in text
    # The shell puts the shared settings back.
    script = "python() { printf '%s\\n' python \"$@\"; }\n" + text
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = printed.stdout.split("\n")[:-1]
    assert sorted(words) == sorted(word for step in steps for word in step.command())


# --- the report


@pytest.fixture(scope="module")
def reported(tmp_path_factory, jpeg_tree):
    """A report of made-up scores of all 12 models and both ablations, two seeds of two folds."""
    folder = tmp_path_factory.mktemp("report")
    data = images.folders(jpeg_tree, measure=False)
    runs = [
        Run(data, folder / f"fold{fold}_seed{seed}", fold, seed)
        for fold in (0, 1)
        for seed in (0, 1)
    ]
    for each in runs:
        for step in make_plan(MICRO, [each]):
            if step.kind == "test":
                make_up(step.command(), jpeg_tree, each)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        write_report(MICRO, runs, [], folder)
    return folder, runs


def make_up(command, tree, run):
    value = {word: command[i + 1 :] for i, word in enumerate(command) if word.startswith("--")}
    config, checkpoint, out = Path(command[2]).stem, command[3], value["--out"][0]
    views = {"both": ["dense", "crops"]}.get(value["--views"][0], value["--views"][:1])
    scales = [int(Q) for Q in value["--scales"][: value["--scales"].index("--out")]]
    (row,) = (row for row in TABLE_3 if row.config == config)
    rng = np.random.default_rng([*out[-20:].encode()])
    n, pairs = 40, [(view, Q) for view in views for Q in scales]
    labels = np.arange(n) % 2
    good = np.clip(rng.normal(0.75, 0.25, (n, len(pairs))), 0, 1)
    p = np.stack([good, 1 - good], -1)
    p[labels == 1] = p[labels == 1][..., ::-1]
    names = sorted(str(f.relative_to(tree)) for f in tree.rglob("val/*/*.jpg"))
    Scores(
        p.astype(np.float32),
        labels=labels,
        names=np.array([names[i % len(names)] for i in range(n)]),
        classes=np.array(["green", "red"]),
        root=str(tree),
        protocols=[
            dict(
                config=config,
                arch=row.arch,
                S=scaled(row.S, 32),
                views=[view for view, _ in pairs],
                scales=[Q for _, Q in pairs],
                flip=True,
                grid=5,
                crop_size=32,
                checkpoint=checkpoint,
                sha256=f"{checkpoint}",
            )
        ],
    ).save(out)


def test_the_report_has_everything(reported):
    folder, runs = reported
    text = (folder / "report/report.md").read_text()
    for number in range(3, 8):
        assert f"**Table {number}: " in text
    assert "not measured" not in text
    verdicts = re.findall(r"\| (holds|does not hold|undecided) \|", text)
    assert len(verdicts) == sum(len(c.parts) + (len(c.parts) > 1) for c in CLAIMS) + 2
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert {Path(name).stem for name in figures} == {
        "depth",
        "scales",
        "views",
        "hardest",
        "confusion",
    }
    for name in figures:  # none is blank
        assert mmcv.imread(str(folder / "report" / name)).std() > 20


def test_every_number_traces_to_a_file(reported):
    folder, runs = reported
    text = (folder / "report/report.md").read_text()
    files = dict(re.findall(r"\| (fold\S+\.npz) \| ([0-9a-f]{64}) \|", text))
    assert len(files) == 4 * 14
    assert all(file_sha256(folder / name) == digest for name, digest in files.items())
    # Table 3's first row by hand, from the files.
    wrong = [Scores.load(r.scores(MODELS[0])).error(1) for r in runs]
    assert f"| A | 256 | 256 | {np.mean(wrong):.1f}<br>[" in text


def test_seeds_are_compared_on_the_same_images(tmp_path, jpeg_tree):
    data = images.folders(jpeg_tree, measure=False)
    runs = [Run(data, tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)]
    for each in runs:
        step = next(s for s in make_plan(MICRO, [each]) if s.kind == "test")
        make_up(step.command(), jpeg_tree, each)
    Results(MICRO, runs)
    file = runs[1].scores(MODELS[0])
    scores = Scores.load(file)
    replace(scores, names=np.roll(scores.names, 1)).save(file)
    with pytest.raises(UserError, match="not tested on the same data"):
        Results(MICRO, runs)


def test_nothing_to_report_is_an_error(tmp_path, jpeg_tree):
    with pytest.raises(UserError, match="no scores of fold 0, seed 0"):
        Results(MICRO, [Run(images.folders(jpeg_tree, measure=False), tmp_path)])


def browser():
    names = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(not browser(), reason="no Chromium on the PATH, nor named by $CHROMIUM")
def test_the_report_in_a_browser_at_phone_width(finished, tmp_path):
    folder, _ = finished
    page = (folder / "report/report.html").read_text()
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
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])
    assert found["missing"] == 0 and found["images"] == page.count("<img ") > 5
    assert found["window"] == 375 and found["page"] <= 375 and not found["wide"]
    assert found["tables"] >= 8 and found["scrolling"] > 0
