"""Kills a small net's training at random instants, resumes it, and compares with the whole run.

python tools/analysis/stress_resume.py
python tools/analysis/stress_resume.py --kills 20 --workers 0 1 3 --processes 1 2

Each run of several epochs, with drops of the rate, is killed once (SIGKILL, with its workers), goes
on from its last checkpoint and must end as the run that nobody disturbed: with the same weights,
optimiser, schedule and logged metrics, to the last bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from vgg_mm.errors import run

DEMO = Path(__file__).parents[2] / "configs/demo.py"
TIMES = ("time", "data_time", "images/s", "waiting", "eta", "memory")


def images(root: Path) -> Path:
    """Draws 64 scenes to train on and 16 for validation."""
    from vgg_mm.data.scenes import Settings, draw_scenes

    return draw_scenes(root, Settings(images=(64, 16, 0), classes=4))


def config(work_dir: Path, data: Path, workers: int, processes: int):
    """A narrow net A, 6 epochs of 8 steps, a checkpoint every 3 steps, a drop at every setback."""
    from mmengine.config import Config

    cfg = Config.fromfile(DEMO)
    cfg.merge_from_dict(
        {
            "model.backbone.width": 4,
            "model.head.in_channels": 32,
            "model.head.channels": 16,
            "model.head.num_classes": 4,
            "optim_wrapper.optimizer.lr": 0.05,
            "train_dataloader.batch_size": 8 // processes,
            "train_dataloader.num_workers": workers,
            "train_dataloader.persistent_workers": workers > 0,
            "train_dataloader.dataset.dataset.data_root": str(data),
            "val_dataloader.dataset.data_root": str(data),
            "test_dataloader.dataset.data_root": str(data),
            "train_cfg.max_epochs": 6,
            "train_cfg.val_interval": 1,
            "default_hooks.checkpoint.interval": 1,
            "default_hooks.checkpoint.iters": 3,
            "default_hooks.logger.interval": 1,
            "launcher": "pytorch" if processes > 1 else "none",
            "work_dir": str(work_dir),
        }
    )
    cfg.param_scheduler = dict(type="vgg_mm.PlateauLR", patience=0, drops=3)
    return cfg


def train(cfg, prepare: Callable[[], None] = lambda: None) -> None:
    """Trains in this process, from the work dir's last checkpoint if it has one."""
    import torch
    from mmengine.runner import Runner

    from tools.processes import start_processes
    from tools.resume import latest

    torch.set_num_threads(1)
    prepare()
    if Path(cfg.work_dir, "last_checkpoint").exists():
        cfg.resume, cfg.load_from = True, str(latest(cfg.work_dir))
    start_processes(cfg)
    Runner.from_cfg(cfg).train()


def start(cfg, processes: int = 1, prepare: Callable[[], None] = lambda: None) -> list[int]:
    """Forks the processes of a run, each the leader of a group of its own; returns their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            code = 1
            try:
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
                log = Path(f"{cfg.work_dir}.log")
                with open(log, "a") as out, redirect_stdout(out), redirect_stderr(out):
                    train(cfg, prepare)
                code = 0
            except SystemExit as ended:
                code = ended.code
            except Exception:
                with open(f"{cfg.work_dir}.log", "a") as out:
                    traceback.print_exc(file=out)
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def finish(pids: list[int]) -> bool:
    """Waits for a run's processes; returns whether all succeeded."""
    return all([os.waitpid(pid, 0)[1] == 0 for pid in pids])


def kill(pids: list[int]) -> None:
    """Kills a run's processes and their workers."""
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # not the leader of its group yet, or gone
            os.kill(pid, signal.SIGKILL)


def outcome(work_dir: Path) -> dict:
    """All that a run leaves behind but times: a flat dict of tensors and plain values."""
    from tools.resume import latest
    from vgg_mm.weights.checkpoint import read_checkpoint

    saved = read_checkpoint(latest(work_dir))
    hub = saved["message_hub"]
    ours = {key: saved[key] for key in ("state_dict", "optimizer", "param_schedulers")}
    ours["counters"] = {key: saved["meta"][key] for key in ("epoch", "iter")}
    ours["best"] = {key: hub["runtime_info"][key] for key in ("best_score", "best_epoch")}
    ours["best_weights"] = read_checkpoint(work_dir / "best.pth")["state_dict"]
    ours["history"] = {
        key: value for key, value in hub["log_scalars"].items() if not key.endswith(TIMES)
    }
    logged: dict = {}
    for log in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for text in log.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # killed while it wrote
                continue
            for key in line.keys() - {*TIMES, "step"}:
                logged[f"{key} at {line['step']}"] = line[key]
    ours["logged"] = logged
    return dict(_flat("", ours))


def _flat(prefix: str, value: object):
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for key, item in items:
        yield from _flat(f"{prefix}/{key}", item)


def differences(one: Path, other: Path) -> list[str]:
    """The names of what two runs left behind that is not equal to the last bit."""
    import torch

    a, b = outcome(one), outcome(other)
    return [
        key
        for key in sorted(a.keys() | b.keys())
        if not (
            key in a
            and key in b
            and (torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key])
        )
    ]


def stress(folder: Path, data: Path, workers: int, processes: int, kills: int) -> int:
    """Returns how many of the killed and resumed runs ended as the whole one."""
    whole = folder / f"whole_{workers}_{processes}"
    began = time.monotonic()
    if not finish(start(config(whole, data, workers, processes), processes)):
        raise RuntimeError(f"the undisturbed run failed: see {whole}.log")
    seconds = time.monotonic() - began
    same = 0
    for i in range(kills):
        work_dir = folder / f"killed_{workers}_{processes}_{i}"
        while True:
            pids = start(config(work_dir, data, workers, processes), processes)
            time.sleep(random.uniform(0.1, 1) * seconds)
            running = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            kill(running)
            for pid in running:
                os.waitpid(pid, 0)
            if running:
                break
            shutil.rmtree(work_dir)  # it was faster than the instant: another one
        finished = finish(start(config(work_dir, data, workers, processes), processes))
        wrong = differences(whole, work_dir) if finished else [f"failed: see {work_dir}.log"]
        if wrong:
            print(f"  kill {i}: {len(wrong)} differ: {', '.join(wrong[:5])}", flush=True)
        else:
            same += 1
            shutil.rmtree(work_dir)
    return same


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    args = plain_parser(__doc__)
    args.add_argument("--kills", type=int, default=20, help="of each kind of run")
    args.add_argument("--workers", type=int, nargs="+", default=[0, 1, 3])
    args.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args.add_argument("--seed", type=int, default=0, help="of the instants")
    args = args.parse_args()
    random.seed(args.seed)
    # Imported once, here: every run is a fork.
    import matplotlib.backends.backend_agg  # noqa: F401
    import mmpretrain.models  # noqa: F401

    import tools.evaluation  # noqa: F401
    from tools.processes import prepare_process

    prepare_process()
    folder = Path(tempfile.mkdtemp(prefix="stress_resume_"))
    data = images(folder / "data")
    kinds = [(w, p) for p in args.processes for w in (args.workers if p == 1 else [0])]
    failed = False
    for workers, processes in kinds:
        same = stress(folder, data, workers, processes, args.kills)
        failed |= same < args.kills
        print(
            f"{workers} workers, {processes} processes: {same} of {args.kills} runs, killed and "
            "resumed, are the same as the whole run",
            flush=True,
        )
    if failed:
        sys.exit(f"the runs and their logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    run(main)
