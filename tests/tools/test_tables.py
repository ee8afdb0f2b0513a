"""Tables 3-10 from generated scores and guesses, their figures computed by hand."""

import csv
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import arguments
from vgg_mm.paper import (
    ROWS,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_7_VGG,
    TABLE_8,
    TABLE_9,
    TABLE_10,
)
from vgg_mm.testing import Guesses, Protocol, Scores

ROOT = Path(__file__).parents[2]
N, CLASSES = 997, 12
LABELS = np.random.default_rng(0).integers(CLASSES, size=N)
JITTER = (256, 512)
PAPERS = {3: TABLE_3, 4: TABLE_4, 5: TABLE_5, 6: TABLE_6}


def posteriors(arch, S, view, Q):
    """(N, classes) of one view and scale, each combination with its own noise and errors."""
    seed = [*f"{arch}{S}{view}{Q}".encode()]
    logits = np.random.default_rng(seed).normal(size=(N, CLASSES))
    logits[range(N), LABELS] += 0.8
    p = np.exp(logits)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def scores(arch, S, pairs, **changes):
    """Scores of a net with the pairs (view, Q); ``changes`` are to the protocol."""
    protocol = dict(
        config=next((row.config for row in TABLE_3 if (row.arch, row.S) == (arch, S)), None),
        arch=arch,
        S=list(S) if isinstance(S, tuple) else S,
        views=[view for view, _ in pairs],
        scales=[Q for _, Q in pairs],
        flip=True,
        grid=5,
        crop_size=224,
        checkpoint="best.pth",
        sha256=f"{arch}{S}",
    )
    assert protocol.keys() == Protocol.__dataclass_fields__.keys()
    return Scores(
        np.stack([posteriors(arch, S, view, Q) for view, Q in pairs], 1),
        labels=LABELS,
        names=np.array([f"{i:04}.jpg" for i in range(N)]),
        classes=np.array([f"class {i}" for i in range(CLASSES)]),
        root="pictures",
        protocols=[protocol | changes],
    )


def expected(models, views):
    """The top-1 and top-5 error in %, as text, of models averaged by the paper's rules."""
    models = [
        np.mean(
            [
                np.mean([posteriors(arch, S, view, Q).astype(float) for Q in scales], 0)
                for view in {"both": ["dense", "crops"]}.get(views, [views])
            ],
            0,
        )
        for arch, S, scales in models
    ]
    order = np.argsort(-np.mean(models, 0), axis=1)
    return [f"{100 * np.mean((order[:, :k] != LABELS[:, None]).all(1)):.1f}" for k in (1, 5)]


def expected_row(row):
    return expected(row.models, row.views)


def store(folder):
    """One file for each of Table 3's twelve nets, as the tool's commands would make them."""
    for row in TABLE_3:
        scales = (256,)
        if row.arch not in ("A", "A-LRN"):
            scales = (256, 384, 512) if row.S == JITTER else (row.S - 32, row.S, row.S + 32)
        both = row.S == JITTER and row.arch in "DE"
        pairs = [(view, Q) for view in ["dense", "crops"][: 1 + both] for Q in scales]
        scores(row.arch, row.S, pairs).save(folder / f"{row.config}.npz")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    store(folder)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tables(tool):
    """What the tool prints, and its CSV by the tables' numbers."""

    def call(*args):
        printed = tool("tables", *args, "--csv", "tables.csv")
        by_table = {}
        for line in csv.DictReader(open("tables.csv", newline="")):
            number = line["table"].removeprefix("Table ").partition(":")[0]
            by_table.setdefault(int(number) if number.isdigit() else "further", []).append(line)
        return printed, by_table

    return call


@pytest.fixture
def mistake(mistake):
    return lambda *args: mistake("tables", *args, "--csv", "tables.csv")


def ours(line):
    return [line[f"top-{k} val. error (%)"] for k in (1, 5)]


def papers(line):
    return [line[f"top-{k} val. in the paper"] for k in (1, 5)]


