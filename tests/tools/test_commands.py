"""The tools as a user types them."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tools.arguments import load_config, parser
from tools.benchmarks import link
from tools.dry_run import end_workers
from tools.train import mixed_precision
from vgg_mm import errors
from vgg_mm.cli.commands import commands
from vgg_mm.errors import UserError
from vgg_mm.registry import MODELS
from vgg_mm.testing import Scores

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs/demo.py")
# A run of seconds: one epoch of a narrow net in big batches.
SHORT = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=128", "model.backbone.width=4"]
SHORT += ["model.head.in_channels=32", "model.head.channels=16"]
SHORT += ["default_hooks.logger.interval=1"]


def run(*command, cwd, **env):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    command = [str(part) for part in command]
    if command[0].endswith(".py"):
        command.insert(0, sys.executable)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def fails(*command, cwd, **env):
    """The message of a command that must fail with one and no traceback."""
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.rpartition("error: ")[2]


@pytest.fixture
def typed(tool, monkeypatch):
    """Runs a tool in a folder, in this process, for in its own each costs seconds.

    The arguments end with those of ``--cfg-options``; returns what is printed.
    """

    def call(cwd, name, *arguments):
        monkeypatch.chdir(cwd)
        return tool(name, *arguments, f"experiment_name={uuid.uuid4()}")  # mmengine's: a second's

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory, few_scenes):
    """A folder where the demo was trained for an epoch, and what the tool printed."""
    cwd = tmp_path_factory.mktemp("demo")
    (cwd / "data").mkdir()
    (cwd / "data/demo").symlink_to(few_scenes)
    done = run(ROOT / "tools/train.py", DEMO, "--cfg-options", *SHORT, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done.stdout


def test_train_ends_with_a_test_and_a_picture(trained):
    cwd, printed = trained
    assert (cwd / "work_dirs/demo/report.png").stat().st_size > 50_000
    scores = Scores.load(cwd / "work_dirs/demo/scores.npz")
    top1 = 100 * np.mean(scores.mean().argmax(1) == scores.labels)
    assert f"Top-1 accuracy, dense evaluation: {top1:.1f}%" in printed
    assert re.search(r"Epoch\(train\) +\[1\]\[ *1/8\] .* loss: 4", printed)  # at once
    assert np.allclose(scores.posteriors.sum(2), 1, atol=1e-5)
    assert len(scores.names) == len(list((cwd / "data/demo/val").rglob("*.JPEG")))


def test_test_repeats_the_result(trained, typed):
    cwd, _ = trained
    best = cwd / "work_dirs/demo/best.pth"
    before = Scores.load(cwd / "work_dirs/demo/scores.npz")
    printed = typed(cwd, "test", DEMO, best, "--work-dir", "again", "--cfg-options", *SHORT)
    after = Scores.load(cwd / "again/scores.npz")
    assert np.allclose(before.posteriors, after.posteriors, atol=1e-6)
    assert f"top-1 error {before.error(1):.1f}%" in printed


def test_checkpoints_load_safely(trained):
    cwd, _ = trained
    for path in (cwd / "work_dirs/demo").glob("*.pth"):
        checkpoint = torch.load(path, weights_only=True)
        assert len(checkpoint["meta"]["dataset_meta"]["classes"]) == 64
        assert checkpoint["message_hub"]["log_scalars"]["train/loss"]["log"].ndim == 1


def test_the_config_that_a_run_leaves_is_the_runs(trained, typed, tmp_path):
    """The test at its end writes none in its place, and it can be tested, resumed and read."""
    cwd, _ = trained
    left = cwd / "work_dirs/demo/demo.py"
    assert Config.fromfile(left).model.type == "ImageClassifier"
    best = left.with_name("best.pth")
    arguments = [left, best, "--out", tmp_path / "scores.npz", "--cfg-options"]
    printed = typed(cwd, "test", *arguments, "test_dataloader.num_workers=0")
    assert "top-1 error" in printed and Config.fromfile(left).model.type == "ImageClassifier"
    shutil.copytree(left.parent, tmp_path / "run")
    more = ["--cfg-options", "train_cfg.max_epochs=2"]
    printed = typed(cwd, "train", left, "--resume", "--work-dir", tmp_path / "run", *more)
    assert "--resume: the training goes on from " in printed and "Epoch(train) [2]" in printed


def test_resume_goes_on(trained, typed, tmp_path):
    cwd, _ = trained
    shutil.copytree(cwd / "work_dirs/demo", tmp_path / "run")
    arguments = [DEMO, "--work-dir", tmp_path / "run", "--cfg-options", *SHORT, "resume=True"]
    printed = typed(cwd, "train", *arguments, "train_cfg.max_epochs=2")
    assert "Epoch(train) [2]" in printed
    assert "Epoch(train) [1]" not in printed
    assert "--resume: the training goes on from " in printed


CHAIN = """
_base_ = {demo!r}
model = dict(
    backbone=dict(arch={arch!r}, width=4), head=dict(in_channels=32, channels=16)
)
train_dataloader = dict(batch_size=16, dataset=dict(dataset=dict(indices=64)))
val_dataloader = dict(dataset=dict(indices=16))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs={epochs}, val_interval=1)
param_scheduler = [dict(type="vgg_mm.PlateauLR", patience=0, threshold=1000)]
"""


def test_the_papers_chain(trained, tool, tmp_path, monkeypatch):
    """Net A to the end of its third plateau; D from A's layers; D's weights at another S."""
    monkeypatch.chdir(trained[0])

    def chained(name, arch, epochs, *arguments):
        config = tmp_path / f"{name}.py"
        config.write_text(CHAIN.format(demo=DEMO, arch=arch, epochs=epochs))
        printed = tool("train", config, "--work-dir", tmp_path / name, *arguments)
        return printed, tmp_path / name / "best.pth"

    log, a = chained("a", "A", 30)
    assert "Started from random weights, seed 0" in log
    assert all(f"Drop {i} of 3" in log for i in (1, 2, 3))
    assert "Epoch(train)  [5]" in log and "Epoch(train)  [6]" not in log
    log, d = chained("d", "D", 1, "--init-from-a", a, "--resume")
    assert f"--resume: nothing is saved in {d.parent} yet, so the training begins." in log
    assert f"Started from net A's conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8 in {a}" in log
    S = "train_dataloader.dataset.dataset.pipeline.0.S=(32,64)"
    log, jitter = chained("jitter", "D", 1, "--start-from", d, "--cfg-options", S)
    assert f"Started from the weights of {d}" in log and "lr: 1.0000e-03" in log
    lower = "optim_wrapper.optimizer.lr=1e-4"
    d.unlink()  # which the config that the run left names
    again = [tmp_path / "jitter/jitter.py", "--work-dir", tmp_path / "lower"]
    log = tool("train", *again, "--start-from", jitter, "--cfg-options", lower)
    assert f"Started from the weights of {jitter}" in log and "lr: 1.0000e-04" in log
    assert torch.load(jitter)["meta"]["started_from"] == f"the weights of {d}"


def test_a_dry_run_says_how_long_and_leaves_no_trace(trained, typed):
    cwd, _ = trained
    arguments = [DEMO, "--dry-run", "--work-dir", "dry", "--cfg-options", *SHORT]
    printed = typed(cwd, "train", *arguments)
    train, val = (len(list((cwd / "data/demo" / s).rglob("*.JPEG"))) for s in ("train", "val"))
    assert f"data: {train} training images of 64 classes, {val} for validation" in printed
    assert "start: random weights, seed 0" in printed
    assert re.search(r"speed: .* s a step of 128 images", printed)
    assert re.search(r"time: \d+:\d\d:\d\d for 1 epochs of 8 steps and 1 validations", printed)
    assert "tried: training, validation, a checkpoint, --resume, the test" in printed
    assert not (cwd / "dry").exists() and not list(cwd.rglob(".dry_run_*"))


@pytest.mark.parametrize(
    "option, says",
    [
        ("default_hooks.checkpoint.save_best=accuracy/top7", "no 'accuracy/top7', only accuracy"),
        ("optim_wrapper.optimizer.lr=1e30", "the loss is "),
        ("tta_pipeline.1.scales=[20]", "fc6 looks at 7x7 positions"),
        ("train_dataloader.batch_size=2000", "make no batch of 2000: lower train_dataloader.batch"),
    ],
)
def test_a_dry_run_trips_over_what_the_run_would(option, says, trained, monkeypatch):
    """In validation, in training, and in the test at its end."""
    cwd, _ = trained
    arguments = [DEMO, "--dry-run", "--work-dir", "dry", "--cfg-options", *SHORT, option]
    arguments.append(f"experiment_name={uuid.uuid4()}")
    assert says in mistake(cwd, "train", arguments, monkeypatch)
    assert not list(cwd.rglob(".dry_run_*"))


def test_a_dry_run_ends_workers_itself():
    loader = DataLoader(range(8), num_workers=2, persistent_workers=True)
    assert len(list(loader)) == 8
    workers = loader._iterator._workers
    end_workers(loader)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_dry_run_of_a_run_under_way(trained, typed):
    cwd, _ = trained
    before = sorted((path, path.stat().st_mtime) for path in (cwd / "work_dirs").rglob("*"))
    options = ["train_cfg.max_epochs=3", "default_hooks.checkpoint.save_best=auto"]
    says = typed(cwd, "train", DEMO, "--dry-run", "--resume", "--cfg-options", *SHORT, *options)
    assert "tried: " in says
    assert before == sorted((p, p.stat().st_mtime) for p in (cwd / "work_dirs").rglob("*"))


def test_auto_scale_lr_counts_accumulated_batches(trained, monkeypatch):
    rates = []

    def built(runner):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        rates.extend(runner.optim_wrapper.get_lr()["lr"])
        raise UserError("enough")

    monkeypatch.setattr(Runner, "train", built)
    cwd, _ = trained
    options = ["optim_wrapper.accumulative_counts=3", "optim_wrapper.optimizer.lr=0.01"]
    arguments = [DEMO, "--auto-scale-lr", "--work-dir", "scaled", "--cfg-options", *SHORT]
    mistake(cwd, "train", [*arguments, *options], monkeypatch)
    assert rates == [pytest.approx(0.01 * 3 * 128 / 256)]


def test_a_dry_run_sees_a_full_disk(trained, monkeypatch):
    cwd, _ = trained
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1e5))
    says = mistake(cwd, "train", [DEMO, "--dry-run"], monkeypatch)
    assert re.search(r"5 checkpoints of \S+ GB do not fit into the 0.0001 GB .*--work-dir", says)


def test_tensorboard(trained, tmp_path, monkeypatch):
    cwd, _ = trained
    arguments = [DEMO, "--tensorboard", "--work-dir", tmp_path, "--cfg-options", *SHORT]
    if find_spec("tensorboard") is None:
        says = mistake(cwd, "train", arguments, monkeypatch)
        assert "--tensorboard needs tensorboard: pip install 'vgg_mm[tensorboard]'" in says
    else:
        assert run(ROOT / "tools/train.py", *arguments, cwd=cwd).returncode == 0
        assert list(tmp_path.glob("*/vis_data/events.out.tfevents*"))


def losses(work_dir):
    lines = [
        json.loads(line)
        for log in work_dir.glob("*/vis_data/scalars.json")
        for line in log.read_text().splitlines()
    ]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_processes_train_as_one(trained, tmp_path):
    cwd, _ = trained
    halves = [*SHORT, "train_dataloader.batch_size=64"]  # only the order of sums differs
    done = run(
        ROOT / "tools/dist_train.sh", DEMO, 2, "--work-dir", tmp_path, "--cfg-options", *halves,
        cwd=cwd, PORT="29517",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = cwd / "work_dirs/demo", tmp_path
    a, b = (Scores.load(folder / "scores.npz") for folder in (one, two))
    assert (a.names == b.names).all() and (a.labels == b.labels).all()
    assert np.allclose(a.posteriors, b.posteriors, atol=1e-4)
    # mmengine smooths the logged loss over a window that both share; each process logs its own.
    assert len(losses(one)) == len(losses(two)) == 8


def test_two_hosts_train_as_one(trained, tmp_path):
    if not link.allowed():
        pytest.skip("no network namespaces here")
    cwd, _ = trained
    two = run(
        link.HOSTS, 2, "1gbit", ROOT / "tools/dist_train.sh", DEMO, 1, "--work-dir", tmp_path,
        "--cfg-options", *SHORT, "train_dataloader.batch_size=64", cwd=cwd,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    a, b = (Scores.load(path / "scores.npz") for path in (cwd / "work_dirs/demo", tmp_path))
    assert (a.names == b.names).all() and np.allclose(a.posteriors, b.posteriors, atol=1e-4)


def test_fine_tunes_on_other_classes_and_says_what_starts_new(trained, typed, jpeg_tree, tmp_path):
    cwd, _ = trained
    best = cwd / "work_dirs/demo/best.pth"
    arguments = [DEMO, "--start-from", best, "--work-dir", tmp_path, *folders(jpeg_tree)]
    output = typed(cwd, "train", *arguments, "train_dataloader.batch_size=2")
    assert "10 layers taken; of the file are left head.fc8; head.fc8 starts new" in output
    assert "head.fc8.weight (fc8.weight) is [64, 16, 1, 1], not [2, 16, 1, 1]" in output
    assert "lr: 1.0000e-03" in output


@pytest.mark.parametrize(
    "tool, arguments, says",
    [
        ("train", ["configs/vgg16.py"], "no config configs/vgg16.py"),
        ("train", ["lost.py"], "lost.py: FileNotFoundError: "),
        ("train", ["foreign.py"], "foreign.py: ImportError: Failed to import custom modules"),
        ("train", [DEMO, "--amp"], "--amp needs CUDA"),
        ("train", [DEMO, "--resume", "no.pth"], "no checkpoint no.pth"),
        ("train", [DEMO, "--resume", "a.pth", "--start-from", "b.pth"], "or starts from"),
        ("train", [DEMO, "--cfg-options", "model.backbone.arch=F"], "'F' is not a net of Table 1"),
        ("train", [DEMO, "--cfg-options", "model.backbone.widht=8"], "'widht'"),
        ("train", [DEMO, "--cfg-options", "model.head.num_classes", "5"], "each is KEY=VALUE"),
        ("train", [DEMO, "--cfg-options", "tta_pipeline.1.scales=[32,(48]"], "brackets closed"),
        ("train", [DEMO, "--cfg-options", "tta_pipeline.9.scales=[32]"], "do not fit"),
        ("train", [DEMO, "--cfg-options", "tta_pipeline.scales=[32]"], "do not fit"),
        ("train", [DEMO, "--cfg-options", "optim_wraper.optimizer.lr=1"], "'optim_wrapper'"),
        ("train", [DEMO, "--cfg-options", "model.head.type=vgg_mm.VGHead"], "vgg_mm.VGHead"),
        (
            *("train", [DEMO, "--work-dir", "new", "--cfg-options", "model.head.num_classes=9"]),
            "model.head.num_classes=64",
        ),
        ("train", [ROOT / "configs/vgg16_d_jitter.py"], "data/imagenet/train"),
        ("test", [DEMO, "no.pth"], "no checkpoint no.pth"),
    ],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="--amp works here")
def test_mistakes_are_told_in_one_message(tool, arguments, says, trained, monkeypatch):
    cwd, _ = trained
    (cwd / "lost.py").write_text('_base_ = "demo.py"')
    (cwd / "foreign.py").write_text('custom_imports = dict(imports="nowhere.at_all")')
    assert says in mistake(cwd, tool, arguments, monkeypatch)


def mistake(cwd, tool, arguments, monkeypatch):
    """The message of a tool run in this process, for in its own each costs seconds."""
    monkeypatch.chdir(cwd)
    if "--cfg-options" not in arguments and arguments[0] == DEMO:
        arguments = [*arguments, "--cfg-options", *SHORT]
    monkeypatch.setattr(sys, "argv", [f"tools/{tool}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(commands()[tool]), run_name="__main__")
    assert str(ended.value).startswith("error: ")
    return str(ended.value)


def test_a_misspelt_type_or_key_leaves_no_traceback(trained):
    cwd, _ = trained
    message = fails(
        ROOT / "tools/train.py", DEMO, "--cfg-options", "model.backbone.arhc=D", cwd=cwd
    )
    assert "VGG" in message and "'arhc'" in message and len(message.splitlines()) == 1


def test_only_a_configs_key_is_called_misspelt():
    """A fault of the code, in a class that a config builds or elsewhere, shows its traceback."""

    class Thing:
        def __init__(self, size, **kwargs):
            self.parts = [dict(**kwargs), Part(colour="red") if size == 0 else None]
            if kwargs:
                Part(**kwargs)

    class Part:
        def __init__(self):
            pass

    things = Registry("thing")
    things.register_module(module=Thing)

    def ends(**cfg):
        try:
            errors.run(lambda: things.build(dict(type="Thing", **cfg)))
        except SystemExit as ended:
            return str(ended)

    assert "got an unexpected keyword argument 'sise'. Misspelt?" in ends(size=1, sise=2)
    assert "missing 1 required positional argument: 'size'" in ends()
    with pytest.raises(TypeError, match="'colour'"):
        ends(size=0)
    with pytest.raises(TypeError, match="'colour'"):
        errors.run(lambda: Part(colour="red"))
    with pytest.raises(KeyError):
        errors.run(lambda: {}["the key that is not in the dict"])


def test_on_demand_every_error_shows_its_traceback(monkeypatch, trained, tool):
    monkeypatch.chdir(trained[0])
    monkeypatch.setenv("VGG_MM_DEBUG", "1")
    with pytest.raises(UserError, match="no checkpoint no.pth"):
        tool("test", DEMO, "no.pth")


def load(*options):
    args = parser("").parse_args([DEMO, "--cfg-options", *options])
    return load_config(args)


def test_batches_are_pinned_where_there_is_a_gpu(monkeypatch):
    key = "val_dataloader.pin_memory"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "pin_memory" not in load("a=1").train_dataloader
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = load(f"{key}=False")
    assert cfg.train_dataloader.pin_memory and cfg.test_dataloader.pin_memory
    assert not cfg.val_dataloader.pin_memory  # as the config says
    model = MODELS.build(cfg.model.data_preprocessor)
    assert model._non_blocking


def test_amp_takes_bfloat16_where_the_gpu_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    has = {"bf16": True}
    supported = lambda including_emulation=True: including_emulation or has["bf16"]  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    mixed = mixed_precision()
    assert mixed["dtype"] == "bfloat16" and mixed["loss_scale"] == dict(enabled=False)
    has["bf16"] = False
    mixed = mixed_precision()
    assert mixed["dtype"] == "float16" and mixed["loss_scale"] == "dynamic"


def test_a_checkpoint_of_another_net_is_refused_in_testing_and_resuming(trained, monkeypatch):
    cwd, _ = trained
    best = cwd / "work_dirs/demo/best.pth"
    deeper = [*SHORT, "model.backbone.arch=B"]
    says = "backbone.conv1_2 is not in the checkpoint"
    assert says in mistake(cwd, "test", [DEMO, best, "--cfg-options", *deeper], monkeypatch)
    fewer = ["--cfg-options", *SHORT, "model.head.channels=8"]
    assert "head.fc6" in mistake(cwd, "train", [DEMO, "--resume", best, *fewer], monkeypatch)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("tool", ["test", "--resume", "--start-from"])
def test_a_strangers_pickle_is_refused_and_does_not_run(tool, trained, tmp_path, monkeypatch):
    cwd, _ = trained
    marker = str(tmp_path / "ran")
    torch.save(dict(state_dict={}, meta=Payload(marker)), tmp_path / "evil.pth")
    arguments = (
        [DEMO, tmp_path / "evil.pth"] if tool == "test" else [DEMO, tool, tmp_path / "evil.pth"]
    )
    says = mistake(cwd, "test" if tool == "test" else "train", arguments, monkeypatch)
    assert "evil.pth is not a checkpoint that loads safely" in says
    assert not os.path.exists(marker)


def test_a_truncated_checkpoint_is_named(trained, tmp_path, monkeypatch):
    cwd, _ = trained
    best = cwd / "work_dirs/demo/best.pth"
    (tmp_path / "cut.pth").write_bytes(best.read_bytes()[:-1000])
    says = mistake(cwd, "test", [DEMO, tmp_path / "cut.pth"], monkeypatch)
    assert "cut.pth is not a checkpoint that loads safely: it is damaged" in says


def broken_tree(tmp_path, good, bad):
    """Generated pictures, of which the first ``bad`` are cut short."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("left", "right"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for i in range(good):
                cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (80, 90, 3), np.uint8))
    cut = sorted((tmp_path / "train/left").iterdir())[:bad]
    for path in cut:
        path.write_bytes(path.read_bytes()[:-100])
    return cut


