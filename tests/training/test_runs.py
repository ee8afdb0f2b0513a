"""Sec. 3.1: the schedule, the initialisation, and runs that nothing can spoil."""

import copy
import errno
import inspect
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import CheckpointLoader, Runner, ValLoop, checkpoint
from mmpretrain.models import ImageClassifier
from small_nets import torchvision_net
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.model_zoo import load_url

from tools.analysis.report import curves
from tools.dry_run import dry_run
from tools.evaluation import TrainingRunner
from tools.resume import latest
from vgg_mm import upstream
from vgg_mm.data import EpochSampler
from vgg_mm.errors import UserError
from vgg_mm.training import DDP, PlateauLR
from vgg_mm.training.checkpoints import AtomicBackend, _put_link
from vgg_mm.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]


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


def test_what_it_has_no_use_for_is_refused():
    with pytest.raises(UserError, match="PlateauLR has no cooldown, min_value: the rate falls"):
        plateau(cooldown=5, min_value=0.01, begin=0)
    plateau(begin=0, eps=0.0)  # what it does anyway


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
    sets = dict(
        train=cfg.train_dataloader.dataset, val=cfg.val_dataloader, test=cfg.test_dataloader
    )
    for name, holder in sets.items():
        split = "train" if name == "train" else "val"
        holder.dataset.update(type="vgg_mm.Folders", data_root=str(tree), split=split)
    cfg.param_scheduler = [dict(type="MultiStepLR", milestones=[56, 70])]
    cfg.merge_from_dict(
        {
            "model.backbone.width": 4,
            "optim_wrapper.optimizer.lr": 1e-2,
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


def test_a_run_goes_on_where_its_folder_was_moved_to(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path / "old", **{"train_cfg.max_epochs": 1})
    train(cfg)
    (tmp_path / "old").rename(tmp_path / "new")
    assert latest(tmp_path / "new") == tmp_path / "new/epoch_1.pth"
    cfg = narrow_like(cfg)
    cfg.work_dir, cfg.train_cfg.max_epochs = str(tmp_path / "new"), 2
    assert train(cfg, resume=latest(tmp_path / "new")).iter == 8
    assert latest(tmp_path / "new") == tmp_path / "new/epoch_2.pth"
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_finished_run_that_goes_on_elsewhere_has_its_best_there(
    whole, jpeg_tree, tmp_path, monkeypatch
):
    scores = iter([70.0, 60.0])
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, size: {"accuracy/top1": next(scores)})
    cfg = narrow(jpeg_tree, tmp_path / "a")
    train(cfg)
    resumed = tmp_path / "a/epoch_2.pth"
    if not whole:
        resumed = resumed.rename(tmp_path / "alone.pth")
    cfg = narrow_like(cfg)
    cfg.work_dir = str(tmp_path / "b")
    train(cfg, resume=resumed)
    assert latest(tmp_path / "b") == resumed
    saved = checkpoints(tmp_path / "b")
    assert saved["best.pth"]["meta"]["epoch"] == (1 if whole else 2)
    (log,) = (tmp_path / "b").glob("*/*.log")
    says = f"The best checkpoint, of epoch 1, is not beside {resumed}, which takes its place"
    assert (says in log.read_text()) != whole


def test_a_run_that_goes_on_from_an_older_checkpoint_has_the_best_of_then(
    jpeg_tree, tmp_path, monkeypatch
):
    scores = iter([60.0, 70.0, 50.0])
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, size: {"accuracy/top1": next(scores)})
    cfg = narrow(jpeg_tree, tmp_path)
    train(cfg)
    assert checkpoints(tmp_path)["best.pth"]["meta"]["epoch"] == 2
    train(narrow_like(cfg), resume=tmp_path / "epoch_1.pth")
    saved = checkpoints(tmp_path)
    assert saved["best.pth"]["meta"]["epoch"] == 1
    (before,) = (saved[name] for name in saved if name.startswith("best_before_"))
    assert before["meta"]["epoch"] == 2


def test_a_damaged_newest_that_is_the_best_too_does_not_keep_a_run_from_going_on(
    jpeg_tree, tmp_path, monkeypatch
):
    scores = iter([60.0, 70.0, 80.0])
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, size: {"accuracy/top1": next(scores)})
    cfg = narrow(jpeg_tree, tmp_path)
    train(cfg)
    (tmp_path / "epoch_2.pth").write_bytes(b"damaged")  # best.pth is its other name
    with pytest.raises(UserError, match="The one before it: --resume .*epoch_1.pth"):
        latest(tmp_path)
    train(narrow_like(cfg), resume=tmp_path / "epoch_1.pth")
    assert read_checkpoint(tmp_path / "best.pth")["meta"]["epoch"] == 2


