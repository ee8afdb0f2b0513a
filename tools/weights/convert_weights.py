"""Converts weights of a VGG from anywhere into a checkpoint of this project.

python tools/weights/convert_weights.py torchvision://vgg16 vgg16.pth --to-arch D
python tools/weights/convert_weights.py VGG_ILSVRC_16_layers.caffemodel vgg16.pth --to-arch D
python tools/weights/convert_weights.py net.onnx vgg11.pth --to-arch A --input torchvision

SRC is a PyTorch or .safetensors file of torchvision, timm or mmpretrain, a .caffemodel (or its
.h5), a Keras .h5 or .keras, or an .onnx. Prints where each layer came from, and what the config's
model must say.
"""

from collections.abc import Sequence
from pathlib import Path

from vgg_mm.errors import UserError, run
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.paper import TABLE_1


def parse_input(words: Sequence[str]) -> Input:
    """Reads a name in :data:`INPUTS`, or ``order top mean mean mean std std std``.

    Raises:
        UserError: If it is neither.
    """
    if len(words) == 1 and words[0] in INPUTS:
        return INPUTS[words[0]]
    try:
        top, *colours = map(float, words[1:])
        return Input(words[0], top, tuple(colours[:3]), tuple(colours[3:]))
    except ValueError:
        raise UserError(
            f"{' '.join(words)} is no input: give {', '.join(INPUTS)}, or eight values, such as "
            "BGR 255 103.939 116.779 123.68 1 1 1."
        ) from None


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a file, a URL, torchvision://vgg16, open-mmlab://vgg16_caffe, mmcls://vgg16 ...",
    )
    parser.add_argument("destination", metavar="DST", help="the checkpoint to write")
    parser.add_argument("--to-arch", required=True, choices=TABLE_1, help="the net of Table 1")
    parser.add_argument(
        "--features-only", action="store_true", help="the conv layers, without the classifier"
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="which of SRC's nets, if it holds several: what stands before its names (ema_model)",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        metavar="INPUT",
        help="what SRC was trained on, if not what its kind is: "
        f"{', '.join(INPUTS)}, or eight values: RGB or BGR, the value of white (1 or 255), and the "
        "mean and the deviation of each colour in this order and range",
    )
    args = parser.parse_args()

    from tools.weights.convert import convert, report
    from tools.weights.formats import save
    from vgg_mm.weights.files import ENDINGS

    if Path(args.destination).suffix in ENDINGS:
        raise UserError(f"{args.destination}: a checkpoint is a PyTorch file; call it .pth.")
    given = parse_input(args.input) if args.input else None
    checkpoint = convert(args.source, args.to_arch, args.features_only, given, args.prefix)
    save(checkpoint, args.destination)
    print(report(checkpoint))
    print(f"Wrote {args.destination}")


if __name__ == "__main__":
    run(main)
