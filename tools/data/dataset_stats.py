"""Measures a training set's colours: the mean to subtract, and PCA lighting's components.

python tools/data/dataset_stats.py data/imagenet/train
python tools/data/dataset_stats.py my_images/train --jobs 8 --limit 10000

Prints config lines: the first is for the model, the second for the training pipeline.
"""

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import add_jobs, count, plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("data", metavar="DATA", help="a folder; images count at any depth")
    add_jobs(parser)
    parser.add_argument(
        "--limit", type=count, metavar="N", help="take N images only, evenly spread over all"
    )
    args = parser.parse_args()
    try:
        from tools.data.stats import dataset_statistics
        from vgg_mm.data.files import find_images

        images = find_images(args.data)
        if args.limit and args.limit < len(images):
            images = [images[i * len(images) // args.limit] for i in range(args.limit)]
        statistics = dataset_statistics(images, args.jobs)
    except KeyboardInterrupt:
        raise UserError("stopped. --limit N measures fewer images.") from None
    print(f"# {statistics.images:,} images with {statistics.pixels:,} pixels", end="")
    print(f"; {len(statistics.corrupt):,} corrupt ones left out" if statistics.corrupt else "")
    print(statistics.config(), flush=True)
    if failures := statistics.corrupt:
        failed = f"{len(failures)} of {len(images)} images could not be read and are left out:"
        raise UserError("\n  ".join([failed, *failures]))


if __name__ == "__main__":
    run(main)
