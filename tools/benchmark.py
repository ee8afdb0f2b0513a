"""Measures this project against what else there is, and prints ratios.

python tools/benchmark.py testing [--json FILE]
python tools/benchmark.py training [--json FILE]
python tools/benchmark.py input [--data FOLDER] [--json FILE]
"""

import sys
from importlib import import_module

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    names = ("testing", "training", "input")
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        raise UserError(f"say which benchmark: {', '.join(names)}. {__doc__}")
    import_module(f"vgg_mm.benchmarks.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    run(main)