def test_every_row_is_filled_with_its_own_figure(stored, tables):
    _, by_table = tables(stored)
    for number, rows in PAPERS.items():
        assert len(by_table[number]) == len(rows)
        for line, row in zip(by_table[number], rows, strict=True):
            assert ours(line) == expected_row(row), row
            assert papers(line) == [f"{row.top1}", f"{row.top5}"]
            assert line["to make it"] == ""
    # The generated nets differ, so that no row can pass with another's figure.
    assert len({tuple(expected_row(row)) for row in ROWS}) == len(ROWS) - 2  # Table 5 repeats two
    assert "further" not in by_table


def test_table_7_has_our_rows_and_the_fields(stored, tables):
    _, by_table = tables(stored)
    assert [(row.top1, row.top5) for row in TABLE_7_VGG] == [row[1:3] for row in TABLE_7[:3]]
    for i, (line, (method, *figures)) in enumerate(zip(by_table[7], TABLE_7, strict=True)):
        assert line["Method"] == method
        assert ours(line) == (expected_row(TABLE_7_VGG[i]) if i < 3 else ["", ""])
        assert line["top-5 test error (%)"] == ("-, server only" if i < 3 else "")
        printed = [*papers(line), line["top-5 test in the paper"]]
        assert printed == ["-" if figure is None else f"{figure}" for figure in figures]
    assert [line["top-5 test error (%)"] for line in by_table[6]] == ["-, server only"] * 4
    assert [line["top-5 test in the paper"] for line in by_table[6]] == ["7.3", "7.0", "-", "6.8"]


def test_the_papers_columns(stored, tables):
    _, by_table = tables(stored)
    columns = ("ConvNet config. (Table 1)", "smallest image side train (S)", "test (Q)")
    assert [by_table[3][5][column] for column in columns] == ["C", "[256;512]", "384"]
    assert [by_table[4][0][column] for column in columns] == ["B", "256", "224,256,288"]
    methods = [line["Evaluation method"] for line in by_table[5]]
    assert methods == ["dense", "multi-crop", "multi-crop & dense"] * 2
    assert by_table[6][2]["Combined ConvNet models"] == (
        "(D/[256;512]/256,384,512) (E/[256;512]/256,384,512) multi-crop eval."
    )


@pytest.fixture
def test_parser(monkeypatch):
    """Parses a command with the parser of tools/test.py, and does not run it."""

    class Parsed(Exception):
        pass

    def stop(args):
        raise Parsed(args)

    def parse(command):
        python, tool, *args = shlex.split(command)
        assert (python, tool) == ("python", "tools/test.py")
        monkeypatch.setattr(arguments, "load_config", stop)
        monkeypatch.setattr(sys, "argv", [tool, *args])
        with pytest.raises(Parsed) as parsed:
            runpy.run_path(str(ROOT / tool), run_name="__main__")
        return parsed.value.args[0]

    return parse


def test_what_lacks_has_a_command_that_makes_it(tables, test_parser):
    out, by_table = tables()
    commands = {}
    for number, rows in PAPERS.items():
        for line, row in zip(by_table[number], rows, strict=True):
            assert ours(line) == ["-", "-"]
            models = row.models
            commands_of_row = line["to make it"].split(" && ")
            assert len(commands_of_row) == len(models)
            for command, (arch, S, scales) in zip(commands_of_row, models, strict=True):
                if command not in commands:
                    commands[command] = test_parser(command)
                args = commands[command]
                (config,) = {r.config for r in TABLE_3 if (r.arch, r.S) == (arch, S)}
                assert args.config == f"configs/{config}.py" and (ROOT / args.config).is_file()
                assert args.checkpoint == f"work_dirs/{config}/best.pth"
                assert args.out == f"scores/{config}.npz"
                assert set(scales) <= set(args.scales)
                assert args.views in (row.views, "both")
    assert len(commands) == 12
    for i, command in enumerate(commands, 1):
        assert f"\n({i}) {command}\n" in out
    assert (
        "python tools/test.py configs/vgg16_d_jitter.py work_dirs/vgg16_d_jitter/best.pth "
        "--views both --scales 256 384 512 --out scores/vgg16_d_jitter.npz"
    ) in commands


