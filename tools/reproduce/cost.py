"""What a protocol costs: seconds an image, on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from mmengine.device import get_device

from tools.reproduce.plan import step_config
from tools.reproduce.results import EACH_Q, AnyRow, Results
from tools.reproduce.scales import Scale
from vgg_mm.api import load
from vgg_mm.errors import UserError
from vgg_mm.paper import Side, config_name, scaled
from vgg_mm.writing import write_text


def time_rows(scale: Scale, results: Results, file: Path) -> dict[AnyRow, float]:
    """Seconds an image of every row of Tables 3-6, measured once and kept in ``file``.

    A fused row takes its models' times together.

    Args:
        scale: The sizes.
        results: Whose rows to time, with the first run's checkpoints.
        file: Where to keep the times.
    """
    run, stored = next(iter(results.stored.items()))
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    scores = next(iter(stored.files.values()))
    images = [os.path.join(scores.root, name) for name in scores.names[:6].tolist()]

    def seconds(arch: str, S: Side, scales: Sequence[int], views: str) -> float:
        key = f"{config_name(arch, S)} {views} {','.join(map(str, scales))}"
        if key not in known:
            cfg = step_config(scale, run, (arch, S))
            cfg.tta_model.views = views
            cfg.tta_pipeline[1].scales = [scaled(Q, scale.crop) for Q in scales]
            net = load(cfg, run.work_dir(config_name(arch, S)) / "best.pth", device=get_device())
            net.predict(images[0])  # not counted
            ends = [time.perf_counter()]
            for image in images:
                net.predict(image)
                ends.append(time.perf_counter())
            known[key] = float(np.median(np.diff(ends)))
        return known[key]

    times = {}
    for row in results.rows:
        if row not in EACH_Q:
            with suppress(UserError):  # the weights are gone
                times[row] = sum(seconds(*model, row.views) for model in row.models)
    write_text(file, json.dumps(known, indent=1) + "\n")
    return times
