"""Tests a checkpoint by the protocol of the config's row in Table 3: dense, Q = S or its middle.

python tools/test.py configs/demo.py work_dirs/demo/epoch_10.pth
"""

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from mmengine.dist import is_main_process

    from vgg_mm.launch import load_config, parser, start_processes, test

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args = args.parse_args()
    cfg = load_config(args)
    start_processes(cfg)
    metrics = test(cfg, args.checkpoint, f"{cfg.work_dir}/scores.npz")
    if is_main_process():
        errors = [100 - metrics[f"accuracy/top{k}"] for k in (1, 5)]
        print("Dense evaluation: top-1 error {:.1f}%, top-5 error {:.1f}%".format(*errors))


if __name__ == "__main__":
    run(main)