def test_a_kill_between_the_best_and_the_newest_leaves_both(jpeg_tree, tmp_path, monkeypatch):
    def killed(path, text):
        if path.name == "last_checkpoint":
            raise KeyboardInterrupt

    monkeypatch.setattr("vgg_mm.training.checkpoints.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        train(narrow(jpeg_tree, tmp_path))
    assert checkpoints(tmp_path)["best.pth"]["meta"]["epoch"] == 1


def test_what_a_kill_left_of_a_checkpoint_goes(jpeg_tree, tmp_path):
    left = tmp_path / ".epoch_5.pth.1234.tmp"
    left.touch()
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1})
    train(cfg)
    assert not left.exists()
    left.touch()  # of a run that runs
    with pytest.raises(UserError, match="holds a run already"):
        train(narrow_like(cfg))
    assert left.exists()


def test_a_run_keeps_the_seed_that_it_began_with(jpeg_tree, tmp_path):
    options = {"default_hooks.checkpoint.iters": 2, "train_cfg.max_epochs": 1}
    cfg = narrow(jpeg_tree, tmp_path, **options)
    cfg.randomness = dict(seed=1)
    cfg.train_dataloader.sampler.seed = 5
    whole = train(cfg).model.state_dict()
    again = narrow_like(cfg)
    again.randomness = dict(seed=0)
    again.train_dataloader.sampler.seed = 4
    runner = train(again, resume=tmp_path / "iter_2.pth")
    assert (runner.train_dataloader.sampler.seed, runner.seed) == (5, 1)
    assert all(map(torch.equal, runner.model.state_dict().values(), whole.values()))


def test_a_run_leaves_a_config_that_begins_anew(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path)
    cfg.resume, cfg.load_from = True, "gone/iter_2.pth"
    runner = TrainingRunner.from_cfg(cfg)
    left = Config.fromfile(tmp_path / "demo.py")
    assert runner._resume and not left.resume and left.load_from is None


def test_averages_are_not_exchanged_where_a_validation_is_stopped(jpeg_tree, tmp_path, monkeypatch):
    saved = []
    for folder, stop in (("whole", 0), ("stopped", signal.SIGTERM)):
        cfg = narrow(jpeg_tree, tmp_path / folder, **{"train_cfg.max_epochs": 1})
        cfg.custom_hooks.append(dict(type="EMAHook", momentum=0.1))
        in_validation = lambda runner, stop=stop: (  # noqa: E731
            stop if runner.message_hub.get_info("awaits_validation", False) else 0
        )
        monkeypatch.setattr("vgg_mm.training.checkpoints._stop", in_validation)
        with pytest.raises(SystemExit) if stop else nullcontext():
            train(cfg)
        saved += [read_checkpoint(latest(tmp_path / folder))]
    whole, stopped = saved
    for key in ("state_dict", "ema_state_dict"):
        assert all(map(torch.equal, stopped[key].values(), whole[key].values()))
    own, average = (whole[k] for k in ("ema_state_dict", "state_dict"))
    assert not own["module.head.fc8.weight"].equal(average["head.fc8.weight"])


