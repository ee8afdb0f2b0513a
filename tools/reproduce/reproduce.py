"""The whole paper: trains Table 3's models and the claims' controls, tests all, reports.

python tools/reproduce/reproduce.py --scale small --plan
python tools/reproduce/reproduce.py --scale small
python tools/reproduce/reproduce.py --scale imagenet --gpus 4

`small` is the paper's geometry at an eighth of its lengths, narrow nets on scenes of the cut-outs
that ship with the package, trained three times; its plan says 3.7 hours on 2 CPU cores. `quarter`
is at twice these lengths, for a GPU; `micro` is all of its steps on a few images; `imagenet` is the
paper.
Killed at any point, it goes on when the same is typed again, also where its folder was copied to.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import count, plain_parser

    parser = plain_parser(__doc__)
    names = ["small", "quarter", "micro", "imagenet"]
    parser.add_argument("--scale", required=True, choices=names)
    parser.add_argument("--seeds", type=count, metavar="N", help="train all N times; default: 3")
    parser.add_argument("--data-root", default="data/imagenet", help="where ImageNet is")
    parser.add_argument("--work-dir", type=Path, help="default work_dirs/SCALE")
    parser.add_argument("--gpus", type=count, metavar="N", help="default: all of this machine")
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="steps at once, of one thread each if several; default: 2 without a GPU, else 1",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the commands and their time")
    what.add_argument("--report", action="store_true", help="write the report of what is there")
    args = parser.parse_args()

    import torch

    from tools.reproduce.plan import make_plan
    from tools.reproduce.report import write_report
    from tools.reproduce.results import collect
    from tools.reproduce.scales import SCALES
    from tools.reproduce.steps import alone, check_settings, plan_text, run_plan, start
    from tools.reproduce.trial import chosen_rate, trials

    scale = SCALES[args.scale]
    root = args.work_dir or Path("work_dirs", scale.name)
    processes = args.gpus or max(1, torch.cuda.device_count())
    if scale.batch % processes:
        raise UserError(f"--gpus {processes} cannot share a batch of {scale.batch} evenly.")
    jobs = args.jobs or (2 if scale.scenes and not torch.cuda.is_available() else 1)
    seeds = args.seeds or scale.seeds
    planned = partial(make_plan, scale, root, seeds, processes=processes, data=args.data_root)
    if args.plan or args.report:
        lr, tried = trials(scale, root)
        steps = [*tried, *planned(lr=lr)]
        if args.plan:
            print(plan_text(steps, scale.speed, jobs))
            return
    else:
        with alone(root) as lock:
            check_settings(root, asdict(scale) | {"processes": processes})
            begin = partial(start, lock=lock, threads=1 if jobs > 1 else None)
            lr, tried = chosen_rate(
                scale, root, lambda some: run_plan(some, scale.speed, begin, jobs)
            )
            steps = [*tried, *planned(lr=lr)]
            run_plan(steps, scale.speed, begin, jobs)
    collect(scale, root, seeds)
    print(f"Report: {write_report(scale, root, steps)}")


if __name__ == "__main__":
    run(main)
