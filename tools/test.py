"""Tests a checkpoint by the protocol of the config's row in Table 3: dense, Q = S or its middle.

python tools/test.py configs/demo.py work_dirs/demo/epoch_10.pth

Prints the errors, and the paper's where a row of its tables has the protocol. A test that was
interrupted goes on where it was: type the same again. A config of boxes is tested as in appendix A
(docs/localisation.md): densely with the five best classes, or by --true-class.
"""

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import run_parser

    args = run_parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args.add_argument("--views", choices=["dense", "crops", "both"])
    args.add_argument("--scales", nargs="+", type=int, metavar="Q", help="the shortest sides")
    args.add_argument(
        "--out",
        help="where to write the posteriors; default WORK_DIR/scores.npz; of boxes the guesses, "
        "WORK_DIR/boxes.npz or true_class.npz",
    )
    args.add_argument("--half", action="store_true", help="write them as float16")
    boxes = args.add_argument_group("of a config that predicts boxes")
    boxes.add_argument(
        "--true-class",
        action="store_true",
        help="the box of the true class on the centre crop (test 1), beside two baselines",
    )
    boxes.add_argument(
        "--scores",
        metavar="FILE",
        help="the posteriors that tell an image's five best classes; test.py and fuse.py write "
        "them; default: the classifier's own",
    )
    boxes.add_argument(
        "--classifier",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="the net that rates windows by its score map",
    )
    boxes.add_argument(
        "--with",
        dest="others",
        nargs="+",
        action="append",
        metavar=("CONFIG CHECKPOINT", "Q"),
        help="a further net, whose boxes join, and its scales; default: its config's; may be "
        "repeated",
    )
    args = args.parse_args()

    from tools.arguments import load_config

    cfg = load_config(args)

    from mmengine.dist import is_main_process

    from tools.analysis.localisation import localise_and_tell
    from tools.analysis.paper_tables import beside_paper
    from tools.evaluation import evaluate
    from tools.processes import start_processes
    from vgg_mm.cli.configs import get_config
    from vgg_mm.testing.evaluation import finds_boxes, multi_scale

    def joined(config, checkpoint="", *scales):
        if not checkpoint or not all(Q.isdecimal() for Q in scales):
            raise UserError(
                f"--with {' '.join([config, checkpoint, *scales]).strip()}: give a config, its "
                "checkpoint and, if they are not the config's, its scales, each a number."
            )
        scales = [*map(int, scales)] or multi_scale(get_config(config)).scales
        return dict(config=config, checkpoint=checkpoint, scales=scales)

    transform = multi_scale(cfg)
    if args.scales:
        transform.scales = args.scales
    telling = args.scores or args.classifier or args.others
    if not finds_boxes(cfg):
        if telling or args.true_class:
            raise UserError(
                f"{args.config} names classes: --true-class, --scores, --classifier and --with are "
                "of configs whose tta_model is a vgg_mm.Localizer."
            )
        if args.views:
            cfg.tta_model.views = args.views
    elif args.views or args.half:
        raise UserError(f"{args.config} predicts boxes: --views and --half are of posteriors.")
    elif telling and args.true_class:
        raise UserError("--true-class needs no --scores, --classifier or --with: leave them out.")
    else:
        if args.scores:
            cfg.tta_model.scores = args.scores
        if args.classifier:
            config, checkpoint = args.classifier
            cfg.tta_model.classifier = dict(config=config, checkpoint=checkpoint)
        if args.others:
            cfg.tta_model.others = [joined(*each) for each in args.others]
    start_processes(cfg)
    if finds_boxes(cfg):
        out = args.out or f"{cfg.work_dir}/{'true_class' if args.true_class else 'boxes'}.npz"
        localise_and_tell(cfg, args.checkpoint, out, args.true_class)
        return
    out = args.out or f"{cfg.work_dir}/scores.npz"
    errors = evaluate(cfg, args.checkpoint, out, half=args.half)
    if is_main_process():
        print("top-1 error {error/top1:.1f}%, top-5 error {error/top5:.1f}%".format(**errors))
        if paper := beside_paper(out):
            print(paper)


if __name__ == "__main__":
    run(main)
