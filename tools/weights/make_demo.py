"""Makes the net that ships with the package, ``vgg_mm.load("demo")``, of a run of configs/demo.py.

python tools/train.py configs/demo.py
python tools/weights/make_demo.py work_dirs/demo/best.pth vgg_mm/demo/demo

Its weights are stored in 16 bits, those of fc6, three quarters of all, in 8: 2 MB. What is stored
is tested, densely at three scales, on scenes that the run has not seen; the model card tells.
"""

from vgg_mm.errors import run

SCALES = [32, 48, 64]  # at the paper's ratios of Q to the least


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count, plain_parser

    args = plain_parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint of configs/demo.py")
    args.add_argument("out", metavar="OUT", help="the folder to make")
    args.add_argument(
        "--images", type=count, metavar="N", default=3_200, help="to test on; %(default)s"
    )
    args = args.parse_args()

    from tempfile import TemporaryDirectory

    import torch

    from vgg_mm.api import evaluate, load
    from vgg_mm.cli.configs import get_config
    from vgg_mm.data.scenes import Settings, draw_scenes

    cfg = get_config("demo")
    cfg.merge_from_dict({"tta_pipeline.1.scales": SCALES})
    net = load(cfg, args.checkpoint)

    def store() -> None:
        net.to(torch.float16)
        net.model.head.fc6.to(torch.float8_e5m2)

    store()
    net.to(torch.float32)
    with TemporaryDirectory() as folder:
        root = draw_scenes(f"{folder}/scenes", Settings(images=(0, 0, args.images)))
        scores = evaluate(net, root / "test", batch_size=32)
    store()
    net.save(args.out, scores)
    print(f"{args.out}: {load(args.out).measured}")


if __name__ == "__main__":
    run(main)
