"""Stored posteriors: what a test leaves behind, for reports, fusion and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric

from vgg_mm.registry import METRICS


@METRICS.register_module()
class SaveScores(BaseMetric):
    """Writes the posteriors of every image of the data set, in its order, as ``.npz``.

    The file holds ``posteriors`` (N, classes) float32, ``labels`` (N,) int64, ``names`` (N,), the
    images' paths, and ``classes``, their names.

    Args:
        file: The file to write.
    """

    default_prefix = "scores"

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's posteriors."""
        self.results += [
            (s["pred_score"].float().cpu().numpy(), int(s["gt_label"]), s["img_path"])
            for s in data_samples
        ]

    def compute_metrics(self, results: list[tuple]) -> dict:
        """Writes the file; runs on the main process, on all results."""
        posteriors, labels, names = zip(*results, strict=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            self.file,
            posteriors=np.stack(posteriors),
            labels=np.array(labels),
            names=np.array(names),
            classes=np.array(self.dataset_meta["classes"]),
        )
        return {}
