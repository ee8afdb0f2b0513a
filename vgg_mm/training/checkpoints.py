"""The run, saved whole at any instant, so that it goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import BaseLoop, Runner

from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.registry import HOOKS
from vgg_mm.training.distributed import together, unwrapped
from vgg_mm.training.faults import Faults, end_if, fault_of_state, measured
from vgg_mm.weights.checkpoint import check_fit, read_checkpoint
from vgg_mm.writing import replacing, write_text


class AtomicBackend(LocalBackend):
    """mmengine's storage on local disks, but a file is there whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes aside, flushes to the disk, renames."""
        with replacing(filepath) as file:
            file.write(obj)


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
            if isinstance(saved, dict):
                log, count = saved["log"].tolist(), saved["count"].tolist()
                scalars[name] = HistoryBuffer(log, count, saved["max_length"])


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
        """Logs what the run starts from, and refuses to write over another run."""
        self.saved_at = time.monotonic()
        hub, pointer = runner.message_hub, Path(runner.work_dir, "last_checkpoint")
        if runner._resume:
            if not hub.get_info("awaits_validation", False):
                self.saved = (runner.epoch, runner.iter)
            if is_main_process():  # an older one than the last takes its place
                resumed = os.path.abspath(runner._load_from)
                said = Path(pointer.read_text().strip()).name if pointer.exists() else ""
                newest, best = (Path(runner.work_dir, name) for name in (said, "best.pth"))
                if not (best.exists() and newest.is_file() and newest.samefile(resumed)):
                    self._bring_best(runner, Path(resumed))
                write_text(pointer, resumed)
            runner.logger.info(f"Goes on after step {runner.iter} of {runner._load_from}")
        else:
            if pointer.exists():
                raise UserError(
                    f"{runner.work_dir} holds a run already, up to {pointer.read_text().strip()}. "
                    "Go on with --resume, or choose another folder with --work-dir."
                )
            origin = hub.get_info("started_from", f"random weights, seed {runner.seed}")
            origin = f"the weights of {runner._load_from}" if runner._load_from else origin
            hub.update_info("started_from", origin)
        if is_main_process():  # a kill while one was written
            for left in Path(runner.work_dir).glob(".*.pth.*.tmp"):
                left.unlink(missing_ok=True)
        runner.logger.info(f"Started from {hub.get_info('started_from')}")

    def _bring_best(self, runner: Runner, resumed: Path) -> None:
        """Lets a run that goes on in another folder, or from an older checkpoint, have its best."""
        best = Path(runner.work_dir, "best.pth")
        epoch = runner.message_hub.get_info("best_epoch", 0)
        place, found = (epoch, epoch * len(runner.train_dataloader)), None
        names = ("best.pth", f"epoch_{epoch}.pth", resumed.name) if epoch else ()
        for path in filter(Path.exists, map(resumed.with_name, names)):
            try:
                meta = read_checkpoint(path).get("meta", {})
            except UserError:  # it may be another name of the newest, and that be damaged
                continue
            if (meta.get("epoch"), meta.get("iter")) == place:
                found = path
                break
        if best.exists():
            if found and found.samefile(best):
                return
            os.replace(best, aside := best.with_name(f"best_before_{runner.timestamp}.pth"))
            runner.logger.warning(f"{best} is of steps that this run leaves out: now {aside.name}.")
        if not epoch:
            return
        if not found:
            runner.logger.warning(
                f"The best checkpoint, of epoch {epoch}, is not beside {resumed}, which takes its "
                "place as best.pth until a validation is better."
            )
        _put_link(found or resumed, best)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Saves in the middle of an epoch when it is time to, or the run is told to stop."""
        steps = runner.iter + 1
        fault = self.faults.of_step(runner)
        late = self.minutes and time.monotonic() - self.saved_at >= 60 * self.minutes
        self.due |= bool(late or (self.iters and steps % self.iters == 0))
        faulty, due, stop = together(bool(fault), self.due, _stop(runner))
        if faulty:
            end_if(fault, runner, steps)
        if (due or stop) and runner.optim_wrapper.should_update():
            self.save(runner, steps)
            self._leave(runner, stop)

    def after_train_epoch(self, runner: Runner) -> None:
        """Ends the run before a validation of weights that are no numbers."""
        end_if(fault_of_state(runner), runner, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Counts the batches after which all processes can stop: some have one more."""
        self.batches = -together(-len(runner.val_dataloader))[0]
        self.validated = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Saves if the run is told to stop; it then begins this validation anew."""
        self.validated += 1
        if batch_idx < self.batches and (stop := together(_stop(runner))[0]):
            # EMAHook's evaluate_on_origin goes through all once more, by the net's own weights.
            averaged = self.validated <= len(runner.val_dataloader)
            for hook in runner.hooks if averaged else ():
                if isinstance(hook, EMAHook) and getattr(hook, "evaluate_on_ema", True):
                    hook._swap_ema_parameters()  # the net's own back in place of the averages
            self.save(runner)
            self._leave(runner, stop)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Notes whether this validation is the best; of equals it is the first."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        metrics, hub = metrics or {}, runner.message_hub
        if self.save_best == "auto":
            self.save_best = next(iter(metrics), "auto")
        score = measured(metrics, self.save_best, "default_hooks.checkpoint.save_best")
        wrong = "" if math.isfinite(score) else f"the validation's {self.save_best} is {score}"
        end_if(wrong, runner, runner.iter)
        if score > hub.get_info("best_score", -math.inf):
            self.is_best = True
            hub.update_info("best_score", score)
            hub.update_info("best_epoch", runner.epoch)

    def before_train_epoch(self, runner: Runner) -> None:
        """Saves the epoch before, with its validation."""
        whole = runner.iter == runner.epoch * len(runner.train_dataloader)
        if whole and runner.iter and (self.is_best or runner.epoch % self.interval == 0):
            self.save(runner, name=f"epoch_{runner.epoch}.pth")

    def after_train(self, runner: Runner) -> None:
        """Saves the last epoch."""
        self.save(runner, name=f"epoch_{runner.epoch}.pth")
        self._leave(runner, together(_stop(runner))[0])

    def save(self, runner: Runner, steps: int | None = None, name: str | None = None) -> None:
        """Saves where the run is, unless the newest checkpoint is from there.

        Args:
            runner: The run.
            steps: How many it has taken; by default what it has counted, between two steps.
            name: The file's name, by default ``iter_{steps}.pth``.
        """
        steps = runner.iter if steps is None else steps
        name = name or f"iter_{steps}.pth"
        if self.saved == (runner.epoch, steps):
            return
        end_if(fault_of_state(runner), runner, steps)
        hub, folder = runner.message_hub, Path(runner.work_dir)
        # Twice as many names as files: what a kill kept from being deleted is deleted next time.
        before = [each for each in hub.get_info("checkpoints", []) if each != name]
        names = [*before, name][-2 * self.keep :]
        hub.update_info("checkpoints", names)
        meta = {
            "epoch": runner.epoch,
            "iter": steps,
            "batches_per_epoch": len(runner.train_dataloader),
            "started_from": hub.get_info("started_from"),
            **Input.note(runner.model),
        }
        backend = {"backend": "vgg_mm_atomic"}
        try:
            shards = getattr(runner.model, "shards", None)
            with shards.whole_on_main() if shards else nullcontext():
                runner.save_checkpoint(str(folder), name, meta=meta, backend_args=backend)
            if is_main_process():
                if self.is_best:  # first, for what is killed here is done again
                    _put_link(folder / name, folder / "best.pth")
                write_text(folder / "last_checkpoint", str(folder / name))
        except UserError as error:
            raise UserError(f"{error} Make room, then --resume.") from None
        if is_main_process():
            for old in names[: -self.keep]:
                (folder / old).unlink(missing_ok=True)
        self.saved, self.saved_at = (runner.epoch, steps), time.monotonic()
        self.is_best = self.due = False

    def _leave(self, runner: Runner, stop: int) -> None:
        """Ends the run, which was just saved, if the signal ``stop`` is one."""
        if stop:
            barrier()  # the main process may still be writing
            steps = self.saved[1] if self.saved else 0
            runner.logger.info(
                f"{signal.Signals(stop).name}: saved after step {steps} in {runner.work_dir}; "
                "go on with --resume."
            )
            raise SystemExit(128 + stop)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores the log's history and compares the weights with the model's."""
        super().after_load_checkpoint(runner, checkpoint)
        training = isinstance(runner._train_loop, BaseLoop)
        name = str(runner._load_from or runner.message_hub.get_info("started_from"))
        weights, model = checkpoint.get("state_dict", checkpoint), unwrapped(runner.model)
        ours = model.state_dict()
        if not training or runner._resume:
            check_fit(model, weights, name)
        elif not any(k in weights and weights[k].shape == v.shape for k, v in ours.items()):
            raise UserError(f"{name}: nothing there fits the config's net.")
        if training and runner._resume:
            meta = checkpoint.get("meta") or {}
            if not ({"epoch", "iter"} <= meta.keys() and "message_hub" in checkpoint):
                raise UserError(f"{name} holds weights, no run to go on with: use --start-from.")
            meta.pop("config", None)  # a program, which mmengine would run
            if checkpoint.get("optimizer", {}).get("loss_scaler") == {}:  # bfloat16 has none
                del checkpoint["optimizer"]["loss_scaler"]
            batches = len(runner.train_dataloader)
            theirs = meta.get("batches_per_epoch", batches)
            if theirs != batches:
                raise UserError(
                    f"{name} counts {theirs} batches an epoch, this run {batches}: "
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
        os.replace(aside, target)
    except OSError:
        aside.unlink(missing_ok=True)  # perhaps the source's own file, which opening would empty
        with replacing(target) as file, open(source, "rb") as whole:
            shutil.copyfileobj(whole, file)