def test_without_a_validation_the_newest_is_tested(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    dry_run(copy.deepcopy(cfg), None)
    train(narrow_like(cfg))
    assert latest(tmp_path).name == "epoch_2.pth" and not (tmp_path / "best.pth").exists()


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
        assert min(h, w) == 32 < max(h, w)
        (sample,) = runner.model.val_step(batch)
        right.append(bool(sample.pred_label == sample.gt_label))
    accuracy = runner.message_hub.get_info("best_score")
    assert accuracy == pytest.approx(100 * np.mean(right))


# Numbers that are none.


def checkpoints(folder):
    return {path.name: read_checkpoint(path) for path in folder.glob("*.pth")}


def all_finite(value):
    if torch.is_tensor(value):
        return not value.is_floating_point() or bool(value.isfinite().all())
    values = value.values() if isinstance(value, dict) else value
    return not isinstance(value, dict | list | tuple) or all(map(all_finite, values))


def spoils(cfg, step, spoil):
    """A run of ``cfg`` in which ``spoil(runner)`` happens after a step."""

    class Spoil(Hook):
        priority = "VERY_HIGH"

        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter + 1 == step:
                spoil(runner)

    runner = Runner.from_cfg(cfg)
    runner.register_hook(Spoil())
    return runner


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_loss_that_is_no_number_ends_the_run(value, jpeg_tree, tmp_path, monkeypatch):
    cfg = narrow(jpeg_tree, tmp_path, **{"default_hooks.checkpoint.iters": 3})
    parse = ImageClassifier.parse_losses
    taken = []

    def parsed(self, losses):
        taken.append(1)
        loss, logged = parse(self, losses)
        return (loss, logged) if len(taken) < 6 else (loss * value, {"loss": loss * value})

    monkeypatch.setattr(ImageClassifier, "parse_losses", parsed)
    says = rf"^the loss is {value} at step 6, in epoch 2, with the rate 0.01: the training ends"
    with pytest.raises(UserError, match=says) as ended:
        train(cfg)
    assert f"Its last whole checkpoint is {tmp_path}/epoch_1.pth" in str(ended.value)
    assert len(taken) == 6
    saved = checkpoints(tmp_path)
    assert saved.keys() == {"iter_3.pth", "epoch_1.pth", "best.pth"}
    assert all(all_finite(each["state_dict"]) for each in saved.values())


SPOILT = {
    "backbone.conv1_1.weight": lambda r: r.model.backbone.conv1_1.weight.data[0].fill_(torch.inf),
    "backbone.bn2_1.running_var": lambda r: r.model.backbone.bn2_1.running_var[0].fill_(torch.nan),
    "head.fc7.bias's momentum_buffer": lambda r: r.optim_wrapper.optimizer.state[
        r.model.head.fc7.bias
    ]["momentum_buffer"][0].fill_(torch.nan),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("step", [3, 4])
def test_a_state_with_what_is_no_number_is_not_saved(name, step, jpeg_tree, tmp_path, monkeypatch):
    """Though its loss was one: in mid-epoch, or before the epoch's validation."""
    monkeypatch.setattr(ValLoop, "run", lambda loop: pytest.fail("validated"))
    options = {"model.backbone.norm_cfg": dict(type="BN"), "default_hooks.checkpoint.iters": 3}
    runner = spoils(narrow(jpeg_tree, tmp_path, **options), step, SPOILT[name])
    with pytest.raises(UserError, match=rf"^{name} holds values .* at step {step}, in epoch 1"):
        runner.train()
    assert checkpoints(tmp_path).keys() == ({"iter_3.pth"} if step == 4 else set())


def test_a_gradients_norm_that_is_no_number_ends_the_run(jpeg_tree, tmp_path, monkeypatch):
    cfg = narrow(jpeg_tree, tmp_path, **{"optim_wrapper.clip_grad": dict(max_norm=10)})
    norm = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *args, **kwargs: norm(*args, **kwargs) * torch.inf
    )
    with pytest.raises(
        UserError, match="the gradient's norm is inf at step 1.* Nothing was saved yet"
    ):
        train(cfg)


def test_of_equal_validations_the_first_is_the_best(jpeg_tree, tmp_path):
    options = {"optim_wrapper.optimizer.lr": 0.0, "train_cfg.max_epochs": 3}
    train(narrow(jpeg_tree, tmp_path, **options))
    saved = checkpoints(tmp_path)
    assert saved["best.pth"]["meta"]["epoch"] == 1
    assert saved["epoch_3.pth"]["message_hub"]["runtime_info"]["best_epoch"] == 1


def test_a_score_that_is_no_number_is_neither_best_nor_a_plateau(jpeg_tree, tmp_path, monkeypatch):
    scores = iter([50.0, float("nan")])
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda self, size: {"accuracy/top1": next(scores), "other": np.nan}
    )
    with pytest.raises(UserError, match=r"accuracy/top1 is nan at step 8, .* is .*epoch_1\.pth"):
        train(narrow(jpeg_tree, tmp_path))
    assert checkpoints(tmp_path).keys() == {"epoch_1.pth", "best.pth"}
    _, schedule = plateau()
    schedule.step({"accuracy/top1": 10.0})
    with pytest.raises(UserError, match="accuracy/top1 is nan"):
        schedule.step({"accuracy/top1": np.float32("nan")})
    assert schedule.num_bad_epochs == 0


