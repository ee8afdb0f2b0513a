"""Prints the paper's Tables 3-10 with the figures of stored scores and guesses beside its own.

python tools/analysis/tables.py
python tools/analysis/tables.py scores
python tools/analysis/tables.py scores boxes
python tools/analysis/tables.py scores/vgg16_d_jitter.npz --markdown tables.md

The scores, and the guesses of nets that predict boxes, are what `tools/test.py --out` writes. What
they lack is marked '-', with the command that makes it. One file with both views and several scales
serves several rows, and Table 6 is fused from the files of its models.
"""

from pathlib import Path

from vgg_mm.errors import run


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument(
        "scores",
        nargs="*",
        type=Path,
        metavar="SCORES",
        help="files of scores or guesses, and folders of them; default: none, which prints all "
        "commands",
    )
    parser.add_argument(
        "--blacklist",
        type=Path,
        metavar="FILE",
        help="the validation images that Tables 8-10 do not count: ILSVRC-2014's devkit has it",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="where to write CSV")
    args = parser.parse_args()

    from tools.analysis.paper_tables import (
        as_csv,
        as_text,
        describe_data,
        further_boxes,
        further_table,
        make_box_tables,
        make_tables,
    )
    from tools.analysis.stored import StoredScores, scores_files
    from tools.analysis.stored_boxes import StoredGuesses, holds_guesses
    from vgg_mm.writing import write_text

    files = scores_files(args.scores)
    boxes = StoredGuesses([file for file in files if holds_guesses(file)], args.blacklist)
    stored = StoredScores([file for file in files if file not in boxes.files])
    tables = [*make_tables(stored), *make_box_tables(boxes)]
    tables += [*further_table(stored), *further_boxes(boxes)]
    data = "\n".join(dict.fromkeys(filter(None, map(describe_data, (stored, boxes)))))
    print(as_text(tables, data), end="")
    if args.markdown:
        write_text(args.markdown, as_text(tables, data, markdown=True))
    if args.csv:
        write_text(args.csv, as_csv(tables))


if __name__ == "__main__":
    run(main)
