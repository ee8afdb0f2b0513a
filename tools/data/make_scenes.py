"""Draw a data set of scenes: images with a class, and exact boxes and masks.

python tools/data/make_scenes.py data/scenes
python tools/data/make_scenes.py data/coco --short 240 --classes 20 --coco --masks

A class is one of the cut-outs that ship with the package. A scene shows one to three of its class,
large or small, turned, lit, partly covered, on a gradient, on noise or on an enlarged other
cut-out, between smaller other ones; train, val and test have their own. It is a function of the
seed, the split and its number, whatever the number of scenes and processes.

The folder gets ILSVRC's layout: train/CLASS/*.JPEG and Annotations/train/CLASS/*.xml with a box for
each thing, and so for val and test. What is covered or outside of the image belongs neither to a
box nor to a mask.
"""

from __future__ import annotations

import os
from pathlib import Path

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import add_jobs, count, plain_parser

    parser = plain_parser(__doc__)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="the folder to make")
    add("--images", type=int, metavar="N", default=16_000, help="for training; %(default)s")
    add("--val-images", type=int, metavar="N", default=3_200, help="%(default)s")
    add("--test-images", type=int, metavar="N", default=0, help="%(default)s")
    add("--classes", type=count, metavar="K", default=64, help="at most 1,000; %(default)s")
    add("--seed", type=int, default=0, help="%(default)s")
    add(
        "--short",
        type=count,
        nargs="+",
        metavar="PIXELS",
        default=[80],
        help="the short side, or the ends of a range that scenes draw theirs from; 80",
    )
    add("--coco", action="store_true", help="write coco/instances_SPLIT.json too")
    add("--masks", action="store_true", help="write masks/SPLIT/CLASS/*.png too, 0 the background")
    add("--backgrounds", metavar="FOLDER", default="", help="photographs for the backgrounds")
    add_jobs(parser)
    args = parser.parse_args()

    from tools.data.scenes import AllSettings
    from vgg_mm.data.scenes import draw_scenes

    settings = AllSettings(
        images=(args.images, args.val_images, args.test_images),
        classes=args.classes,
        seed=args.seed,
        short=args.short[0] if len(args.short) == 1 else tuple(args.short),
        layouts=tuple(layout for layout in ("coco", "masks") if getattr(args, layout)),
        backgrounds=args.backgrounds and os.path.abspath(args.backgrounds),
    )
    root = draw_scenes(args.out, settings, args.jobs)
    print(f"{root}: {settings.classes} classes, {', '.join(map(str, settings.images))} images")


if __name__ == "__main__":
    run(main)
