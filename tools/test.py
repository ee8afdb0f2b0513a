"""Tests a checkpoint by the protocol of the config's row in Table 3: dense, Q = S or its middle.

    python tools/test.py configs/demo.py work_dirs/demo/epoch_10.pth
"""

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from vgg_mm.launch import load_config, parser, start_processes, test

    args = parser(__doc__)
    args.add_argument("checkpoint", help="a checkpoint that tools/train.py saved")
    args = args.parse_args()
    cfg = load_config(args)
    start_processes(cfg)
    metrics = test(cfg, args.checkpoint)
    print("  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))


if __name__ == "__main__":
    run(main)
