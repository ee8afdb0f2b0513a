"""Names what is on an image, or on all images of a folder, by the config's test protocol.

python tools/analysis/predict.py configs/demo.py work_dirs/demo/epoch_10.pth photo.jpg
python tools/analysis/predict.py configs/demo.py work_dirs/demo/epoch_10.pth my_photos --out named

Draws each image with its most probable classes, as a PNG. A config that predicts boxes says where
the first one is, too: the box's corners in pixels, and its rating.
"""

import os
from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import parser

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument("images", type=Path, help="an image, or a folder; images count at any depth")
    args.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path("predictions"),
        help="where to draw; default: %(default)s",
    )
    args.add_argument(
        "--top", type=int, metavar="K", default=5, help="how many classes; default: %(default)s"
    )
    args = args.parse_args()
    if args.top < 1:
        raise UserError(f"--top {args.top}: show 1 class or more.")
    if not args.images.exists():
        raise UserError(f"no image or folder {args.images}.")

    from tools.arguments import load_config

    cfg = load_config(args)

    from mmengine.device import get_device

    from tools.analysis.drawing import draw
    from vgg_mm.api import load
    from vgg_mm.data.files import find_images
    from vgg_mm.data.images import CorruptImageError

    folder, images = args.images.parent, [args.images]
    if args.images.is_dir():
        folder, drawn = args.images, args.out.resolve()
        images = [*map(Path, find_images(folder))]
        if drawn not in folder.resolve().parents:
            images = [i for i in images if drawn not in Path(os.path.realpath(i)).parents]
        if not images:
            raise UserError(f"no image in {folder} but those in {args.out}, where to draw.")
    net = load(cfg, args.checkpoint, device=get_device())
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot draw in {args.out}: {error.strerror}.") from error
    failures = []
    for image in images:
        try:
            posterior, guesses = net.look(image)
            top = net.ranked(posterior, args.top)
            lines = [f"{value:8.2%}  {name}" for name, value in top]
            box = None
            if guesses:
                box = guesses[0].box
                corners = " ".join(f"{corner:.0f}" for corner in box)
                lines[0] += f"  at {corners}, rating {guesses[0].rating:.2f}"
            print(image, *lines, sep="\n", flush=True)
            out = args.out / f"{image.relative_to(folder)}.png"
            draw(image, top, out, net.classes, box)
        except CorruptImageError as error:
            failures.append(str(error))
    if len(failures) < len(images):
        print(f"Drawn in {args.out}")
    if failures:
        failed = f"{len(failures)} of {len(images)} images failed:"
        raise UserError("\n  ".join([failed, *failures]))


if __name__ == "__main__":
    run(main)
