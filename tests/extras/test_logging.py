"""Where a training's curves can go, as docs/training.md says; it is tested with what not all have.

pip install tensorboard mlflow-skinny && pytest tests/extras
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text()
LINES = dict(re.findall(r"^\| (\w[\w&]*) \| `(dict\(.*?\))` \|", PAGE, re.M))
CONFIG = """
_base_ = {demo!r}
model = dict(backbone=dict(width=4), head=dict(in_channels=32, channels=16))
train_cfg = dict(max_epochs=2)
train_dataloader = dict(batch_size=128)
default_hooks = dict(logger=dict(interval=2))
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), {line}])
"""


@pytest.fixture
def logged(tmp_path, few_scenes):
    """Trains with a line of the page; the folder, and the losses that the run itself keeps."""

    def call(name):
        shutil.copytree(few_scenes, tmp_path / "data/demo")
        demo = str(ROOT / "configs/demo.py")
        (tmp_path / "mine.py").write_text(CONFIG.format(demo=demo, line=LINES[name]))
        done = subprocess.run(
            [sys.executable, ROOT / "tools/train.py", "mine.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (kept,) = tmp_path.glob("work_dirs/mine/*/vis_data/scalars.json")
        return [float(loss) for loss in re.findall(r'"loss": ([\d.]+)', kept.read_text())]

    return call


def test_each_backend_is_mmengines():
    from mmengine.registry import VISBACKENDS

    assert LINES.keys() == {"TensorBoard", "MLflow", "W&B", "Aim"}
    for line in LINES.values():
        assert eval(line)["type"] in VISBACKENDS.module_dict


def test_tensorboard(logged, tmp_path):
    losses = logged("TensorBoard")
    found = tmp_path.glob("work_dirs/mine/*/vis_data/events.out.tfevents*")
    read = [EventAccumulator(str(events)).Reload() for events in found]
    (written,) = (events for events in read if "loss" in events.Tags()["scalars"])
    assert [event.value for event in written.Scalars("loss")] == pytest.approx(losses)
    assert len(written.Scalars("accuracy/top1")) == 2


def test_mlflow(logged, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    losses = logged("MLflow")
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (experiment,) = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id])  # the training's, and its test's
    (run,) = (run for run in runs if "loss" in run.data.metrics)
    written = client.get_metric_history(run.info.run_id, "loss")
    assert [each.value for each in written] == pytest.approx(losses)
    assert run.data.params["model.backbone.arch"] == "A"
