"""Draws what the net says at every position of an image: its dense class score map (Sec. 3.2).

python tools/analysis/score_map.py configs/demo.py work_dirs/demo/epoch_10.pth photo.jpg
python tools/analysis/score_map.py configs/vgg16_d_jitter.py best.pth photo.jpg --scales 256 384 512

Each row is one of the most probable classes, each column a test scale Q. The posterior (soft-max
over the classes at a position) is drawn where the net looked: in the middle of the window that fc6
saw, pixel 32 j + 16 k of the rescaled image for position j and a kernel of side k, and not
stretched to the image's edges, near which no window is centred. The larger Q, the finer the map. Of
a config that predicts boxes the map is its classifier's, and the boxes are drawn over it.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import parser

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument("image", type=Path, help="an image")
    args.add_argument(
        "--scales",
        nargs="+",
        type=int,
        metavar="Q",
        help="the image's shortest sides; default: the config's",
    )
    args.add_argument(
        "--top", type=int, metavar="K", default=3, help="how many classes; default: %(default)s"
    )
    args.add_argument(
        "--out", type=Path, default=Path("score_map.png"), help="the PNG; default: %(default)s"
    )
    args = args.parse_args()
    if not 1 <= args.top <= 20:
        raise UserError(f"--top {args.top}: show 1 to 20 classes.")
    if not args.image.is_file():
        raise UserError(f"no image {args.image}.")

    from tools.arguments import load_config

    cfg = load_config(args)

    from mmengine.device import get_device

    from tools.analysis.score_maps import draw_score_maps
    from vgg_mm.api import load

    net = load(cfg, args.checkpoint, device=get_device())
    top = draw_score_maps(net, args.image, args.top, args.out, args.scales)
    print(*(f"{value:8.2%}  {name}" for name, value in top), f"Drawn in {args.out}", sep="\n")


if __name__ == "__main__":
    run(main)
