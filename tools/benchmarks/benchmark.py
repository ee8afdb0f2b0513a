"""Measures this project against what else there is, and prints ratios.

python tools/benchmarks/benchmark.py testing [--json FILE]
python tools/benchmarks/benchmark.py training [--json FILE]
python tools/benchmarks/benchmark.py perceptual [--json FILE]
python tools/benchmarks/benchmark.py input [--data FOLDER] [--json FILE]
python tools/benchmarks/benchmark.py shards [--folder FOLDER] [--json FILE]
python tools/benchmarks/benchmark.py stores [--images N] [--json FILE]
python tools/benchmarks/benchmark.py distributed [--link GBIT ...] [--json FILE]
python tools/benchmarks/benchmark.py downstream [--markdown]

Each tells its own arguments with --help.
"""

import argparse
from importlib import import_module

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    args = plain_parser(__doc__)
    names = ["testing", "training", "input", "shards", "stores", "perceptual", "distributed"]
    names += ["downstream"]
    args.add_argument("name", choices=names)
    args.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own")
    args = args.parse_args()
    import_module(f"tools.benchmarks.{args.name}").main(args.arguments)


if __name__ == "__main__":
    run(main)
