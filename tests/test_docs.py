"""README.md and docs/: what they link to, name, tell to type and reckon exists and is right."""

import argparse
import json
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import Registry

import vgg_mm
from tools.analysis.layers import describe, paper_net, total
from tools.analysis.stored import scores_command
from vgg_mm import paper, registry
from vgg_mm.cli.commands import commands
from vgg_mm.cli.configs import CARRIED

ROOT = Path(__file__).parents[1]
DOCS = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
IMAGENET = DOCS["docs/imagenet.md"].read_text()
FENCED = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\[([^]]*)\]\(([^)\s]+)\)")
STEPS = 1_281_167 * 74  # images that a training sees

each_page = pytest.mark.parametrize("page", DOCS)


def prose(page):
    return FENCED.sub("", DOCS[page].read_text())


def anchors(path):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for _, target in LINK.findall(prose(page)):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            path = DOCS[page].parent / file if file else DOCS[page]
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def test_each_name_in_the_code_is_in_the_file_it_links_to():
    named = re.compile(r"\[`([\w.]+)`\]\(\.\./((?:vgg_mm|tools)/\S+)\.py\)")
    links = named.findall(prose("docs/paper.md"))
    for text, target in links:
        module = target.replace("/", ".")
        found = import_module(module)
        for name in text.split("."):
            found = getattr(found, name)
        assert getattr(found, "__module__", module) == module, text
    assert len(links) > 30


@each_page
def test_types_are_registered(page):
    for package in ("data", "models", "testing", "training"):
        import_module(f"vgg_mm.{package}")
    known = {
        name
        for scope in vars(registry).values()
        if isinstance(scope, Registry)
        for name in scope.module_dict
    }
    known.update(vgg_mm.__all__)
    assert set(re.findall(r"vgg_mm\.([A-Z]\w+)", DOCS[page].read_text())) <= known


@pytest.fixture
def typed(tmp_path):
    """Types lines into bash and returns the arguments of each call of a tool, from its name on.

    Programs are missing there, which is no error; `python` and `srun` only note their arguments.
    """
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name))
    note = f'#!{shutil.which("bash")}\n{{ printf "%s\\t" "$@"; echo; }} >> "{calls}"\n'
    for name in ("python", "srun"):
        (programs / name).write_text(note)
        (programs / name).chmod(0o755)
    (tmp_path / "tools").symlink_to(ROOT / "tools")

    def type_in(lines):
        calls.write_text("")
        lines = f"command_not_found_handle() {{ :; }}\n{lines}"
        subprocess.run(["bash", "-c", lines], cwd=tmp_path, env={"PATH": str(programs)}, check=True)
        called = []
        for call in calls.read_text().splitlines():
            _, script, args = re.split(r"((?:tools|docs)/[\w/]+\.py)\t", call, maxsplit=1)
            args = args.split("\t")[:-1]
            if script == "tools/torchrun.py":  # PROCESSES TOOL.py ARGUMENTS
                script, args = f"tools/{args[1]}", [*args[2:], "--launcher", "pytorch"]
            called.append([script, *args])
        return called

    return type_in


class _ParsedError(Exception):
    """Ends a tool that has read its command line."""


