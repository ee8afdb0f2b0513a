"""Trains a config's net, then tests its best checkpoint by the config's protocol.

python tools/train.py configs/demo.py
tools/dist_train.sh configs/vgg16_d_jitter.py 4
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from vgg_mm.launch import load_config, parser, start_processes, test

    args = parser(__doc__)
    args.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="CHECKPOINT",
        help="continue a run: from this checkpoint, or from the newest one in the work dir",
    )
    args.add_argument(
        "--start-from",
        metavar="CHECKPOINT",
        help="start with these weights, at the config's start_from_lr; layers that do not fit, such"
        " as fc8 of another class count, start new",
    )
    args.add_argument("--amp", action="store_true", help="mixed precision (needs CUDA)")
    args.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch over all processes (256: as in the config)",
    )
    args = args.parse_args()
    cfg = load_config(args)

    import torch
    from mmengine.dist import barrier, is_main_process
    from mmengine.runner import Runner

    from vgg_mm.testing.report import draw_report
    from vgg_mm.training.checkpoints import read_checkpoint

    if args.resume:
        cfg.resume = True
        if args.resume != "latest":
            cfg.load_from = args.resume
    if args.start_from:
        cfg.load_from = args.start_from
        cfg.optim_wrapper.optimizer.lr = cfg.start_from_lr
    if cfg.get("load_from"):
        read_checkpoint(cfg.load_from)
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError("--amp needs CUDA, and this machine has none; leave it out.")
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    cfg.auto_scale_lr.enable = args.auto_scale_lr
    start_processes(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    barrier()  # the main process may still be writing the checkpoint

    best, work_dir = runner.message_hub.get_info("best_ckpt"), Path(runner.work_dir)
    metrics = test(cfg, best, work_dir / "scores.npz")
    if is_main_process():
        draw_report(work_dir / "scores.npz", work_dir, work_dir / "report.png")
        print(f"Best checkpoint: {best}")
        print(f"Top-1 accuracy, dense evaluation: {100 - metrics['error/top1']:.1f}%")
        print(f"Picture: {work_dir / 'report.png'}")


if __name__ == "__main__":
    run(main)