@pytest.fixture
def amp(monkeypatch):
    """Lets mmengine's wrapper, which asks for a GPU, train on a CPU."""
    module = sys.modules[AmpOptimWrapper.__module__]
    monkeypatch.setattr(module, "is_cuda_available", lambda: True)
    monkeypatch.setattr(module, "GradScaler", partial(torch.amp.GradScaler, "cpu"))

    def mixed(cfg, **loss_scale):
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=loss_scale)
        cfg.optim_wrapper.optimizer.fused = False
        return cfg

    return mixed


def test_steps_that_a_loss_scale_skips_are_no_fault(amp, jpeg_tree, tmp_path, monkeypatch):
    cfg = narrow(jpeg_tree, tmp_path, **{"optim_wrapper.clip_grad": dict(max_norm=10)})
    parse = ImageClassifier.parse_losses

    def larger(self, losses):  # beyond float32, under the first scale
        loss, logged = parse(self, losses)
        return 100 * loss, logged

    monkeypatch.setattr(ImageClassifier, "parse_losses", larger)
    runner = train(amp(cfg, init_scale=2.0**127, backoff_factor=2.0**-30))
    assert runner.iter == 8
    assert 1 < runner.optim_wrapper.loss_scaler.get_scale() < 2**127
    assert all_finite(runner.model.state_dict())


def test_steps_that_a_loss_scale_skips_forever_end_the_run(amp, jpeg_tree, tmp_path):
    options = {"train_cfg.max_epochs": 9, "train_cfg.val_interval": 9}
    cfg = amp(narrow(jpeg_tree, tmp_path, **options), init_scale=2.0**126, backoff_factor=0.999)
    parse = "mmpretrain.models.ImageClassifier.parse_losses"
    spoilt = lambda self, losses: (losses["loss"] * torch.inf, losses)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, spoilt)
        with pytest.raises(UserError, match="^20 steps in a row were skipped.* at step 21, in ep"):
            train(cfg)
    cfg = amp(narrow(jpeg_tree, tmp_path / "b", **options), init_scale=2.0, backoff_factor=2**-1.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, spoilt)
        with pytest.raises(UserError, match="the loss scale is 0.707"):
            train(cfg)


def test_a_loss_that_is_no_number_to_one_process_ends_all_with_one_message(killed):
    says = "the loss is nan in process 1 at step 1, in epoch 1, with the rate 0.05"
    assert killed["no_number"].count(says) == 2


# What mmengine offers besides.


def test_an_epochs_last_batches_make_a_step_of_their_own(jpeg_tree, tmp_path):
    """Of 4 batches, 3 are averaged, then 1, as one batch of 6 and one of 2 would be."""
    options = {"model.head.dropout": 0.0, "train_cfg.max_epochs": 1}
    cfg = narrow(jpeg_tree, tmp_path / "a", **options)
    cfg.optim_wrapper.accumulative_counts = 3
    ours = train(cfg).model.state_dict()
    cfg = narrow(jpeg_tree, tmp_path / "b", **options, **{"train_dataloader.batch_size": 6})
    cfg.train_dataloader.drop_last = False
    batches = train(cfg).model.state_dict()
    start = narrow(jpeg_tree, tmp_path / "c", **options, **{"optim_wrapper.optimizer.lr": 0.0})
    start = train(start).model.state_dict()
    for name, value in ours.items():
        moved = (value - start[name]).abs().max()
        assert moved > 0 and (value - batches[name]).abs().max() <= 1e-3 * moved, name


def test_caffes_biases_learn_twice_as_fast_and_do_not_decay(jpeg_tree, tmp_path):
    options = {"optim_wrapper.paramwise_cfg": dict(bias_lr_mult=2, bias_decay_mult=0)}
    cfg = narrow(jpeg_tree, tmp_path, **options, **{"train_cfg.max_epochs": 3})
    cfg.param_scheduler = dict(type="vgg_mm.PlateauLR", patience=0, drops=1, threshold=1000)
    runner = train(cfg)  # one validation, one drop
    names = {param: name for name, param in runner.model.named_parameters()}
    for group in runner.optim_wrapper.optimizer.param_groups:
        (param,) = group["params"]
        bias = names[param].endswith("bias")
        assert group["lr"] == pytest.approx(2e-3 if bias else 1e-3)
        assert group["weight_decay"] == (0 if bias else 5e-4)
    assert runner.optim_wrapper.get_lr()["lr"][0] == pytest.approx(1e-3)  # what the log says


