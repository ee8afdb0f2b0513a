"""Paints one image in the style of another, by the perceptual loss (Gatys et al., CVPR 2016).

python tools/analysis/style.py photo.jpg painting.jpg --out painted.png
python tools/analysis/style.py photo.jpg painting.jpg --arch D --weights vgg16.pth --side 256

From the content image on, Adam looks for the image whose maps of conv4_2 are the content's and
whose Gram matrices of conv1_1, conv2_1, ... conv5_1 are the style's. Without weights of ImageNet it
shows what the net has learnt: colours and edges, no brushwork.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count, plain_parser

    args = plain_parser(__doc__)
    args.add_argument("content", type=Path, help="an image")
    args.add_argument("style", type=Path, help="another, of any size")
    args.add_argument("--out", type=Path, default=Path("style.png"), help="default: %(default)s")
    args.add_argument("--arch", default="E", help="the net; default: %(default)s")
    args.add_argument("--weights", default="torchvision://vgg19", help="default: %(default)s")
    args.add_argument(
        "--input", metavar="NAME", help="theirs if they do not tell: torchvision, caffe or vgg_mm"
    )
    args.add_argument(
        "--side", type=count, default=384, help="both images' shortest side; default: %(default)s"
    )
    args.add_argument("--steps", type=count, default=300, help="default: %(default)s")
    args.add_argument(
        "--content-weight",
        type=float,
        default=1e-3,
        help="of the content, the style's being 1, as in the paper; default: %(default)s",
    )
    args = args.parse_args()
    if args.side < 16:
        raise UserError(f"--side {args.side}: a net sees nothing in less than 16 pixels.")
    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {args.out}: write a .png or a .jpg.")

    import cv2

    from tools.analysis.styling import paint
    from vgg_mm.writing import replacing

    image, worst = paint(
        args.content,
        args.style,
        args.arch,
        args.weights,
        args.side,
        args.steps,
        args.content_weight,
        args.input,
    )
    with replacing(args.out) as file:
        file.write(cv2.imencode(args.out.suffix, image)[1].tobytes())
    print(f"Painted {args.out}: {image.shape[1]}x{image.shape[0]} pixels; {worst}.")


if __name__ == "__main__":
    run(main)
