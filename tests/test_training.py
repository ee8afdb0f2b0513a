"""Sec. 3.1: the schedule, the initialisation, and runs that nothing can spoil."""

import errno
import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner, checkpoint
from small_nets import torchvision_net
from torch import nn
from torch.utils.model_zoo import load_url

from vgg_mm import upstream
from vgg_mm.data import EpochSampler
from vgg_mm.errors import UserError
from vgg_mm.testing.report import curves
from vgg_mm.training import DDP, PlateauLR
from vgg_mm.training.checkpoints import AtomicBackend, latest, read_checkpoint

ROOT = Path(__file__).parents[1]


# The schedule.


def plateau(lr=0.1, **kwargs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)
    return optimizer, PlateauLR(optimizer, **{"patience": 2, **kwargs})


def rates(optimizer, schedule, *accuracies):
    out = []
    for accuracy in accuracies:
        schedule.step()  # as at an epoch's end
        schedule.step({"accuracy/top1": accuracy})
        out.append(round(optimizer.param_groups[0]["lr"], 9))
    return out


def test_the_rate_falls_when_more_validations_than_patience_do_not_improve():
    assert rates(*plateau(), 10, 10, 9, 10, 10) == [0.1, 0.1, 0.1, 0.01, 0.01]


def test_less_than_the_threshold_is_no_improvement_and_slow_ones_add_up():
    assert rates(*plateau(threshold=1), 10, 10.9, 10.8, 10.9)[-1] == 0.01
    assert rates(*plateau(threshold=1), 10, 10.6, 11.2, 11.3, 11.4)[-1] == 0.1


def test_the_plateau_after_the_last_drop_ends_the_training():
    optimizer, schedule = plateau(patience=0, drops=3)
    ended = []
    for accuracy in (10, 10, 10, 10, 10):
        rates(optimizer, schedule, accuracy)
        ended.append(schedule.ended)
    assert ended == [False, False, False, False, True]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_each_drop_is_logged_with_its_reason(monkeypatch):
    lines = []
    monkeypatch.setattr("vgg_mm.training.schedule.print_log", lambda line, _: lines.append(line))
    rates(*plateau(patience=0, drops=1), 50.04, 50, 50)
    reason = "accuracy/top1 has not passed 50.04 in 1 tests"
    assert lines == [
        f"Drop 1 of 1, to 0.01: {reason}.",
        f"The training ends: {reason}, after 1 drops.",
    ]


def test_a_schedule_goes_on_from_its_state_but_obeys_the_config():
    optimizer, schedule = plateau(patience=0, drops=3)
    rates(optimizer, schedule, 10, 10, 10, 10, 10)
    assert schedule.ended
    state = json.loads(json.dumps(schedule.state_dict()))
    more_drops = PlateauLR(optimizer, patience=0, drops=4)
    more_drops.load_state_dict(state)
    assert not more_drops.ended
    assert rates(optimizer, more_drops, 10) == [1e-5]
    same = PlateauLR(optimizer, patience=0, drops=3)
    same.load_state_dict(state)
    assert same.ended


def test_a_missing_metric_is_named():
    _, schedule = plateau()
    with pytest.raises(UserError, match="no 'accuracy/top1', only accuracy/top5"):
        schedule.step({"accuracy/top5": 1.0})


# Random numbers and the place in an epoch.


def test_a_resumed_pass_is_the_rest_of_the_whole_one():
    whole = EpochSampler(range(10), seed=3)
    whole.set_epoch(2)
    keys = list(whole)
    resumed = EpochSampler(range(10), seed=3)
    resumed.set_epoch(2)
    resumed.skip(4)
    assert list(resumed) == keys[4:]
    assert list(resumed) == keys


# Checkpoints.


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    AtomicBackend().put(b"before", path)

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"epoch_1\.pth could not be written \(No space left"):
        AtomicBackend().put(b"after", path)
    assert path.read_bytes() == b"before"
    with pytest.raises(UserError, match=r"epoch_2\.pth could not be written"):
        AtomicBackend().put(b"below a file", path / "epoch_2.pth")
    assert os.listdir(tmp_path) == ["epoch_1.pth"]