@pytest.fixture
def parse(monkeypatch):
    """Lets a tool read its command line, and no more."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, *args):
        raise _ParsedError(original(self, *args))

    def parse(tool, *args):
        monkeypatch.setattr(sys, "argv", [tool, *args])
        with pytest.raises(_ParsedError) as parsed:
            runpy.run_path(str(ROOT / tool), run_name="__main__")
        return parsed.value.args[0]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    return parse


def blocks(page):
    """What a page tells to type: its bash blocks, and commands among its prose."""
    inline = re.findall(r"`((?:python tools/|tools/\w+\.sh )[^`]+)`", prose(page))
    fenced = re.findall(r"^```bash\n(.*?)^```", DOCS[page].read_text(), re.M | re.S)
    return [*fenced, *(command.replace("\n", " ") for command in inline)]


@each_page
def test_commands_are_understood(page, typed, parse):
    for block in blocks(page):
        calls = typed(block)
        assert calls or "tools/" not in block, block
        assert {tool for tool, *_ in calls} >= set(re.findall(r"python (\w+/[\w/]+\.py)", block))
        for tool, *args in calls:
            assert (ROOT / tool).is_file()
            if tool.startswith("tools/"):
                parse(tool, *args)
            assert all((ROOT / arg).is_file() for arg in args if re.match(r"configs/.*\.py$", arg))


# Asks each command that stdin names for its help, one after the other, and for no torch.
HELP = """
import io, json, runpy, sys
from contextlib import redirect_stdout
told = {}
for command in sys.stdin.read().splitlines():
    sys.argv, status = [command, "--help"], "it did not end"
    with redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(command, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
    told[command] = [status, out.getvalue(), "torch" in sys.modules]
print(json.dumps(told))
"""


def test_commands_tell_their_help_at_once():
    text = "\n".join(path.read_text() for path in DOCS.values())
    typed = set(re.findall(r"(?:python |bash |\s|`)(tools/(?:\w+/)*\w+\.(?:py|sh))\b", text))
    for name in re.findall(r"(?:^|`)vgg-mm (\w+)", text, re.M):
        typed.add(str(commands()[name].relative_to(CARRIED)))
    assert {"tools/train.py", "tools/dist_train.sh", "tools/data/tile_jpegs.py"} <= typed
    in_python = sorted(command for command in typed if command.endswith(".py"))
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        input="\n".join(in_python),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for command, (status, out, torch) in json.loads(done.stdout).items():
        assert (status, torch) == (0, False), command
        assert out.startswith(f"usage: {Path(command).name} "), command
    for command in typed.difference(in_python):
        out = subprocess.run(
            ["bash", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert out.startswith(f"{command} "), command


def block_of(start):
    (block,) = (block for block in blocks("docs/imagenet.md") if start in block)
    return block


def test_the_chain_trains_each_model_after_what_it_starts_from(typed, parse, tmp_path):
    done, trained = set(), typed(block_of("train()"))
    for tool, *args in trained:
        args = parse(tool, *args)
        start = args.init_from_a or args.start_from
        assert start is None or Path(start).parent.name in done
        done.add(Path(args.config).stem)
    starts = [bool(parse(*call).init_from_a) for call in trained]
    assert done == {row.config for row in paper.TABLE_3} and len(trained) == len(done)
    assert sum(starts) == 4

    for name, file in (("vgg11_a_256", "report.png"), ("vgg13_b_256", "last_checkpoint")):
        (tmp_path / "work_dirs" / name).mkdir(parents=True)
        (tmp_path / "work_dirs" / name / file).touch()
    again = {
        Path(args.config).stem: args for args in (parse(*c) for c in typed(block_of("train()")))
    }
    assert again.keys() == done - {"vgg11_a_256"}
    assert again["vgg13_b_256"].resume and not again["vgg13_b_256"].init_from_a
    assert [name for name, args in again.items() if args.resume] == ["vgg13_b_256"]


def test_the_scores_fill_all_tables(typed, parse):
    def of(args):
        args = parse(*args)
        return (args.config, args.checkpoint, args.views or "dense", args.scales, args.out)

    *scored, tables = typed(block_of("score()"))
    wanted = [typed(scores_command(row.arch, row.S))[0] for row in paper.TABLE_3]
    assert sorted(map(of, scored)) == sorted(map(of, wanted))
    assert parse(*tables).scores == [Path("scores")] == [Path(of(wanted[0])[-1]).parent]


def multiply_adds(arch, height=224, width=224):
    return total(describe(paper_net(arch), height, width), "multiply_adds")


def table(header):
    """The cells of the table of docs/imagenet.md whose header starts so, without the header."""
    lines = IMAGENET[IMAGENET.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


RATES = [5e12, 20e12, 100e12, 400e12]


def test_training_hours():
    def hours(work):
        return [f"{3 * 2 * work * STEPS / rate / 3600:,.0f}" for rate in RATES]

    assert f"| {' | '.join(f'{rate / 1e12:.0f} TFLOP/s' for rate in RATES)} |" in IMAGENET
    *nets, (_, models, work, *all_hours, _) = table("net")
    sum_of_all = 0
    for names, number, each, *figures, speed in nets:
        for arch in names.split(", "):
            macs = multiply_adds(arch)
            trainings = sum(row.arch == arch for row in paper.TABLE_3)
            sum_of_all += trainings * macs
            assert (each, *figures) == (f"{macs / 1e9:.1f}", *hours(macs))
            assert speed == f"{100e12 / (3 * 2 * macs):,.0f}"
        assert int(number) == trainings * len(names.split(", "))
    assert (models, work) == (str(len(paper.TABLE_3)), f"{sum_of_all / 1e9:.1f}")
    assert all_hours == hours(sum_of_all)


def test_the_authors_rate():
    weeks = [3 * 2 * multiply_adds("D") * STEPS / (n * 7 * 24 * 3600) / 1e12 for n in (2, 3)]
    assert "{:.1f} to {:.1f} TFLOP/s".format(*weeks) in IMAGENET


def test_testing_hours_and_disk(typed, parse):
    work = pairs = 0
    for row in paper.TABLE_3:
        args = parse(*typed(scores_command(row.arch, row.S))[0])
        work += sum(2 * multiply_adds(row.arch, Q, Q * 4 // 3) for Q in args.scales)
        pairs += len(args.scales)
        if args.views == "both":
            work += 50 * len(args.scales) * multiply_adds(row.arch)
            pairs += len(args.scales)
    hours = [2 * work * 50_000 / rate / 3600 for rate in RATES]
    assert "{:.0f}, {:.0f}, {:.1f} or {:.1f} hours".format(*hours) in " ".join(IMAGENET.split())

    disk = dict(table("disk"))
    gigabytes = {name: 2 * 4 * paper.PARAMETERS[name] / 1e9 for name in paper.PARAMETERS}
    kept = 4 * sum(gigabytes[row.arch] for row in paper.TABLE_3)
    assert [size for what, size in disk.items() if "work_dirs" in what] == [f"{kept:.0f}"]
    scores = pairs * 50_000 * 1000 * 4 / 1e9
    sizes = [size for what, size in disk.items() if f"`scores`: {pairs} pairs" in what]
    assert sizes == [f"{scores:.1f}"]
    assert f"{gigabytes['A']:.2f} GB (net A) to {gigabytes['E']:.2f} GB (net E)" in IMAGENET


def test_the_inputs_picture_can_be_drawn_again(tmp_path):
    runpy.run_path(str(ROOT / "docs" / "input.py"))["draw"](tmp_path / "input.png")
    drawn, ours = (cv2.imread(str(path / "input.png")) for path in (tmp_path, ROOT / "docs"))
    assert drawn.shape == ours.shape
    assert np.abs(drawn.astype(int) - ours).mean() < 8  # fonts may differ
