"""docs/architecture.md: what may import what."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()


def modules():
    """Every module of the library and of the tools: its name, and the names that it imports."""
    files = [*ROOT.glob("vgg_mm/**/*.py"), *ROOT.glob("tools/**/*.py")]
    paths = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
        if ".mim" not in file.parts
    }
    for name, file in paths.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: -(node.level - 1) or None] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found |= {
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in paths else base
                    for alias in node.names
                }
        yield name, (found & paths.keys()) - {name}


def floors():
    """The page's table: each room, and the floor that it is on, counted from below."""
    rows = re.findall(r"^\| (\d) \| (.+?) \|", PAGE, re.M)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`([\w/]+)`", rooms)}


def room(name):
    package, *inner = name.split(".")
    return package if package == "tools" or not inner else inner[0]


def test_imports_run_downward():
    floor, seen = floors(), set()
    for name, imported in modules():
        for other in imported:
            one, two = room(name), room(other)
            seen |= {one, two}
            assert one == two or floor[one] > floor[two], f"{name} imports {other}"
    assert seen == floor.keys()


def test_no_import_runs_in_a_circle():
    assert [*TopologicalSorter(dict(modules())).static_order()]
