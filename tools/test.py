"""Tests a checkpoint by the protocol of the config's row in Table 3: dense, Q = S or its middle.

python tools/test.py configs/demo.py work_dirs/demo/epoch_10.pth

Prints the errors, and the paper's where a row of its tables has the protocol. A test that was
interrupted goes on where it was: type the same again.
"""

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import run_parser

    args = run_parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument("--views", choices=["dense", "crops", "both"])
    args.add_argument("--scales", nargs="+", type=int, metavar="Q", help="the shortest sides")
    args.add_argument("--out", help="where to write the posteriors; default WORK_DIR/scores.npz")
    args.add_argument("--half", action="store_true", help="write them as float16")
    args = args.parse_args()

    from mmengine.dist import is_main_process

    from tools.analysis.paper_tables import beside_paper
    from tools.arguments import load_config
    from tools.processes import start_processes
    from vgg_mm.testing.evaluate import evaluate, multi_scale

    cfg = load_config(args)
    transform = multi_scale(cfg)
    if args.views:
        cfg.tta_model.views = args.views
    if args.scales:
        transform.scales = args.scales
    start_processes(cfg)
    out = args.out or f"{cfg.work_dir}/scores.npz"
    errors = evaluate(cfg, args.checkpoint, out, half=args.half)
    if is_main_process():
        print("top-1 error {error/top1:.1f}%, top-5 error {error/top5:.1f}%".format(**errors))
        if paper := beside_paper(out):
            print(paper)


if __name__ == "__main__":
    run(main)