def folders(tree, **overrides):
    options = [*SHORT, "model.head.num_classes=2", "train_dataloader.batch_size=4"]
    for loader in ("train_dataloader.dataset.dataset", "val_dataloader.dataset"):
        options += [f"{loader}.type=vgg_mm.Folders", f"{loader}.data_root={tree}"]
    options += ["test_dataloader.dataset.type=vgg_mm.Folders"]
    options += [f"test_dataloader.dataset.data_root={tree}"]
    return ["--cfg-options", *options, *(f"{k}={v}" for k, v in overrides.items())]


def test_a_corrupt_picture_is_replaced_and_named_in_training(typed, tmp_path):
    (cut,) = broken_tree(tmp_path / "tree", good=60, bad=1)
    printed = typed(tmp_path, "train", DEMO, *folders(tmp_path / "tree"))
    assert f"another takes its place: {cut}" in printed


def test_too_many_corrupt_pictures_stop_the_training(tmp_path, monkeypatch):
    broken_tree(tmp_path / "tree", good=20, bad=3)
    options = folders(tmp_path / "tree", **{"train_dataloader.num_workers": 1})
    message = mistake(tmp_path, "train", [DEMO, *options], monkeypatch)
    assert "pictures are corrupt, more than 1%" in message


def test_a_corrupt_picture_stops_the_test(trained, tmp_path, monkeypatch):
    cwd, _ = trained
    best = cwd / "work_dirs/demo/best.pth"
    shutil.copytree(cwd / "data/demo/val", tmp_path / "val")
    cut = sorted((tmp_path / "val").rglob("*.JPEG"))[3]
    cut.write_bytes(cut.read_bytes()[:-100])
    options = ["test_dataloader.num_workers=1", "test_dataloader.dataset.type=vgg_mm.Folders"]
    options += [f"test_dataloader.dataset.data_root={tmp_path}"]
    arguments = [DEMO, best, "--cfg-options", *SHORT, *options]
    message = mistake(cwd, "test", arguments, monkeypatch)
    assert message == f"error: {cut}: the image is truncated (no end marker)."


def test_a_machine_without_libgl_gets_the_line_that_mends_it(tmp_path):
    (tmp_path / "cv2").mkdir()
    says = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2/__init__.py").write_text(f"raise ImportError({says!r})")
    path = f"{tmp_path}:{ROOT}"
    message = fails(ROOT / "tools/train.py", DEMO, cwd=tmp_path, PYTHONPATH=path)
    assert "pip install opencv-python-headless" in message and len(message.splitlines()) == 1


def test_text_configs_need_no_imports_of_ours():
    for path in (ROOT / "configs").rglob("*.py"):
        if path.parent.name != "downstream":  # modules that need mmdet or mmseg
            assert "import" not in path.read_text()
        if path.parent.name == "configs":
            Config.fromfile(path)