def test_a_truncated_latest_is_named_and_the_one_before_it_offered(tmp_path):
    for i, name in enumerate(("epoch_1.pth", "iter_5.pth", "epoch_2.pth")):
        torch.save({"state_dict": {}}, tmp_path / name)
        os.utime(tmp_path / name, (i, i))
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    assert latest(tmp_path) == tmp_path / "epoch_2.pth"
    whole = (tmp_path / "epoch_2.pth").read_bytes()
    (tmp_path / "epoch_2.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"epoch_2\.pth is not .*--resume \S+iter_5\.pth$"):
        latest(tmp_path)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match="no run to resume in"):
        latest(tmp_path)


def mmengines_checkpoint(path):
    """What mmengine 0.10 saves of its log."""
    hub = MessageHub(str(uuid.uuid4()))
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/loss", np.float64(2.5))
    hub.update_info("best_score", np.float32(3))
    torch.save({"state_dict": {}, "message_hub": hub.state_dict()}, path)


def test_mmengines_own_checkpoints_load_safely(tmp_path):
    mmengines_checkpoint(tmp_path / "old.pth")
    loss = read_checkpoint(tmp_path / "old.pth")["message_hub"]["log_scalars"]["train/loss"]
    assert loss.mean() == 2.0


def test_they_still_need_our_help(tmp_path):
    """When this fails, ``trust_mmengines_checkpoints`` can go (mmengine#1655)."""
    mmengines_checkpoint(tmp_path / "old.pth")
    trusted = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "old.pth", weights_only=True)
    finally:
        torch.serialization.add_safe_globals(trusted)


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "attack",
    [
        Attack(os.system, ("touch attacked",)),
        Attack(getattr, (HistoryBuffer, "register_statistics")),
        Attack(getattr, (HistoryBuffer, "__init__")),
        Attack(getattr, (str, "format")),
    ],
)
def test_a_strangers_pickle_is_refused_and_nothing_runs(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "x": attack}, "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth is not a checkpoint that loads safely"):
        read_checkpoint("evil.pth")
    assert os.listdir() == ["evil.pth"]


@pytest.mark.parametrize("source", ["hub/checkpoints/{}", "http://localhost/{}"])
def test_mmengines_loaders_run_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where URLs are found downloaded
    monkeypatch.chdir(tmp_path)
    os.makedirs("hub/checkpoints")
    torch.save({"x": Attack(os.system, ("touch attacked",))}, "hub/checkpoints/evil.pth")
    torch.save({"x": Attack(getattr, (str, "format"))}, "hub/checkpoints/getattr.pth")
    mmengines_checkpoint("hub/checkpoints/old.pth")
    for name in ("evil.pth", "getattr.pth"):
        with pytest.raises(pickle.UnpicklingError):
            CheckpointLoader.load_checkpoint(source.format(name))
    assert os.listdir() == ["hub"]
    for _ in range(2):
        CheckpointLoader.load_checkpoint(source.format("old.pth"))


def test_mmengines_loaders_still_need_our_help():
    """When this fails, that part of ``load_weights_only`` can go."""
    assert not inspect.signature(load_url).parameters["weights_only"].default
    if hasattr(checkpoint, "_safe_torch_load"):
        assert "weights_only=False" in inspect.getsource(checkpoint)


# What is worked around.


def test_a_configs_text_is_formatted_once(monkeypatch):
    calls = []

    def slow(text, **kwargs):
        calls.append(text)
        return text, True

    monkeypatch.setattr(upstream.FORMATTER, "FormatCode", slow)
    upstream.format_configs_once()
    cfg = Config(dict(a=1))
    assert cfg.pretty_text == cfg.pretty_text == "a=1"
    assert len(calls) == 1
    cfg.a = 2
    assert cfg.pretty_text == "a=2"


def test_mmengine_still_formats_every_time(monkeypatch):
    """When this fails, ``format_configs_once`` can go (mmcv#2466)."""
    calls = []

    def counted(text, **kwargs):
        calls.append(text)
        return text, True

    monkeypatch.setattr(upstream.FORMATTER, "FormatCode", counted)
    cfg = Config(dict(a=1))
    assert cfg.pretty_text == cfg.pretty_text
    assert len(calls) == 2


