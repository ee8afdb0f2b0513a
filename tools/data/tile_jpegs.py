"""Puts restart markers into a data set's JPEGs, without loss, so that crops are decoded faster.

python tools/data/tile_jpegs.py data/imagenet/train data/imagenet_tiled/train
python tools/data/tile_jpegs.py SRC DST --interval 8 --jobs 16

The files stay ordinary JPEGs with the same pixels; each is decoded to check that. DST becomes a
whole copy of SRC, with what can't be tiled as it is. SRC is only read. Can be stopped at any
moment: the next run goes on where it was. See docs/input.md.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import add_jobs, count, plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("src", type=Path, metavar="SRC", help="the folder with the images")
    parser.add_argument("dst", type=Path, metavar="DST", help="the folder to make")
    parser.add_argument(
        "--interval",
        type=count,
        metavar="K",
        default=2,
        help="blocks from one marker to the next, 16 pixels wide each in most files; each row's "
        "nearest divisor is taken; default: %(default)s",
    )
    add_jobs(parser)
    args = parser.parse_args()
    try:
        from tools.data.tiling import TILED, tile_folder
        from tools.printing import as_text

        totals, failures = tile_folder(args.src, args.dst, args.interval, args.jobs)
    except KeyboardInterrupt:
        raise UserError("stopped. Run this again to go on from here.") from None
    except OSError as error:
        raise UserError(f"{error}. Mend it, and run this again to go on from here.") from error

    rows = [("tiled (the fast path)", totals.pop(TILED, [0, 0, 0]))]
    unreadable = totals.pop("unreadable", None)
    rows += [(f"copied: {why}", totals[why]) for why in sorted(totals)]
    rows += [("left out: unreadable", unreadable)] if unreadable is not None else []
    rows.append(("all", [sum(each) for each in zip(*(total for _, total in rows), strict=True)]))
    files = rows[-1][1][0]
    table = [["files", "share", "MB before", "MB after", ""]]
    for name, (number, *sizes) in rows:
        share = f"{number / max(files, 1):.1%}"
        table.append([f"{number:,}", share, *(f"{size / 1e6:,.1f}" for size in sizes), name])
    print(as_text(table, words=(4,)), flush=True)
    if failures:
        failed = f"{len(failures)} of {files} files failed; of these, corrupt ones are copied:"
        raise UserError("\n  ".join([failed, *failures]))


if __name__ == "__main__":
    run(main)
