"""Describes a config's net layer by layer; without a config, explains the paper's nets.

python tools/analysis/describe.py
python tools/analysis/describe.py configs/demo.py
python tools/analysis/describe.py configs/vgg16_d_jitter.py --size 384 512
"""

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import parser

    args = parser(__doc__, nargs="?", help="a config; default: the paper's six nets")
    args.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="the image's height and width, or one number for both; default: the training crop's",
    )
    args = args.parse_args()

    if len(args.size or ()) > 2:
        raise UserError(f"--size takes a height and a width, not {len(args.size)} numbers.")
    if args.config is None:
        from tools.analysis.lesson import lesson

        print(lesson())
        return

    from tools.arguments import load_config

    cfg = load_config(args)
    if "model" not in cfg:
        raise UserError(f"{args.config} has no model to describe.")

    from tools.analysis.layers import build, crop_side, describe, layer_table

    model = build(cfg.model)
    size = args.size or [crop_side(model)]
    table = layer_table(describe(model, size[0], size[-1]))
    print(f"{args.config}, an image of {size[0]}x{size[-1]}\n\n{table}")


if __name__ == "__main__":
    run(main)