def test_mmengine_still_copies_the_history():
    """When this fails, ``shorten_history`` can go."""
    assert "np.append(self._log_history" in inspect.getsource(HistoryBuffer.update)


def test_the_history_is_short():
    hub = MessageHub(str(uuid.uuid4()))
    for i in range(5):
        hub.update_scalar("train/loss", float(i))
    upstream.shorten_history(hub, 3)
    assert hub.get_scalar("train/loss").mean(10) == 3.0
    hub.update_scalar("train/loss", 9.0)
    assert hub.get_scalar("train/loss").data[0].tolist() == [2, 3, 4, 9]


# Runs.


def narrow(tree, work_dir, **options):
    """The demo's config for a run of moments on the test pictures: 4 steps an epoch."""
    cfg = Config.fromfile(ROOT / "configs/demo.py")
    for name in ("train", "val"):
        dataset = cfg[f"{name}_dataloader"].dataset
        dataset = dataset.dataset if name == "train" else dataset
        dataset.update(type="vgg_mm.Folders", data_root=str(tree), split=name)
    cfg.merge_from_dict(
        {
            "model.backbone.width": 4,
            "model.head.in_channels": 32,
            "model.head.channels": 16,
            "model.head.num_classes": 2,
            "train_dataloader.batch_size": 2,
            "train_cfg.max_epochs": 2,
            "train_cfg.val_interval": 1,
            "default_hooks.checkpoint.interval": 1,
            "default_hooks.logger.interval": 1,
            "work_dir": str(work_dir),
            "experiment_name": str(uuid.uuid4()),
            **options,
        }
    )
    return cfg


def train(cfg, resume=None):
    if resume:
        cfg.resume, cfg.load_from = True, str(resume)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_a_run_leaves_the_newest_and_the_best_and_says_where_it_started(jpeg_tree, tmp_path):
    options = {"train_cfg.max_epochs": 4, "default_hooks.checkpoint.keep": 2}
    options["default_hooks.checkpoint.iters"] = 3
    train(narrow(jpeg_tree, tmp_path, **options))
    assert {p.name for p in tmp_path.glob("*.pth")} == {"iter_15.pth", "epoch_4.pth", "best.pth"}
    assert latest(tmp_path) == tmp_path / "epoch_4.pth"
    saved = read_checkpoint(tmp_path / "epoch_4.pth")
    assert saved["meta"]["started_from"] == "random weights, seed 0"
    best = read_checkpoint(tmp_path / "best.pth")
    assert best["meta"]["epoch"] == saved["message_hub"]["runtime_info"]["best_epoch"]


def test_another_run_is_not_written_over(jpeg_tree, tmp_path):
    train(narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1}))
    with pytest.raises(UserError, match=r"holds a run already, up to .*epoch_1\.pth"):
        train(narrow(jpeg_tree, tmp_path))


def test_a_run_resumed_in_mid_epoch_reads_the_rest_alone(jpeg_tree, tmp_path, monkeypatch):
    options = {"default_hooks.checkpoint.iters": 3, "train_cfg.max_epochs": 1}
    train(narrow(jpeg_tree, tmp_path / "a", **options))
    read = []
    get = "vgg_mm.data.seeding.SeededDataset.__getitems__"
    original = sys.modules["vgg_mm.data.seeding"].SeededDataset.__getitems__
    monkeypatch.setattr(get, lambda self, keys: read.extend(keys) or original(self, keys))
    cfg = narrow(jpeg_tree, tmp_path / "b", **options)
    train(cfg, resume=tmp_path / "a/iter_3.pth")
    assert len(read) == 2  # one batch of four
    one, other = (read_checkpoint(tmp_path / x / "epoch_1.pth")["state_dict"] for x in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_of_other_batches_does_not_go_on(jpeg_tree, tmp_path):
    train(narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1}))
    cfg = narrow(jpeg_tree, tmp_path, **{"train_dataloader.batch_size": 4})
    with pytest.raises(UserError, match="counts 4 batches an epoch, this run 2"):
        train(cfg, resume=tmp_path / "epoch_1.pth")


