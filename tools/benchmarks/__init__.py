"""What ``benchmark.py`` measures: ratios of interleaved runs, never single times.

Each module has a ``main(argv)``, the command line of one benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from tools.arguments import count
from vgg_mm.writing import write_text


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks share."""
    args = argparse.ArgumentParser(
        prog=f"benchmark.py {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    args.add_argument("--rounds", type=count, default=5, help="interleaved runs of each")
    args.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return args


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each run, called in turns after a first call that is not counted.

    With ``clock=time.process_time`` they are the CPU's, of all threads of this process, which other
    programs on the machine change little.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if i:
                seconds[name].append(clock() - start)
    return {name: median(times) for name, times in seconds.items()}


def environment(root: Path) -> dict[str, str]:
    """That of a process of one thread which imports what is at ``root``."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def write(figures: dict[str, float], file: Path | None) -> None:
    """Prints the figures, and writes them as JSON."""
    for name, value in figures.items():
        print(f"{name}: {value:.3g}")
    if file:
        write_text(file, json.dumps(figures, indent=1) + "\n")
