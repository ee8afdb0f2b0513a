"""The whole paper: trains the 12 models of Table 3, tests every row of Tables 3-6, reports.

python tools/reproduce/reproduce.py --scale mini --plan
python tools/reproduce/reproduce.py --scale mini
python tools/reproduce/reproduce.py --scale small --folds 5
python tools/reproduce/reproduce.py --scale imagenet --gpus 4

`mini` and `small` are narrow nets on scenes of the cut-outs that ship with the package, at crops of
32 and 64 pixels; `imagenet` is the paper. Killed at any point, it goes on when the same is typed
again.
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", required=True, choices=["mini", "small", "imagenet"])
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="train all N times")
    parser.add_argument(
        "--folds",
        type=count,
        default=1,
        metavar="K",
        help="draw the scenes K times and train on each",
    )
    parser.add_argument("--data-root", help="your own images, or where ImageNet is")
    parser.add_argument("--work-dir", type=Path, help="default work_dirs/SCALE; imagenet: here")
    parser.add_argument("--gpus", type=count, metavar="N", help="default: all of this machine")
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="steps at once, which share the cores; default: one a core, 8 at most, where narrow "
        "nets have no GPU; else 1",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the commands and their time")
    what.add_argument("--dry-run", action="store_true", help="one step each, then forget it all")
    what.add_argument("--report", action="store_true", help="write the report of what is there")
    what.add_argument(
        "--choose",
        type=float,
        nargs="+",
        metavar="LR",
        help="compare learning rates with nets A and E on other scenes",
    )
    args = parser.parse_args()

    import torch

    from tools.reproduce import dry_run, images
    from tools.reproduce.choose import choose
    from tools.reproduce.plan import Run, make_plan
    from tools.reproduce.rates import Rates, share_of_cores, trial_rates
    from tools.reproduce.report import write_report
    from tools.reproduce.scales import SCALES
    from tools.reproduce.steps import alone, check_settings, plan_text, run_plan, start

    scale = SCALES[args.scale]
    root = args.work_dir or Path("." if scale.data else f"work_dirs/{scale.name}")
    processes = args.gpus or max(1, torch.cuda.device_count())
    if scale.batch % processes:
        raise UserError(f"--gpus {processes} cannot share a batch of {scale.batch} evenly.")
    narrow = not (scale.data or torch.cuda.is_available() or processes > 1)
    jobs = args.jobs or (min(8, torch.get_num_threads()) if narrow else 1)
    threads = share_of_cores(jobs)
    where = args.data_root or scale.data
    if where and args.folds > 1:
        raise UserError("--folds is of the scenes that are drawn: leave out --data-root.")
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
            dry_run.dry_run(scale, where, Path(scratch))
        return
    if args.choose:
        choose(scale, args.choose, root, jobs)
        return
    if scale.data:
        trees = [images.imagenet(where)]
    elif where:
        trees = [images.folders(where)]
    else:
        trees = [images.folders(tree) for tree in images.drawn(root / "data", args.folds)]
    runs = [
        Run(tree, root / f"fold{k}_seed{seed}" if (k, seed) != (0, 0) else root, k, seed)
        for k, tree in enumerate(trees)
        for seed in range(args.seeds)
    ]
    steps = make_plan(scale, runs, processes)
    settings = asdict(replace(scale, chosen="")) | {"processes": processes, "data_root": where}
    if args.plan:
        rates = Rates(trial_rates(scale, runs[0], processes, threads), steps)
        print(plan_text(steps, rates, jobs))
        return
    if args.report:
        check_settings(root, settings, keep=False)
    else:
        with alone(root) as lock:
            check_settings(root, settings)
            rates = Rates(trial_rates(scale, runs[0], processes, threads), steps)
            run_plan(steps, rates, partial(start, lock=lock, threads=threads), jobs)
    print(f"Report: {write_report(scale, runs, steps, root)}")


if __name__ == "__main__":
    run(main)