def test_three_drops_end_the_training_and_more_epochs_extend_it(jpeg_tree, tmp_path):
    schedule = dict(type="vgg_mm.PlateauLR", patience=0, drops=3, threshold=1000)
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 9})
    cfg.param_scheduler = schedule
    runner = train(cfg)
    assert runner.epoch == 5  # one improvement over nothing, three drops, the end
    assert runner.optim_wrapper.get_lr()["lr"][0] == pytest.approx(1e-5)
    again = train(narrow_like(cfg), resume=latest(tmp_path))
    assert again.epoch == 5
    cfg = narrow_like(cfg)
    cfg.param_scheduler.drops = 5
    assert train(cfg, resume=latest(tmp_path)).epoch == 5 + 3  # two more drops, the end


def narrow_like(cfg):
    cfg = Config(cfg.to_dict())
    cfg.experiment_name = str(uuid.uuid4())
    return cfg


def test_a_finished_run_goes_on_with_more_epochs(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1})
    train(cfg)
    cfg = narrow_like(cfg)
    cfg.train_cfg.max_epochs = 2
    assert train(cfg, resume=latest(tmp_path)).iter == 8


def test_logs_the_speed_and_the_wait_for_data(jpeg_tree, tmp_path):
    train(narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1}))
    (log,) = tmp_path.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4
    for step in steps:
        assert step["images/s"] > 0 and 0 < step["waiting"] < 100 and step["lr"] == 0.01


def test_validation_may_be_dense(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1})
    load, rescale, _, pack = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline, cfg.val_dataloader.batch_size = [load, rescale, pack], 1
    runner = train(cfg)
    right = []
    for batch in runner.val_dataloader:
        *_, h, w = batch["inputs"].shape
        assert min(h, w) == 73 < max(h, w)
        (sample,) = runner.model.val_step(batch)
        right.append(bool(sample.pred_label == sample.gt_label))
    accuracy = runner.message_hub.get_info("best_score")
    assert accuracy == pytest.approx(100 * np.mean(right))


# Net A.


def test_deeper_nets_start_from_net_a(jpeg_tree, tmp_path):
    train(narrow(jpeg_tree, tmp_path / "a", **{"train_cfg.max_epochs": 1}))
    options = {
        "model.backbone.arch": "D",
        "train_cfg.max_epochs": 1,
        "optim_wrapper.optimizer.lr": 0.0,
    }
    cfg = narrow(jpeg_tree, tmp_path / "d", **options)
    cfg.custom_hooks.append(
        dict(type="vgg_mm.InitFromA", checkpoint=str(tmp_path / "a/epoch_1.pth"))
    )
    train(cfg)
    a, d = (read_checkpoint(tmp_path / x / "epoch_1.pth") for x in "ad")
    assert "net A's conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8" in d["meta"]["started_from"]
    a, d = a["state_dict"], d["state_dict"]
    copied = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}
    for key, value in d.items():
        _, layer, kind = key.split(".")
        if layer in copied:
            assert torch.equal(value, a[key])
        elif kind == "bias":
            assert not value.any()
        else:
            assert value.std() == pytest.approx(0.01, rel=0.2)
            assert abs(value.mean()) < 0.002


def test_start_from_trains_from_what_a_stranger_saved(jpeg_tree, tmp_path):
    net = torchvision_net("A")
    state = {k: v for k, v in net.state_dict().items() if k.startswith("features")}
    torch.save(dict(model_state_dict=state), tmp_path / "net.pth")
    options = {"train_cfg.max_epochs": 1, "optim_wrapper.optimizer.lr": 0.0}
    cfg = narrow(jpeg_tree, tmp_path / "a", **options)
    origin = dict(checkpoint=str(tmp_path / "net.pth"))
    cfg.custom_hooks.append(dict(type="vgg_mm.StartFrom", **origin))
    train(cfg)
    saved = read_checkpoint(tmp_path / "a/epoch_1.pth")
    assert saved["state_dict"]["backbone.conv1_1.weight"].equal(state["features.0.weight"])
    assert saved["meta"]["started_from"] == f"the weights of {origin['checkpoint']}"
    mean, std = (217.0, 208.0, 200.0), (60.0, 60.0, 60.0)  # the demo's
    assert saved["meta"]["input"] == dict(order="RGB", top=255, mean=mean, std=std)
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "net.pth")
    cfg = narrow(jpeg_tree, tmp_path / "b", **options)
    cfg.custom_hooks.append(dict(type="vgg_mm.StartFrom", **origin))
    with pytest.raises(UserError, match="net.pth will not do: its names are not a VGG's"):
        train(cfg)