def test_save_best_auto_is_the_first_metric(jpeg_tree, tmp_path):
    options = {"train_cfg.max_epochs": 1, "default_hooks.checkpoint.save_best": "auto"}
    runner = train(narrow(jpeg_tree, tmp_path, **options))
    hub = runner.message_hub
    assert hub.get_info("best_score") == hub.get_scalar("val/accuracy/top1").current()


def test_a_compiled_net_trains_validates_and_saves_as_another(jpeg_tree, tmp_path):
    counters.clear()
    torch._dynamo.reset()
    options = {"model.head.dropout": 0.0, "train_cfg.max_epochs": 1}
    plain = train(narrow(jpeg_tree, tmp_path / "plain", **options))
    cfg = narrow(jpeg_tree, tmp_path / "compiled", **options)
    cfg.compile = dict(backend="aot_eager")  # inductor's takes a compiler and a minute
    compiled = train(cfg)
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"]
    a, b = (read_checkpoint(r.work_dir + "/epoch_1.pth")["state_dict"] for r in (plain, compiled))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)
    resumed = narrow_like(cfg)
    resumed.train_cfg.max_epochs = 2
    assert train(resumed, resume=latest(cfg.work_dir)).iter == 8


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
    mean, std = (127.0, 127.0, 127.0), (60.0, 60.0, 60.0)  # the demo's
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


def ends_as_the_whole_one(run):
    """The log after the kill."""
    assert run["killed"]
    before, hit, after = run["log"].partition("\nkilled ")
    assert hit, before[-2000:]
    assert "Goes on after step" in after, after[-2000:]
    assert run["differences"] == [], after[-2000:]
    return after


@pytest.mark.parametrize(
    "phase", ["in_mid_epoch", "while_a_checkpoint_is_written", "in_validation", "at_a_drop"]
)
def test_a_run_killed_and_resumed_ends_as_the_whole_one(killed, phase):
    ends_as_the_whole_one(killed[phase])


@pytest.mark.parametrize(
    "phase, says",
    [
        ("told_in_mid_epoch", "SIGTERM: saved after step 20 "),
        ("told_at_an_epochs_last_step", "SIGUSR1: saved after step 32 "),
        ("told_in_validation", "SIGTERM: saved after step 24 "),
        ("told_after_the_last_epoch", "SIGTERM: saved after step "),
        ("told_in_one_process_of_two", "SIGTERM: saved after step 20 "),
    ],
)
def test_a_run_told_to_stop_loses_no_step(killed, phase, says):
    after = ends_as_the_whole_one(killed[phase])
    assert says in after.partition("Goes on")[0], after[:2000]


@pytest.mark.parametrize("phase", ["in_mid_epoch", "told_in_mid_epoch", "told_in_validation"])
def test_a_checkpoint_loses_no_accumulated_gradient(killed, phase):
    """8 batches an epoch make steps of 3, 3 and 2."""
    after = ends_as_the_whole_one(killed[f"{phase}_accumulating"])
    if phase == "told_in_mid_epoch":
        assert "SIGTERM: saved after step 22 " in after


def test_the_whole_run_has_drops(killed):
    assert "Drop 1 of 3" in killed["whole"]


# Several processes.


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    runs = ["one", "two", "bf16", "split_2", "split_3", "split_2_then_1", "split_2_then_3"]
    return scripted("train_on_several.py", tmp_path_factory.mktemp("several"), *runs)


@pytest.mark.parametrize("run", ["two", "split_2", "split_3", "split_2_then_1", "split_2_then_3"])
def test_several_processes_take_the_steps_of_one(several, run):
    """With dropout, accumulated and clipped gradients, momentum, weight decay and an average."""
    one, other = several["one"]["losses"], several[run]["losses"]
    assert len(one) == 20 and len(other) == (11 if "then" in run else 20)
    assert np.mean(one[-5:]) < 0.9 * one[0]
    assert np.allclose(one[-len(other) :], other, atol=0, rtol=1e-12)
    assert several[run]["difference"] < 1e-11


def test_compressed_gradients_are_rounded_and_train_as_well(several):
    two, bf16 = several["two"]["losses"], several["bf16"]["losses"]
    assert two[0] == bf16[0]
    assert two[-1] != bf16[-1]
    assert bf16[-1] == pytest.approx(two[-1], rel=0.01)


