"""Trains a config's net, then tests its best checkpoint by the config's protocol.

python tools/train.py configs/demo.py
tools/dist_train.sh configs/vgg16_d_jitter.py 4
"""

from pathlib import Path

from vgg_mm.errors import UserError, library, run


def main() -> None:
    """Runs the tool."""
    from vgg_mm.launch import load_config, parser, start_processes, test

    args = parser(__doc__)
    start = args.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="CHECKPOINT",
        help="continue a run: from this checkpoint, or from the newest one in the work dir",
    )
    start.add_argument(
        "--start-from",
        metavar="FILE",
        help="start with these weights (what tools/convert_weights.py reads), at the config's"
        " start_from_lr; FC layers that do not fit, such as fc8 of another class count, start new",
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
    args.add_argument("--amp", action="store_true", help="mixed precision (needs CUDA)")
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
    cfg = load_config(args)

    import torch
    from mmengine.dist import barrier, is_main_process
    from mmengine.runner import Runner

    from vgg_mm.testing.report import draw_report
    from vgg_mm.training.checkpoints import latest, read_checkpoint
    from vgg_mm.training.dry_run import dry_run

    if args.resume:
        cfg.resume = True
        cfg.load_from = str(latest(cfg.work_dir)) if args.resume == "latest" else args.resume
        read_checkpoint(cfg.load_from)
    if args.start_from:
        cfg.load_from = args.start_from
        cfg.optim_wrapper.optimizer.lr = cfg.start_from_lr
    if args.init_from_a:
        origin = dict(checkpoint=args.init_from_a, prefix=args.prefix)
        std = cfg.get("init_from_a_std", 0.01)
        cfg.custom_hooks.append(dict(type="vgg_mm.InitFromA", std=std, **origin))
    elif cfg.get("load_from") and not cfg.get("resume"):
        origin = dict(checkpoint=cfg.load_from, prefix=args.prefix)
        cfg.custom_hooks.append(dict(type="vgg_mm.StartFrom", **origin))
        cfg.load_from = None
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError("--amp needs CUDA, and this machine has none; leave it out.")
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    if args.tensorboard:
        library("tensorboard", "--tensorboard", "tensorboard")
        cfg.visualizer.vis_backends.append(dict(type="TensorboardVisBackend"))
    cfg.auto_scale_lr.enable = args.auto_scale_lr
    start_processes(cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    runner = Runner.from_cfg(cfg)
    runner.train()
    barrier()  # the main process may still be writing the checkpoint

    work_dir = Path(runner.work_dir)
    best = str(work_dir / "best.pth")
    metrics = test(cfg, best, work_dir / "scores.npz")
    if is_main_process():
        draw_report(work_dir / "scores.npz", work_dir, work_dir / "report.png")
        print(f"Best checkpoint: {best}")
        print(f"Top-1 accuracy, dense evaluation: {100 - metrics['error/top1']:.1f}%")
        print(f"Picture: {work_dir / 'report.png'}")


if __name__ == "__main__":
    run(main)
