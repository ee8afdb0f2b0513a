"""Trains with one process and with several that share the batch, plain and with split FC layers.

python tests/training/train_on_several.py FOLDER one split_2 split_3 split_4

Prints as JSON, of each run, the losses and by how much its last checkpoint differs from the first
run's: weights, their average and momentum, relative to the largest of each tensor. A run may go on
from the middle of another one, of another number of processes.

In float64: in float32 a rounding soon turns a ReLU or a pool, and where two runs part by more than
roundings depends on the CPU.
"""

import json
import runpy
import sys
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401  # once: every run is a fork
import mmpretrain.models  # noqa: F401
import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.runner import Runner
from PIL import Image

from tools.processes import prepare_process
from vgg_mm.training import TrainLoop
from vgg_mm.upstream import FORMATTER
from vgg_mm.weights.checkpoint import read_checkpoint

tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/analysis/stress_resume.py"))
prepare_process()
FORMATTER.FormatCode = lambda text, **_: (text, True)
torch.set_num_threads(1)
BATCH, EPOCHS, MIDDLE = 12, 4, 9
RUNS = {  # processes, the wrapper's options, the run to go on from
    "one": (1, {}, None),
    "two": (2, {}, None),
    "bf16": (2, dict(compress="bf16"), None),
    "split_2": (2, dict(shard_fc=True), None),
    "split_3": (3, dict(shard_fc=True), None),
    "split_2_then_1": (1, {}, "split_2"),
    "split_2_then_3": (3, dict(shard_fc=True), "split_2"),
    "split_4": (4, dict(shard_fc=True), None),
}


def draw(root):
    """64 blotchy images to train on and 16 for validation, of two colours."""
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for colour, name in enumerate(("red", "green")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = random.integers(0, 128, (6, 8, 3), np.uint8)
                coarse[..., colour] += 127
                image = Image.fromarray(coarse).resize((44, 36), Image.Resampling.BICUBIC)
                image.save(root / split / name / f"{i}.png")
    return root


def config(work_dir, data, processes, options):
    """20 batches in steps of 2, 2 and 1, with all that looks at weights and gradients."""
    cfg = tool["config"](work_dir, data, 0, processes)
    for holder in (cfg.train_dataloader.dataset, cfg.val_dataloader, cfg.test_dataloader):
        holder.dataset.update(type="vgg_mm.Folders", data_root=str(data))
    cfg.merge_from_dict(
        {
            "model.head.channels": 17,
            "model.head.num_classes": 2,
            "optim_wrapper.optimizer.lr": 1e-2,
            "optim_wrapper.accumulative_counts": 2,
            "optim_wrapper.clip_grad": dict(max_norm=1.0),
            "train_dataloader.batch_size": BATCH // processes,
            "train_cfg.max_epochs": EPOCHS,
            "default_hooks.checkpoint.iters": MIDDLE,
            "default_hooks.checkpoint.keep": 100,
        }
    )
    cfg.custom_hooks.append(dict(type="EMAHook", momentum=0.1, begin_iter=3))
    cfg.model_wrapper_cfg.update(options)
    cfg.param_scheduler = None
    return cfg


def record(file):
    """Makes the net float64, and the loop write down the whole batch's loss at every step."""

    def prepare():
        wrap, call_hook = Runner.wrap_model, TrainLoop.run_iter
        Runner.wrap_model = lambda self, cfg, model: wrap(self, cfg, model.double())

        def recording(loop, batch_idx, batch):
            losses = []
            step = loop.runner.model.train_step

            def train_step(*args, **kwargs):
                out = step(*args, **kwargs)
                losses.append(out["loss"].detach().clone())
                return out

            loop.runner.model.train_step = train_step
            call_hook(loop, batch_idx, batch)
            del loop.runner.model.train_step
            all_reduce(losses[0], "mean")
            if get_rank() == 0:
                with open(file, "a") as lines:
                    lines.write(f"{losses[0].item()!r}\n")

        TrainLoop.run_iter = recording

    return prepare


def tensors(saved):
    """A checkpoint's tensors by name."""
    found = {"weights": saved["state_dict"], "average": saved["ema_state_dict"]}
    momenta = saved["optimizer"]["state"]
    found["momentum"] = {str(key): momenta[key]["momentum_buffer"] for key in momenta}
    return {f"{kind} {key}": value for kind in found for key, value in found[kind].items()}


def difference(one, other):
    """The largest of all tensors, which must have the same names and shapes."""
    assert one.keys() == other.keys()
    assert all(one[key].shape == other[key].shape for key in one)
    return max(
        ((one[key] - other[key]).abs().max() / one[key].abs().max().clamp(min=1e-300)).item()
        for key in one
        if one[key].is_floating_point()
    )


def main(folder, names):
    """Prints the runs named, ``one`` first."""
    data, found = draw(folder / "data"), {}
    for name in names:
        processes, options, before = RUNS[name]
        cfg, losses = config(folder / name, data, processes, options), folder / f"{name}.txt"
        if before:
            (folder / name).mkdir()
            middle = (folder / before / f"iter_{MIDDLE}.pth").read_bytes()
            (folder / name / f"iter_{MIDDLE}.pth").write_bytes(middle)
            (folder / name / "last_checkpoint").write_text(
                str(folder / name / f"iter_{MIDDLE}.pth")
            )
        assert tool["finish"](tool["start"](cfg, processes, record(losses))), Path(
            f"{cfg.work_dir}.log"
        ).read_text()[-3000:]
        last = tensors(read_checkpoint(folder / name / f"epoch_{EPOCHS}.pth"))
        if name == "one":
            one = last
        found[name] = {
            "losses": [float(line) for line in losses.read_text().splitlines()],
            "difference": difference(one, last),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
