"""Trains a config's net, then tests its best checkpoint by the config's protocol.

python tools/train.py configs/demo.py
tools/dist_train.sh configs/vgg16_d_jitter.py 4

On SIGTERM or SIGUSR1 it saves where it is and ends; --resume goes on from there.
"""

import os
from pathlib import Path

from vgg_mm.errors import UserError, library, run


def mixed_precision() -> dict:
    """What an ``optim_wrapper`` needs to train in 16 bits.

    bfloat16 where the GPU has it, for its numbers go as far as float32's: those of a real VGG-16
    reach a fifth of what float16 can hold before they are scaled, which it then must be.

    Raises:
        UserError: If there is no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError("--amp needs CUDA, and this machine has none; leave it out.")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=dict(enabled=False))
    return dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")


def main() -> None:
    """Runs the tool."""
    from tools.arguments import run_parser

    args = run_parser(__doc__)
    args.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without one, from the newest in the work dir, or begin "
        "where there is none yet",
    )
    start = args.add_mutually_exclusive_group()
    start.add_argument(
        "--start-from",
        metavar="FILE",
        help="start with these weights (whatever convert_weights.py reads, or 'demo', the package's"
        " own small net), at the config's start_from_lr; FC layers that do not fit, such as fc8 of"
        " another class count, start new",
    )
    start.add_argument(
        "--init-from-a",
        metavar="FILE",
        help="start with the layers that the paper takes from a trained net A, the others random",
    )
    args.add_argument(
        "--prefix",
        default="",
        help="with --start-from or --init-from-a a file that holds several nets: what stands before"
        " the names of the one to take, such as ema_model",
    )
    args.add_argument(
        "--amp",
        action="store_true",
        help="mixed precision (needs CUDA): bfloat16 where the GPU has it, else float16",
    )
    args.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch over all processes (256: as in the config)",
    )
    args.add_argument("--tensorboard", action="store_true", help="log for TensorBoard too")
    args.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, config, disk space and a few steps, say how long the run will take",
    )
    args = args.parse_args()

    from tools.arguments import check_file, load_config

    if args.resume not in (None, "latest"):
        if args.start_from or args.init_from_a:
            raise UserError(
                "a run goes on from --resume CHECKPOINT, or starts from --start-from or "
                "--init-from-a; --resume alone does the first where it can, else the second."
            )
        check_file(args.resume)
    elif not args.resume and (start := args.start_from or args.init_from_a) not in (None, "demo"):
        check_file(start, "file")
    cfg = load_config(args)

    from mmengine.dist import barrier, is_main_process

    from tools.analysis.localisation import localise_and_tell
    from tools.analysis.paper_tables import evaluation_name
    from tools.analysis.report import draw_report
    from tools.dry_run import dry_run
    from tools.evaluation import TrainingRunner, check_protocol, evaluate, names_classes
    from tools.processes import start_processes
    from tools.resume import latest
    from vgg_mm.testing.evaluation import finds_boxes
    from vgg_mm.weights.checkpoint import read_checkpoint

    if cfg.get("resume") and not (args.resume or args.start_from or args.init_from_a):
        args.resume = cfg.get("load_from") or "latest"
    cfg.resume = False
    hooks = cfg.setdefault("custom_hooks", [])
    begins = "the training begins"
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restart or args.resume == "latest":
        why = f"Restart {restart}" if restart else "--resume"
        if Path(cfg.work_dir, "last_checkpoint").exists():
            args.resume = str(latest(cfg.work_dir))
            begins = f"{why}: the training goes on from {args.resume}"
        else:
            args.resume = None if args.resume == "latest" else args.resume
            begins = f"{why}: nothing is saved in {cfg.work_dir} yet, so the training begins"
    elif args.resume:
        read_checkpoint(args.resume)
    if args.resume:
        cfg.resume, cfg.load_from = True, args.resume
    elif args.start_from:
        cfg.load_from = args.start_from
        if "start_from_lr" in cfg and "optim_wrapper.optimizer.lr" not in (args.cfg_options or {}):
            cfg.optim_wrapper.optimizer.lr = cfg.start_from_lr
    if (args.start_from or args.init_from_a) and not args.resume:  # in place of what a run left
        starts = ("vgg_mm.StartFrom", "vgg_mm.InitFromA")
        hooks[:] = [hook for hook in hooks if hook.get("type") not in starts]
    if args.init_from_a and not args.resume:
        cfg.load_from = None
        origin = dict(checkpoint=args.init_from_a, prefix=args.prefix)
        std = cfg.get("init_from_a_std", 0.01)
        hooks.append(dict(type="vgg_mm.InitFromA", std=std, **origin))
    elif cfg.get("load_from") and not args.resume:
        origin = dict(checkpoint=cfg.load_from, prefix=args.prefix)
        hooks.append(dict(type="vgg_mm.StartFrom", **origin))
        cfg.load_from = None
    if args.amp:
        cfg.optim_wrapper.update(mixed_precision())
    if args.tensorboard:
        library("tensorboard", "--tensorboard", "tensorboard")
        backends, board = cfg.visualizer.vis_backends, dict(type="TensorboardVisBackend")
        backends += [] if board in backends else [board]
    if args.auto_scale_lr and not cfg.auto_scale_lr.get("accumulated"):
        # mmengine multiplies the batch by the processes; a step may take several of them.
        cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get("accumulative_counts", 1)
        cfg.auto_scale_lr.update(enable=True, accumulated=True)
    start_processes(cfg)
    tested = cfg.get("tta_model") is not None
    if tested:
        check_protocol(cfg)
    if args.dry_run:
        dry_run(cfg, evaluate if tested else None)
        return
    runner = TrainingRunner.from_cfg(cfg)
    runner.logger.info(f"{begins}.")
    runner.train()
    barrier()  # the main process may still be writing the checkpoint

    work_dir = Path(runner.work_dir)
    best = work_dir / "best.pth"  # which a run without a validation lacks
    best = str(best if best.exists() else latest(work_dir))
    if not tested:
        if is_main_process():
            print(f"Best checkpoint: {best}, not tested, for the config has no tta_model")
        return
    if finds_boxes(cfg):
        left = work_dir / "true_class.npz"
        localise_and_tell(cfg, best, left, true_class=True)
        if names_classes(cfg):
            left = work_dir / "boxes.npz"
            localise_and_tell(cfg, best, left)
    else:
        left = work_dir / "scores.npz"
        metrics = evaluate(cfg, best, left)
        if is_main_process():
            how = evaluation_name([cfg.tta_model.get("views", "dense")])
            print(f"Top-1 accuracy, {how}: {100 - metrics['error/top1']:.1f}%")
    if is_main_process():
        draw_report(left, work_dir, work_dir / "report.png")
        print(f"Best checkpoint: {best}")
        print(f"Picture: {work_dir / 'report.png'}")


if __name__ == "__main__":
    run(main)
