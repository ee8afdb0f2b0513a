"""Packs a data set into tars of a gigabyte and an index of them, for vgg_mm.Shards.

python tools/data/make_shards.py data/imagenet/train SHARDS/train
python tools/data/make_shards.py data/imagenet SHARDS/val --dataset type=vgg_mm.ImageNet split=val
python tools/data/make_shards.py https://HOST/train-{0000..0146}.tar SHARDS/train

The first takes a folder a class, the second any data set of this package or mmpretrain's. The same
data make the same bytes. Can be stopped at any moment: the next run goes on where it was, and
without an index, which comes last, there is no data set. The third, of tars that are there already,
as webdataset has them (KEY.jpg and KEY.cls, or KEY.json with a label, or a folder a class), only
reads their headers and writes the index, into their own folder if you like. See docs/input.md.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import add_jobs, count, key_value_action, plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("sources", nargs="+", metavar="DATA", help="a folder, or tars")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--dataset",
        nargs="+",
        action=key_value_action(),
        default={},
        metavar="KEY=VALUE",
        help="arguments of the data set, such as type=vgg_mm.ImageNet; default: type=vgg_mm.Folders"
        " data_root=DATA",
    )
    parser.add_argument(
        "--size", type=count, metavar="MB", default=1000, help="of a tar; default: %(default)s"
    )
    add_jobs(parser)
    args = parser.parse_args()
    try:
        from tools.data.sharding import index_tars, pack

        tars = [source for source in args.sources if source.endswith(".tar")]
        if len(tars) == len(args.sources) and not args.dataset:
            index = index_tars(tars, args.out, args.jobs)
        elif len(args.sources) == 1:
            cfg = dict(type="vgg_mm.Folders", data_root=args.sources[0]) | args.dataset
            index = pack(cfg, args.out, args.size * 10**6, args.jobs)
        else:
            raise UserError("DATA is a folder, or tars, whose names end in .tar.")
    except KeyboardInterrupt:
        raise UserError("stopped. Run this again to go on from here.") from None
    size = index.samples["size"].sum() / 1e9
    print(f"{args.out}: {len(index.names):,} images in {len(index.shards)} tars, {size:,.2f} GB")


if __name__ == "__main__":
    run(main)