def test_net_a_of_another_width_is_refused(jpeg_tree, tmp_path):
    train(narrow(jpeg_tree, tmp_path / "a", **{"train_cfg.max_epochs": 1}))
    options = {"model.backbone.width": 8, "model.head.in_channels": 64}
    cfg = narrow(jpeg_tree, tmp_path / "b", **options)
    cfg.custom_hooks.append(
        dict(type="vgg_mm.InitFromA", checkpoint=str(tmp_path / "a/epoch_1.pth"))
    )
    with pytest.raises(UserError, match=r"\(conv1_1.weight\) is \[4, 3, 3, 3\], not \[8, 3"):
        train(cfg)


def test_unknown_compression():
    with pytest.raises(UserError, match="compress='int8'; use one of fp16, bf16"):
        DDP(nn.Linear(1, 1), compress="int8")


# Kills.


def scripted(script, *arguments):
    """What a script that forks its runs prints as JSON."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *arguments],
        env=env, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return scripted("kill_in_phases.py", tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize(
    "phase", ["in_mid_epoch", "while_a_checkpoint_is_written", "in_validation", "at_a_drop"]
)
def test_a_run_killed_and_resumed_ends_as_the_whole_one(killed, phase):
    run = killed[phase]
    assert run["killed"]
    before, hit, after = run["log"].partition(f"killed {phase.replace('_', ' ')}\n")
    assert hit, before[-2000:]
    assert "Goes on after step" in after
    assert run["differences"] == [], after[-2000:]


def test_the_whole_run_has_drops(killed):
    assert "Drop 1 of 3" in killed["whole"]


# Several processes.


@pytest.fixture(scope="module")
def losses(tmp_path_factory, jpeg_tree):
    return scripted("one_or_two.py", tmp_path_factory.mktemp("one_or_two"), jpeg_tree)


def test_two_processes_take_the_steps_of_one(losses):
    one, two = losses["one"], losses["two"]
    assert len(one) == len(two) == 20
    assert one[-1] < 0.9 * one[0]
    assert np.allclose(one, two, atol=1e-5, rtol=0)


def test_compressed_gradients_are_rounded_and_train_as_well(losses):
    assert losses["two"][0] == losses["bf16"][0]
    assert losses["two"][-1] != losses["bf16"][-1]
    assert losses["bf16"][-1] == pytest.approx(losses["two"][-1], rel=0.05)


def test_when_a_process_is_killed_the_job_ends_and_names_it(tmp_path):
    command = [ROOT / "tools/dist_train.sh", ROOT / "configs/demo.py", "2", "--cfg-options"]
    command += ["model.backbone.width=4", "model.head.in_channels=32", "model.head.channels=16"]
    command += ["default_hooks.logger.interval=1", "train_dataloader.batch_size=4"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: "Epoch(train)" in (tmp_path / "log").read_text(), 120)
        (pid,) = (pid for pid in children(job.pid) if b"\0RANK=1\0" in environment(pid))
        os.kill(pid, signal.SIGKILL)
        assert job.wait(timeout=60) != 0
    finally:
        if job.poll() is None:
            for pid in [*children(job.pid), job.pid]:
                os.kill(pid, signal.SIGKILL)
    log = (tmp_path / "log").read_text()
    assert re.search(r"Root Cause.*rank +: 1 .*exitcode +: -9", log, re.DOTALL), log[-2000:]


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid):
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


# The curves.


def test_the_curves_of_a_resumed_run_take_the_place_of_what_it_repeats(tmp_path):
    def log(name, lines):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(lines)

    log("20260101_000000", '{"loss": 3, "step": 1}\n{"loss": 2, "step": 2}\n{"loss": 9, "st')
    log("20260102_000000", '{"loss": 1, "step": 2}\n{"accuracy/top1": 50, "step": 1}\n')
    assert curves(tmp_path) == ({1: 3, 2: 1}, {1: 50})
