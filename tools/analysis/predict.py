"""Names what is on a picture, or on all pictures of a folder, by the config's test protocol.

python tools/analysis/predict.py configs/demo.py work_dirs/demo/epoch_10.pth photo.jpg
python tools/analysis/predict.py configs/demo.py work_dirs/demo/epoch_10.pth my_photos --out named

Draws each picture with its most probable classes, as a PNG.
"""

import os
from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from vgg_mm.arguments import parser

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument(
        "pictures", type=Path, help="a picture, or a folder; pictures count at any depth"
    )
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
    if not args.pictures.exists():
        raise UserError(f"no picture or folder {args.pictures}.")

    from vgg_mm.data.files import find_images
    from vgg_mm.data.images import CorruptImageError
    from vgg_mm.launch import load_config
    from vgg_mm.testing.predict import Predictor, draw

    folder, pictures = args.pictures.parent, [args.pictures]
    if args.pictures.is_dir():
        folder, drawn = args.pictures, args.out.resolve()
        found = map(Path, find_images(folder))
        pictures = [
            picture for picture in found if drawn not in Path(os.path.realpath(picture)).parents
        ]
        if not pictures:
            raise UserError(f"no picture in {folder} but those in {args.out}, where to draw.")
    predictor = Predictor(load_config(args), args.checkpoint)
    failures = []
    for picture in pictures:
        try:
            top = predictor.top(picture, args.top)
            print(picture, *(f"{value:8.2%}  {name}" for name, value in top), sep="\n", flush=True)
            out = args.out / f"{picture.relative_to(folder)}.png"
            draw(picture, top, out, predictor.classes)
        except CorruptImageError as error:
            failures.append(str(error))
        except OSError as error:
            raise UserError(f"cannot draw in {args.out}: {error.strerror}.") from error
    if len(failures) < len(pictures):
        print(f"Drawn in {args.out}")
    if failures:
        failed = f"{len(failures)} of {len(pictures)} pictures failed:"
        raise UserError("\n  ".join([failed, *failures]))


if __name__ == "__main__":
    run(main)
