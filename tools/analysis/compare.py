"""Compares two tests of the same images: the difference of their errors and its 95% interval.

python tools/analysis/compare.py scr.npz --against pcr.npz
python tools/analysis/compare.py scr_0.npz scr_1.npz --against pcr_0.npz pcr_1.npz

The files are what `tools/test.py --out` and `tools/analysis/fuse.py` write: all of posteriors, or
all of guesses. Several files of a side are of trainings from several seeds. The interval is a
paired bootstrap's: it draws images, the same ones for both sides, and seeds where there are
several, wider the fewer they are.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("tested", nargs="+", type=Path, help="files of one way, one a seed")
    parser.add_argument(
        "--against", nargs="+", type=Path, required=True, metavar="FILE", help="those of the other"
    )
    parser.add_argument(
        "--blacklist", type=Path, metavar="FILE", help="ILSVRC's list of images that do not count"
    )
    args = parser.parse_args()
    sides = [args.tested, args.against]
    if len(args.tested) != len(args.against):
        raise UserError(
            f"{len(args.tested)} files against {len(args.against)}: give as many of each side, "
            "one a seed."
        )

    import numpy as np

    from tools.analysis.fusion import check_same_data
    from tools.analysis.stored_boxes import blacklisted, holds_guesses
    from tools.reproduce.bootstrap import LEVEL, bootstrap, interval
    from vgg_mm.testing.localisation import Guesses
    from vgg_mm.testing.scores import Scores

    kind = Guesses if holds_guesses(args.tested[0]) else Scores
    files = {file: kind.load(file) for side in sides for file in side}
    first = next(iter(files.items()))
    for other in files.items():
        check_same_data(*first, *other)
    tops = set.intersection(*(set(stored.metrics()) for stored in files.values()))
    names = first[1].names.tolist()
    kept = ~(blacklisted(names, args.blacklist) if args.blacklist else np.zeros(len(names), bool))
    for k in sorted(int(top.removeprefix("top")) for top in tops):
        wrong = np.array([[files[file].wrong(k)[kept] for file in side] for side in sides])
        one, other = 100 * wrong.mean((1, 2))
        draws = 100 * bootstrap(wrong)  # (D, 2)
        low, high = interval(draws[:, 0] - draws[:, 1])
        print(
            f"top-{k} error {one:.2f}% against {other:.2f}%: a difference of {one - other:+.2f} "
            f"points, {LEVEL}% interval {low:+.2f} to {high:+.2f} ({kept.sum()} images, "
            f"{wrong.shape[1]} seed(s))"
        )


if __name__ == "__main__":
    run(main)
