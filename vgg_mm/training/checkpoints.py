"""Checkpoints: whole at any instant, safe to load, and only for the net that they came from."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, barrier, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.registry import HOOKS
from vgg_mm.training.distributed import together
from vgg_mm.training.faults import Faults, fault_of_state
from vgg_mm.writing import replacing


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Loads a checkpoint's tensors and plain values to the CPU; nothing in it can run.

    Raises:
        UserError: If it is missing, damaged, would unfold to more than its size, or holds more than
            that, the log of mmengine 0.10 and plain containers; what else it holds is named.
    """
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint {path}.")
    why = "it is compressed, or unfolds to more than its size"
    try:
        if not (zipfile.is_zipfile(path) and _unfolds(path)):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(saved, dict):
                return saved
            why = f"it is a {type(saved).__name__}, no dict of tensors by name"
    except Exception as error:  # a damaged pickle raises nearly any
        unsafe = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
        why = (
            f"it holds {unsafe[1]}, which is more than tensors and plain values; save the net's "
            "state_dict() alone"
            if unsafe
            else "it is damaged, no file of torch.save, or of a pickle_protocol above 2"
        )
    raise UserError(f"{path} is not a checkpoint that loads safely: {why}.")


def _unfolds(path: str | os.PathLike) -> bool:
    """Whether a zip's entries are compressed, or more than the file: several of the same bytes."""
    with zipfile.ZipFile(path) as packed:
        entries = packed.infolist()
    size = sum(entry.file_size for entry in entries)
    return any(entry.compress_type for entry in entries) or size > os.path.getsize(path)


def latest(work_dir: str | os.PathLike) -> Path:
    """The newest checkpoint of the run in ``work_dir``, which is read to see that it is whole.

    Raises:
        UserError: If there is none, or it is damaged; the one before it is then named.
    """
    work_dir = Path(work_dir)
    try:
        newest = work_dir / (work_dir / "last_checkpoint").read_text().strip()
    except FileNotFoundError:
        raise UserError(f"no run to resume in {work_dir}: it has no last_checkpoint.") from None
    try:
        read_checkpoint(newest)
    except UserError as error:
        others = sorted(work_dir.glob("[ei]*_*.pth"), key=os.path.getmtime)
        others = [path for path in others if path != newest]
        hint = f" The one before it: --resume {others[-1]}" if others else ""
        raise UserError(f"{error}{hint}") from None
    return newest


class AtomicBackend(LocalBackend):
    """mmengine's storage on local disks, but a file is there whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes aside, flushes to the disk, renames.

        Raises:
            UserError: If the disk is full or refuses; what was there is as it was.
        """
        try:
            with replacing(filepath) as file:
                file.write(obj)
        except UserError as error:
            raise UserError(f"{error} Make room, then --resume.") from None

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Writes text as :meth:`put` writes bytes."""
        self.put(obj.encode(encoding), filepath)


register_backend("vgg_mm_atomic", AtomicBackend, force=True)


def _plain(value: object) -> object:
    """``value`` made of tensors and builtins alone."""
    if isinstance(value, HistoryBuffer):
        log, count = map(torch.as_tensor, value.data)
        return {"log": log, "count": count, "max_length": value.max_length}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _history(saved: dict) -> HistoryBuffer:
    return HistoryBuffer(saved["log"].tolist(), saved["count"].tolist(), saved["max_length"])


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Makes any hook's checkpoints hold tensors and builtins alone, for configs of other toolboxes.

    Torch loads such a file with ``weights_only=True``; mmengine's own hold objects, which torch >=
    2.6 refuses unless told otherwise (mmengine#1655), as their inferencers find.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turns everything but weights and optimiser state into tensors and builtins."""
        for key in checkpoint.keys() - {"state_dict", "optimizer"}:
            checkpoint[key] = _plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores the log's history."""
        scalars = checkpoint.get("message_hub", {}).get("log_scalars", {})
        for name, saved in scalars.items():
            scalars[name] = _history(saved) if isinstance(saved, dict) else saved