def test_a_partial_file_fills_what_it_can(tables):
    scores("D", 256, [("dense", 256)]).save("d.npz")
    out, by_table = tables("d.npz")
    filled = [line for lines in by_table.values() for line in lines if "." in ours(line)[0]]
    assert [ours(line) for line in filled] == [expected([("D", 256, [256])], "dense")]
    assert by_table[3][6] == filled[0]
    assert "configs/vgg16_d_256.py" in by_table[4][4]["to make it"]
    assert len(by_table[6][0]["to make it"].split(" && ")) == 7


def test_a_file_with_too_few_scales_for_any_row_is_still_shown(tables):
    scores("B", 256, [("dense", 224)]).save("b.npz")
    _, by_table = tables("b.npz")
    assert ours(by_table[4][0]) == ["-", "-"]
    assert ours(by_table["further"][0]) == expected([("B", 256, [224])], "dense")


def test_several_files_of_a_net_serve_a_row_together(tables):
    scales = (256, 384, 512)
    scores("D", JITTER, [("dense", Q) for Q in scales]).save("dense.npz")
    scores("D", JITTER, [("crops", Q) for Q in scales]).save("crops.npz")
    _, by_table = tables("dense.npz", "crops.npz")
    for line, row in zip(by_table[5][:3], TABLE_5[:3], strict=True):
        assert ours(line) == expected_row(row)


@pytest.mark.parametrize(
    "change, crops_too",
    [
        (dict(flip=False), False),
        (dict(config="mine"), False),
        (dict(arch="E"), False),
        (dict(S=[256, 384]), False),
        (dict(grid=3), True),
        (dict(crop_size=112), True),
    ],
)
def test_another_protocol_fills_no_row_and_is_still_shown(change, crops_too, tables):
    pairs = [(view, Q) for view in ("dense", "crops") for Q in (256, 384, 512)]
    tested = scores("D", JITTER, pairs)
    tested.protocols[0] |= change
    tested.save("d.npz")
    _, by_table = tables("d.npz")
    dense, crops, both = (ours(line) for line in by_table[5][:3])
    assert crops == both == ["-", "-"]
    if crops_too:  # the grid is no matter to dense evaluation
        assert dense == expected_row(TABLE_5[0]) and "further" not in by_table
    else:
        assert dense == ["-", "-"]
        (line,) = by_table["further"]
        assert line["file"] == "d.npz"
        assert ours(line) == expected_row(TABLE_5[2])


def test_fused_and_foreign_scores_are_shown_with_their_protocols(tables):
    demo = scores("A", 73, [("dense", 73)], config="demo", crop_size=64)
    demo.save("demo.npz")
    fused = scores("D", 384, [("dense", 384)])
    fused.protocols += demo.protocols
    fused.save("fused.npz")
    out, by_table = tables("demo.npz", "fused.npz")
    assert [line["tested"] for line in by_table["further"]] == [
        "demo (A, S 73): dense, Q 73",
        "vgg16_d_384 (D, S 384): dense, Q 384 demo (A, S 73): dense, Q 73",
    ]
    assert ours(by_table["further"][0]) == expected([("A", 73, [73])], "dense")
    assert all(ours(line) == ["-", "-"] for n in PAPERS for line in by_table[n])


def test_the_data_is_stated_where_it_is_not_imagenets(stored, tables):
    out, _ = tables(stored / "vgg13_b_256.npz")
    first = out.splitlines()[0]
    assert first.startswith(f"Tested on {N} images of {CLASSES} classes: not ILSVRC-2012's")
    assert tables()[0].startswith("Table 3")


