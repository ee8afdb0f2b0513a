"""Serves a page to drop images on: what a net says of them, and where it sees it.

python tools/app/app.py
python tools/app/app.py work_dirs/demo/best.pth
python tools/app/app.py D --weights torchvision://vgg16

The classes, densely and by crops side by side, at the test scales Q that are chosen; for a class
the score map over the image at each Q, and the box if the net predicts boxes. Without arguments it
is the package's own small net, which knows the demo's 64 things. The page asks nothing of the
network, and only this machine can open it unless --host says otherwise: 0.0.0.0 for all.
"""

import os

from vgg_mm.errors import UserError, library, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count, plain_parser

    args = plain_parser(__doc__)
    args.add_argument(
        "net",
        nargs="?",
        default="demo",
        help="what vgg_mm.load takes: a run's checkpoint, a folder, hf://ORG/NAME, and with "
        "--weights a config or a net of Table 1; default: %(default)s",
    )
    args.add_argument("--weights", metavar="FILE", help="the file or address of a net's weights")
    args.add_argument(
        "--input", metavar="NAME", help="theirs if they do not tell: torchvision, caffe or vgg_mm"
    )
    args.add_argument(
        "--scales",
        nargs="+",
        type=count,
        metavar="Q",
        help="the shortest sides to choose from; default: the net's own, and 1, 1.5 and 2 times it",
    )
    args.add_argument("--host", default="127.0.0.1", help="who may come; default: %(default)s")
    args.add_argument("--port", type=count, help="default: the first that is free from 7860 on")
    args = args.parse_args()

    trained = os.path.exists(args.net) and not args.net.endswith(".py")
    if not (args.weights or trained or args.net == "demo" or "://" in args.net):
        raise UserError(
            f"{args.net} is no checkpoint, folder or address; of a config or a net of Table 1 say "
            "its --weights."
        )
    library("gradio", "the page", "app")

    from mmengine.device import get_device

    from tools.app.page import make_page, serve
    from vgg_mm.api import load

    net = load(args.net, args.weights, input=args.input, device=get_device())
    page = make_page(net, args.weights or args.net, args.scales)
    try:
        serve(page, args.host, args.port)
    except OSError as error:
        raise UserError(f"no page at {args.host}, port {args.port or '7860 on'}: {error}") from None


if __name__ == "__main__":
    run(main)