@HOOKS.register_module()
class CheckpointHook(PlainCheckpointHook):
    """Saves the run so that it can go on as if nothing had happened, and checks what is loaded.

    ``epoch_N.pth`` is saved when epoch N's validation is over and the schedule has heard of it,
    ``iter_N.pth`` in the middle of an epoch. ``last_checkpoint`` names the newest, ``best.pth`` is
    the one with the best validation. All are written aside and renamed.

    The first loss or gradient norm that is no number ends the run, as do such weights before they
    are validated or saved (:mod:`vgg_mm.training.faults`). On a signal that the loop has noted
    (:class:`vgg_mm.TrainLoop`), the run is saved and ends with status 128 + the signal. Of several
    processes, all do so after the same step. Accumulated gradients are in no checkpoint, so that
    one is saved when they have made their step.

    A checkpoint of another net or class count is an error in testing and in resuming; a training
    starts from it by :class:`vgg_mm.StartFrom`.

    Args:
        interval: Epochs between two checkpoints.
        minutes: Minutes after which to save in the middle of an epoch; None: never.
        iters: Steps after which to save in the middle of an epoch; None: never.
        keep: How many of the newest to keep, besides the best.
        save_best: The validation metric of the best, the greater the better; ``"auto"`` is the
            first that the validation gives.
    """

    def __init__(
        self,
        interval: int = 1,
        minutes: float | None = None,
        iters: int | None = None,
        keep: int = 3,
        save_best: str = "accuracy/top1",
    ) -> None:
        self.interval = interval
        self.minutes = minutes
        self.iters = iters
        self.keep = keep
        self.save_best = save_best
        self.saved: tuple[int, int] | None = None  # the epoch and step of the newest checkpoint
        self.is_best = False
        self.due = False
        self.faults = Faults()

    def before_train(self, runner: Runner) -> None:
        """Logs what the run starts from, and refuses to write over another run.

        Raises:
            UserError: If the work dir holds a run that this one does not resume.
        """
        self.saved_at = time.monotonic()
        if runner._resume:
            if not runner.message_hub.get_info("awaits_validation", False):
                self.saved = (runner.epoch, runner.iter)
            if is_main_process():  # an older one than the last takes its place
                self._point_to(runner, os.path.abspath(runner._load_from))
            runner.logger.info(f"Goes on after step {runner.iter} of {runner._load_from}")
        else:
            taken = Path(runner.work_dir, "last_checkpoint")
            if taken.exists():
                raise UserError(
                    f"{runner.work_dir} holds a run already, up to {taken.read_text().strip()}. "
                    "Go on with --resume, or choose another folder with --work-dir."
                )
            origin = f"the weights of {runner._load_from}" if runner._load_from else None
            if origin or "started_from" not in runner.message_hub.runtime_info:
                origin = origin or f"random weights, seed {runner.seed}"
                runner.message_hub.update_info("started_from", origin)
        runner.logger.info(f"Started from {runner.message_hub.get_info('started_from')}")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Saves in the middle of an epoch when it is time to, or the run is told to stop.

        Raises:
            UserError: If the loss is no number.
            SystemExit: If the run was told to stop.
        """
        steps = runner.iter + 1
        fault = self.faults.of_step(runner)
        late = self.minutes and time.monotonic() - self.saved_at >= 60 * self.minutes
        self.due |= bool(late or (self.iters and steps % self.iters == 0))
        faulty, due, stop = together(bool(fault), self.due, _stop(runner))
        if faulty:
            self._end(runner, fault, steps)
        if (due or stop) and runner.optim_wrapper.should_update():
            self._save(runner, f"iter_{steps}.pth", steps)
            if stop:
                self._leave(runner, stop)

    def after_train_epoch(self, runner: Runner) -> None:
        """Ends the run before a validation of weights that are no numbers."""
        self._check_state(runner, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Counts the batches after which all processes can stop: some have one more."""
        self.batches = -together(-len(runner.val_dataloader))[0]

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Saves if the run is told to stop; it then goes on with this validation, from its start.

        Raises:
            SystemExit: If the run was told to stop.
        """
        if batch_idx < self.batches and (stop := together(_stop(runner))[0]):
            self.save(runner)
            self._leave(runner, stop)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Notes whether this validation is the best; of equals it is the first.

        Raises:
            UserError: If the metric is missing or no number.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return
        metrics = metrics or {}
        if self.save_best == "auto":
            self.save_best = next(iter(metrics), "auto")
        if self.save_best not in metrics:
            raise UserError(
                f"CheckpointHook: the validation gives no '{self.save_best}', only "
                f"{', '.join(metrics)}: set default_hooks.checkpoint.save_best."
            )
        score = float(metrics[self.save_best])
        if not math.isfinite(score):
            self._end(runner, f"the validation's {self.save_best} is {score}", runner.iter)
        hub = runner.message_hub
        if score > hub.get_info("best_score", -math.inf):
            self.is_best = True
            hub.update_info("best_score", score)
            hub.update_info("best_epoch", runner.epoch)

    def before_train_epoch(self, runner: Runner) -> None:
        """Saves the epoch before, with its validation."""
        whole = runner.iter == runner.epoch * len(runner.train_dataloader)
        if whole and runner.iter and (self.is_best or runner.epoch % self.interval == 0):
            self._save_epoch(runner)

    def after_train(self, runner: Runner) -> None:
        """Saves the last epoch.

        Raises:
            SystemExit: If the run was told to stop.
        """
        self._save_epoch(runner)
        if stop := together(_stop(runner))[0]:
            self._leave(runner, stop)

    def save(self, runner: Runner) -> None:
        """Saves where the run is, between two steps."""
        self._save(runner, f"iter_{runner.iter}.pth", runner.iter)

    def _save_epoch(self, runner: Runner) -> None:
        if self.saved != (runner.epoch, runner.iter):
            self._save(runner, f"epoch_{runner.epoch}.pth", runner.iter)

    def _save(self, runner: Runner, name: str, steps: int) -> None:
        self._check_state(runner, steps)
        hub = runner.message_hub
        # Twice as many names as files: what a kill kept from being deleted is deleted next time.
        names = [*hub.get_info("checkpoints", []), name][-2 * self.keep :]
        hub.update_info("checkpoints", names)
        runner.save_checkpoint(
            runner.work_dir,
            name,
            meta={
                "epoch": runner.epoch,
                "iter": steps,
                "batches_per_epoch": len(runner.train_dataloader),
                "started_from": hub.get_info("started_from"),
                **Input.note(runner.model),
            },
            backend_args={"backend": "vgg_mm_atomic"},
        )
        if is_main_process():
            folder = Path(runner.work_dir)
            self._point_to(runner, str(folder / name))
            if self.is_best:
                _put_link(folder / name, folder / "best.pth")
            for old in names[: -self.keep]:
                (folder / old).unlink(missing_ok=True)
        self.saved, self.saved_at = (runner.epoch, steps), time.monotonic()
        self.is_best = self.due = False

    def _point_to(self, runner: Runner, checkpoint: str) -> None:
        AtomicBackend().put_text(checkpoint, Path(runner.work_dir, "last_checkpoint"))

    def _leave(self, runner: Runner, stop: int) -> None:
        barrier()  # the main process may still be writing
        runner.logger.info(
            f"{signal.Signals(stop).name}: saved after step {self.saved[1]} in {runner.work_dir}; "
            "go on with --resume."
        )
        raise SystemExit(128 + stop)

    def _check_state(self, runner: Runner, steps: int) -> None:
        fault = fault_of_state(runner)
        if together(bool(fault))[0]:
            self._end(runner, fault, steps)

    def _end(self, runner: Runner, fault: str, steps: int) -> None:
        found = [(i, text) for i, text in enumerate(all_gather_object(fault)) if text]
        where = f" in process {found[0][0]}" if len(found) < get_world_size() else ""
        last = Path(runner.work_dir, "last_checkpoint")
        if last.exists():
            begin = f"Its last whole checkpoint is {last.read_text().strip()}: go on (--resume)"
        else:
            begin = "Nothing was saved yet: begin anew"
        rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
        raise UserError(
            f"{found[0][1]}{where} at step {steps}, in epoch "
            f"{math.ceil(steps / len(runner.train_dataloader))}, with the rate {rate:g}: the "
            f"training ends. {begin} with --cfg-options optim_wrapper.clip_grad.max_norm=10, or "
            "begin at a lower rate (optim_wrapper.optimizer.lr)."
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores the log's history and compares the weights with the model's.

        Raises:
            UserError: If they differ, in testing or resuming; or if a run would go on with another
                number of batches an epoch.
        """
        super().after_load_checkpoint(runner, checkpoint)
        training = isinstance(runner._train_loop, BaseLoop)
        _compare(runner, checkpoint.get("state_dict", checkpoint), training and not runner._resume)
        if training and runner._resume:
            if checkpoint.get("optimizer", {}).get("loss_scaler") == {}:  # bfloat16 has none
                del checkpoint["optimizer"]["loss_scaler"]
            ours = len(runner.train_dataloader)
            theirs = checkpoint["meta"].get("batches_per_epoch", ours)
            if theirs != ours:
                raise UserError(
                    f"{runner._load_from} counts {theirs} batches an epoch, this run {ours}: "
                    "resume with the data and the batch size (over all processes) that it was "
                    "saved with, or begin a new run with --start-from."
                )


