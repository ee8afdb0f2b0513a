"""Exports a trained net to torchvision, timm, mmpretrain, ONNX or torch.export.

python tools/weights/export.py configs/vgg16_d_256.py CHECKPOINT vgg16.onnx --to onnx
python tools/weights/export.py configs/vgg16_d_256.py CHECKPOINT vgg16.safetensors --to timm

An .onnx or a .pt2 takes any batch, height and width, and is loaded and compared with the net before
it is kept. The other formats get conv1_1 for their usual deviation; the mean is printed.
"""

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import parser

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument("destination", metavar="DST", help=".onnx, .pt2, .safetensors or .pth")
    formats = ["torchvision", "timm", "mmpretrain", "onnx", "pt2"]
    args.add_argument("--to", required=True, choices=formats)
    args.add_argument(
        "--features-only", action="store_true", help="the conv layers, without the classifier"
    )
    args = args.parse_args()

    from tools.arguments import load_config

    cfg = load_config(args)

    from tools.weights.formats import export

    if args.features_only:
        cfg.model.head = None
    given, checked = export(cfg, args.checkpoint, args.destination, args.to)
    values = ", ".join(f"({', '.join(f'{v:.6g}' for v in vs)})" for vs in (given.mean, given.std))
    print(f"Wrote {args.destination}: {checked}.")
    print(f"Its input is {given.order} from 0 to 255, minus a mean and divided by: {values}.")


if __name__ == "__main__":
    run(main)
