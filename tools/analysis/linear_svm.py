"""Trains and tests a linear SVM on the features of tools/analysis/extract_features.py (appendix B).

python tools/analysis/linear_svm.py caltech.npz --per-class 30 50 --folds 3
python tools/analysis/linear_svm.py trainval.npz --test test.npz

C is chosen by cross-validation of the training part alone. A set of one label an image is measured
by the mean class accuracy (Caltech's), a multi-label one by the mean average precision (VOC's).
Several files of the same images, such as two nets', are stacked.
"""

from pathlib import Path

from vgg_mm.errors import UserError, library, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count, plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("features", nargs="+", type=Path, help="one file, or several nets'")
    parser.add_argument(
        "--test", nargs="+", type=Path, metavar="FEATURES", help="train on all, test on these"
    )
    parser.add_argument(
        "--per-class",
        nargs=2,
        type=int,
        metavar=("TRAIN", "TEST"),
        help="random splits: so many images of each class to train on, up to so many to test on",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="N",
        default=5,
        help="stratified folds, or how many random splits; default: %(default)s",
    )
    parser.add_argument(
        "--pixels", type=count, metavar="SIDE", help="compare with SIDE x SIDE raw pixels"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("svm.png"), help="the confusion; default: %(default)s"
    )
    args = parser.parse_args()
    if args.test and args.per_class:
        raise UserError("--test gives the split, --per-class draws one: leave one out.")
    if args.per_class and min(args.per_class) < 1:
        raise UserError("--per-class: use 1 image or more.")
    if args.folds < (1 if args.per_class else 2):
        raise UserError(f"--folds {args.folds}: use 2 or more (random splits: 1 or more).")
    if not args.jobs:
        raise UserError("--jobs 0: use 1 or more, or -1 for all cores.")
    library("sklearn", "a linear SVM", "svm")

    from joblib import parallel_config

    from tools.analysis import svm

    split = svm.per_class(*args.per_class, args.folds) if args.per_class else svm.folds(args.folds)

    def evaluate(parts):
        return svm.evaluate(*(svm.joined(*parts) if args.test else (*parts, split)))

    parts = [svm.load(files) for files in (args.features, args.test) if files]
    if args.per_class and parts[0].labels.ndim > 1:
        raise UserError(f"{args.features[0]} has several labels an image: use --test or --folds.")
    with parallel_config(n_jobs=args.jobs):
        result = evaluate(parts)
        print(svm.summary(result), flush=True)
        svm.draw(result, args.out)
        print(f"Drawn in {args.out}", flush=True)
        if args.pixels:
            raw = evaluate([svm.pixels(part, args.pixels) for part in parts])
            print(f"raw pixels, {args.pixels}x{args.pixels}: {svm.summary(raw)}")


if __name__ == "__main__":
    run(main)