def _stop(runner: Runner) -> int:
    """The signal that told the run to stop, or 0."""
    return getattr(getattr(runner._train_loop, "stop", None), "number", 0)


def _put_link(source: Path, target: Path) -> None:
    """Makes ``target`` another name of ``source``'s file, or a copy where there are no links."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    os.replace(aside, target)


def _compare(runner: Runner, weights: dict[str, Tensor], starting: bool) -> None:
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    name = runner._load_from or "the checkpoint"
    if not starting:
        check_fit(model, weights, name)
    elif not any(weights.get(k, v[None]).shape == v.shape for k, v in model.state_dict().items()):
        raise UserError(f"{name} has nothing that fits the config's net.")


def check_fit(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Compares a checkpoint's weights with a model's.

    Args:
        model: The net, without wrappers.
        weights: The checkpoint's ``state_dict``.
        name: What to call the checkpoint.

    Raises:
        UserError: If one has layers that the other lacks, or in another shape.
    """
    if layers := "; ".join(_differences(model, weights)):
        raise UserError(
            f"{name} does not fit the config's net: {layers}. Use the config that it was trained "
            "with, or --start-from to train from it."
        )


def _differences(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """One line for every layer that the model and the checkpoint do not share."""
    ours = model.state_dict()
    lines: dict[str, str] = {}
    for name in [*ours, *(name for name in weights if name not in ours)]:
        layer = name.rpartition(".")[0]
        if name not in weights:
            lines.setdefault(layer, f"{layer} is not in the checkpoint")
        elif name not in ours:
            lines.setdefault(layer, f"{layer} is in the checkpoint only")
        elif weights[name].shape != ours[name].shape:
            theirs, mine = tuple(weights[name].shape), tuple(ours[name].shape)
            lines.setdefault(layer, f"{layer} is {theirs} in the checkpoint, {mine} in the net")
    return list(lines.values())