def test_split_fc_layers(tmp_path):
    for rank, found in enumerate(scripted("split_in_processes.py", tmp_path)):
        assert found["norms"] == [True] * 4
        # Scale, whether the weights stayed: at an overflow in one process, and after it.
        assert found["overflow_in_one"] == [4, True, 4, False, True]
        assert found["frozen"] == [True] * 3
        assert max(found["compiled"]) < 1e-6
        assert found["autocast"] == [pytest.approx(1, rel=0.1)] and found["autocast"] != [1]
        held, *same = found["channels_last"]
        assert held == (4, 3)[rank] and same and all(same)
        expected = [
            "FC layers are none: leave it",
            "below fc6 are frozen",
            "mmengine's",
            "TrainLoop",
        ]
        assert len(found["refused"]) == len(expected)
        assert all(part in text for part, text in zip(expected, found["refused"], strict=True))


def test_when_a_process_is_killed_the_job_ends_and_names_it(tmp_path, few_scenes):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(few_scenes)
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


def test_a_run_stopped_twice_in_a_validation_keeps_what_it_saved(jpeg_tree, tmp_path, monkeypatch):
    def stop(runner):
        return signal.SIGTERM if runner.message_hub.get_info("awaits_validation", False) else 0

    monkeypatch.setattr("vgg_mm.training.checkpoints._stop", stop)
    cfg, resume = narrow(jpeg_tree, tmp_path, **{"default_hooks.checkpoint.keep": 1}), None
    for _ in range(3):
        with pytest.raises(SystemExit):
            train(cfg, resume)
        cfg, resume = narrow_like(cfg), latest(tmp_path)


def test_what_is_no_run_is_not_resumed_and_nothing_in_it_runs(jpeg_tree, tmp_path):
    cfg = narrow(jpeg_tree, tmp_path / "a", **{"train_cfg.max_epochs": 1})
    train(cfg)
    saved = torch.load(latest(tmp_path / "a"), weights_only=False)
    saved["meta"]["config"] = f"import os; os.mkdir({str(tmp_path / 'ran')!r})"
    torch.save(saved, tmp_path / "odd.pth")
    cfg = narrow_like(cfg)
    cfg.work_dir, cfg.train_cfg.max_epochs = str(tmp_path / "b"), 2
    assert train(cfg, resume=tmp_path / "odd.pth").epoch == 2
    assert not (tmp_path / "ran").exists()
    for weights in (saved["state_dict"], dict(state_dict=saved["state_dict"], meta=dict(arch="A"))):
        torch.save(weights, tmp_path / "weights.pth")
        with pytest.raises(UserError, match="weights.pth holds weights, no run to go on with"):
            train(narrow_like(cfg), resume=tmp_path / "weights.pth")


def test_mmengines_early_stopping_stops(jpeg_tree, tmp_path):
    early = dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=1, min_delta=200)
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 5})
    cfg.custom_hooks.append(early)
    assert train(cfg).epoch < 5


def test_a_full_disk_without_links_keeps_the_best(jpeg_tree, tmp_path, monkeypatch):
    cfg = narrow(jpeg_tree, tmp_path, **{"train_cfg.max_epochs": 1})
    train(cfg)
    before = (tmp_path / "best.pth").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="best.pth could not be written"):
        _put_link(tmp_path / "epoch_1.pth", tmp_path / "best.pth")
    assert (tmp_path / "best.pth").read_bytes() == before
    assert not [*tmp_path.glob(".*.tmp")]
    monkeypatch.undo()
    with monkeypatch.context() as patch:  # a link that is made, and then refused its name
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="best.pth could not be written"):
            _put_link(tmp_path / "epoch_1.pth", tmp_path / "best.pth")
    assert (tmp_path / "epoch_1.pth").read_bytes() == before
    monkeypatch.setattr(os, "link", full)
    _put_link(tmp_path / "epoch_1.pth", tmp_path / "best.pth")
    assert (tmp_path / "best.pth").read_bytes() == (tmp_path / "epoch_1.pth").read_bytes()


def test_a_dry_run_wants_our_loop_and_hook(jpeg_tree, tmp_path):
    for option in (
        {"train_cfg.type": "EpochBasedTrainLoop"},
        {"default_hooks.checkpoint": dict(_delete_=True, type="CheckpointHook", interval=1)},
    ):
        cfg = narrow(jpeg_tree, tmp_path, **option)
        with pytest.raises(UserError, match="--dry-run wants train_cfg.type='vgg_mm.TrainLoop'"):
            dry_run(cfg, None)
