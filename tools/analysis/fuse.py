"""Averages the posteriors of several models, or of one model's several evaluations (Sec. 4).

python tools/analysis/fuse.py scores/vgg16_d_jitter.npz scores/vgg19_e_jitter.npz
python tools/analysis/fuse.py dense.npz crops.npz --weights 2 1 --out scores/fused.npz

The files are what `tools/test.py --out` writes. Each is averaged over its own views and scales
first; then all count alike, or as --weights says.
"""

from dataclasses import replace
from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("scores", nargs="+", type=Path, help="two files of scores or more")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one for each file; default: equal"
    )
    parser.add_argument("--out", type=Path, help="where to write the fused posteriors")
    args = parser.parse_args()
    if len(args.scores) < 2:
        raise UserError(f"{args.scores[0]} alone is no fusion: give two files of scores or more.")

    import numpy as np

    from tools.analysis.fusion import fuse, normalised
    from vgg_mm.testing.scores import Scores

    def load():
        for path, weight in zip(args.scores, weights, strict=True):
            scores = Scores.load(path)
            show(f"{path}, weight {weight:.3g}", scores)
            yield path, scores

    def show(what, scores):
        errors = "top-1 error {top1:.1f}%, top-5 error {top5:.1f}%".format(**scores.metrics())
        print(f"{what}: {errors}", flush=True)

    weights = normalised(args.weights, len(args.scores))
    fused = fuse(load(), weights)
    show("fused", fused)
    if args.out:
        fused.posteriors = replace(fused.posteriors, dtype=np.float32)
        fused.save(args.out)


if __name__ == "__main__":
    run(main)