def test_folders_leave_out_what_a_running_test_keeps(stored, tables):
    folder = Path("work_dirs/net")
    parts = folder / "scores.npz.0123.parts"
    parts.mkdir(parents=True)
    np.savez(parts / "0.npz", names=["a"])
    scores("B", 256, [("dense", 256)]).save(folder / "scores.npz")
    _, by_table = tables("work_dirs", folder / "scores.npz")
    assert ours(by_table[3][2]) == expected_row(TABLE_3[2])


# Localisation: of each row's file, how many of the 10 images are right, by the first guess and by
# any of the five.
BOXES = {row: (i, i + 2) for i, row in enumerate((*TABLE_8, *TABLE_9), 1)}


def boxes(S, scales, right, others=(), test=2, regression="PCR", trained="all"):
    """Guesses of 10 images, the first ``right`` of which are."""
    net = dict(arch="D", regression=regression, trained=trained)
    nets = [
        dict(net, config=f"vgg16_d_{side}_boxes", S=side, scales=[*Q])
        for side, Q in ((S, scales), *others)
    ]
    guesses = np.zeros((10, 1 if test == 1 else 5, 7), np.float32)
    guesses[: right[0], 0, 6] = 0.5
    guesses[: right[1], -1, 6] = 0.9
    guesses[right[1] :, :, 6] = 0.49
    protocol = dict(nets[0], others=nets[1:], test=test, flip=True)
    return Guesses(
        guesses,
        labels=np.zeros(10, int),
        names=np.array([f"n/ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 11)]),
        classes=np.array(["thing"]),
        root="images",
        protocols=[protocol],
    )


def store_boxes(folder):
    folder.mkdir()
    for i, (row, right) in enumerate(BOXES.items()):
        if row in TABLE_8:
            made = boxes(384, [384], (right[0],) * 2, (), 1, row.regression, row.trained)
        else:
            (S, Q), *others = row.models
            made = boxes(S, Q, right, others)
        made.save(folder / f"{i}.npz")


def test_boxes_fill_their_rows(tables, stored):
    store_boxes(Path("boxes"))
    out, by_table = tables("boxes", stored)
    assert out.splitlines()[0].startswith(f"Tested on {N} images of {CLASSES} classes: not ILSVRC")
    assert out.splitlines()[1].startswith("Tested on 10 images of 1 classes: not ILSVRC-2012's")
    for line, row in zip([*by_table[8], *by_table[9]], (*TABLE_8, *TABLE_9), strict=True):
        k, right = (1, BOXES[row][0]) if row in TABLE_8 else (5, BOXES[row][1])
        assert line[f"top-{k} val. loc. error (%)"] == f"{100 - 10 * right:.1f}"
        papers = row.top1 if row in TABLE_8 else row.val
        assert line[f"top-{k} val. in the paper"] == f"{papers}" and line["to make it"] == ""
    fusion, *others = by_table[10]
    assert fusion["top-5 val. loc. error (%)"] == by_table[9][-1]["top-5 val. loc. error (%)"]
    for line, (method, *figures) in zip(by_table[10], TABLE_10, strict=True):
        printed = [line[f"top-5 {split} in the paper"] for split in ("val.", "test")]
        assert line["Method"] == method
        assert printed == ["-" if figure is None else f"{figure}" for figure in figures]
    assert [line["top-5 val. loc. error (%)"] for line in others] == [""] * 3
    assert "further" not in by_table and ours(by_table[3][0]) == expected_row(TABLE_3[0])


def test_the_blacklist_does_not_count(tables):
    boxes(384, [384], (4, 6)).save("b.npz")
    Path("list.txt").write_text("1\n2\n9\n10\n50000\n")
    _, by_table = tables("b.npz", "--blacklist", "list.txt")
    assert by_table[9][1]["top-5 val. loc. error (%)"] == f"{100 * 2 / 6:.1f}"


@pytest.mark.parametrize(
    "change",
    [
        dict(flip=False),
        dict(config="mine"),
        dict(arch="E"),
        dict(scales=[352]),
        dict(regression="SCR"),
        dict(trained="fc"),
        dict(test=1, scales=[256]),
    ],
)
def test_other_guesses_fill_no_row_and_are_still_shown(change, tables):
    made = boxes(384, [384], (4, 6), test=change.get("test", 2))
    made.protocols[0] |= change
    made.save("b.npz")
    _, by_table = tables("b.npz")
    assert {line["top-5 val. loc. error (%)"] for line in by_table[9]} == {"-"}
    (line,) = by_table["further"]
    errors = [line[f"top-{k} val. loc. error (%)"] for k in (1, 5)]
    assert line["file"] == "b.npz"
    assert errors == (["40.0", "-"] if "test" in change else ["60.0", "40.0"])


def test_lacking_boxes_have_commands_that_make_them(tables, test_parser):
    _, by_table = tables()
    for line, row in zip([*by_table[8], *by_table[9]], (*TABLE_8, *TABLE_9), strict=True):
        *before, command = line["to make it"].split(" && ")
        args = test_parser(command)
        if row in TABLE_8:
            assert args.true_class and args.config == "configs/vgg16_d_384_boxes.py" and not before
            options = args.cfg_options or {}
            kind = f"{'_scr' * (row.regression == 'SCR')}{'_fc' * (row.trained == 'fc')}"
            assert args.checkpoint == f"work_dirs/vgg16_d_384_boxes{kind}/best.pth"
            assert options.get("model.head.per_class", True) == (row.regression == "PCR")
            assert options.get("model.backbone.frozen_stages", 0) == 5 * (row.trained == "fc")
            continue
        assert before and before[0].endswith(f"--out {args.scores}")
        nets = [(args.config, args.checkpoint, *args.scales), *(args.others or ())]
        models = [(int(re.search("_d_([0-9]+)_", n[0])[1]), tuple(map(int, n[2:]))) for n in nets]
        assert tuple(models) == row.models
        assert args.classifier[0] == "configs/vgg16_d_jitter.py"
    outs = [line["to make it"].rpartition("--out ")[2] for t in (8, 9) for line in by_table[t]]
    assert len({out.partition(" ")[0] for out in outs}) == 7


def test_mistakes(stored, mistake):
    other = scores("A", 256, [("dense", 256)])
    other.names[3] = "x.jpg"
    other.save("other.npz")
    b = stored / "vgg13_b_256.npz"
    message = mistake(b, "other.npz")
    assert f"{b} and other.npz were not tested on the same data: image 3 is '0003.jpg'" in message
    scores("B", 256, [("dense", 224)], sha256="another").save("again.npz")
    message = mistake(b, "again.npz")
    assert f"{b} and again.npz hold scores of two different checkpoints of vgg13_b_256" in message
    Path("empty").mkdir()
    assert "no scores in empty" in mistake("empty")
    assert "no scores none.npz" in mistake("none.npz")
    assert "empty could not be written" in mistake("--markdown", "empty")
    boxes(384, [384], (4, 6)).save("b.npz")
    boxes(384, [384], (5, 6)).save("c.npz")
    message = mistake("b.npz", "c.npz")
    assert "b.npz and c.npz hold guesses of the same row of Table 9: give one" in message
    assert "the blacklist no.txt" in mistake("b.npz", "--blacklist", "no.txt")
    np.save("a.npy", np.zeros(3))
    assert "a.npy is not a file that tools/test.py --out wrote" in mistake("a.npy")


def test_printed_and_as_markdown(stored, tool):
    printed = tool("tables", stored, "--markdown", "made/t.md")
    top1, top5 = expected_row(TABLE_3[0])
    line = next(line for line in printed.splitlines() if line.startswith("A "))
    assert line.split() == ["A", "256", "256", top1, "29.6", top5, "10.4"]
    markdown = Path("made/t.md").read_text()
    assert f"\n| A | 256 | 256 | {top1} | 29.6 | {top5} | 10.4 |\n" in markdown
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            assert len({row.count("|") for row in block.splitlines()}) == 1
    lacking = markdown.partition("To make what is lacking")[2]
    assert "--out boxes/" in lacking and "--out scores/vgg" not in lacking
