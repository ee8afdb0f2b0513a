r"""Describes a data set's images by a net's activations, for linear_svm.py (appendix B).

python tools/analysis/extract_features.py configs/vgg16_d_jitter.py best.pth 101_ObjectCategories \
    --scales 256 384 512 --stack --out caltech.npz
python tools/analysis/extract_features.py configs/vgg16_d_jitter.py best.pth \
    VOC2007/ImageSets/Main/trainval.txt --scales 256 384 512 640 768 --out trainval.npz
python tools/analysis/extract_features.py configs/vgg16_d_jitter.py best.pth \
    VOC2012/ImageSets/Action/trainval.txt --scales 256 384 512 --boxes --out persons.npz

The net runs over the whole image at every scale; the layer's activations are averaged over space,
the mirror image and the scales, and L2-normalised. An extraction that was interrupted goes on
where it was: type the same again. VOC's lists of actions have a person a line: --boxes describes
the person's box, else it is the whole image; linear_svm.py stacks the two.
"""

from pathlib import Path

from vgg_mm.errors import UserError, run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import run_parser

    args = run_parser(__doc__)
    args.add_argument("checkpoint", help="its weights; without a classifier, features are a conv's")
    args.add_argument(
        "data", type=Path, help="a folder with one folder a class, or VOC's list of images"
    )
    args.add_argument("--out", required=True, help="the .npz to write")
    args.add_argument("--layer", help="fc6, conv5_3, ...; default: fc7, or else the last conv")
    args.add_argument("--scales", nargs="+", type=int, metavar="Q", help="default: the config's")
    args.add_argument("--stack", action="store_true", help="stack the scales, not average them")
    args.add_argument("--boxes", action="store_true", help="of each line's box, not the image")
    args.add_argument("--half", action="store_true", help="write float16")
    args = args.parse_args()

    if args.data.is_dir():
        data = dict(type="vgg_mm.Folders", data_root=str(args.data))
    elif args.data.is_file():
        from tools.analysis.voc import VOCList

        data = dict(type=f"vgg_mm.{VOCList.__name__}", ann_file=str(args.data))
    else:
        raise UserError(f"no data {args.data}: give a folder of classes, or a list of images.")
    from tools.arguments import load_config

    cfg = load_config(args)

    from mmengine.dist import is_main_process

    from tools.evaluation import extract
    from tools.processes import start_processes
    from vgg_mm.testing.evaluation import multi_scale

    if args.scales:
        multi_scale(cfg).scales = args.scales
    start_processes(cfg)
    options = dict(stack=args.stack, half=args.half, boxes=args.boxes)
    made = extract(cfg, args.checkpoint, data, args.out, args.layer, **options)
    if is_main_process():
        print(
            "{features/images:.0f} images, {features/dimensions:.0f} dimensions: ".format(**made)
            + args.out
        )


if __name__ == "__main__":
    run(main)
