"""What a protocol costs: seconds an image, on this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from tools.reproduce.plan import step_config
from tools.reproduce.results import EACH_Q, AnyRow, Results
from tools.reproduce.scales import Scale
from vgg_mm.errors import UserError
from vgg_mm.paper import config_name, scaled
from vgg_mm.testing.predict import Predictor
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
    times: dict[AnyRow, float] = {}
    for row in results.rows:
        if row in EACH_Q:
            continue
        total = 0.0
        for arch, S, Q in row.models:
            key = f"{config_name(arch, S)} {row.views} {','.join(map(str, Q))}"
            if key not in known:
                cfg = step_config(scale, run, (arch, S))
                cfg.tta_model.views = row.views
                cfg.tta_pipeline[1].scales = [scaled(side, scale.crop) for side in Q]
                best = run.work_dir(config_name(arch, S)) / "best.pth"
                try:
                    predictor = Predictor(cfg, best)
                except UserError:  # the weights are gone
                    break
                seconds = []
                for image in [images[0], *images]:
                    start = time.perf_counter()
                    predictor(image)
                    seconds.append(time.perf_counter() - start)
                known[key] = float(np.median(seconds[1:]))
            total += known[key]
        else:
            times[row] = total
    write_text(file, json.dumps(known, indent=1) + "\n")
    return times
