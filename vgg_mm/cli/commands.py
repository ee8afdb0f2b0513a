"""The command ``vgg-mm``, which runs the others."""

from __future__ import annotations

import ast
import os
import runpy
import sys
from pathlib import Path

from vgg_mm.cli.configs import CARRIED
from vgg_mm.errors import UserError, run, suggest


def commands() -> dict[str, Path]:
    """The commands' files by their names: of ``tools/weights/export.py`` it is ``export``."""
    tools = CARRIED / "tools"
    files = sorted(tools.rglob("*.py"), key=lambda file: file.stem)
    files = [file for file in files if "__main__" in file.read_text() and file.stem != "torchrun"]
    return {file.stem: file for file in [*files, *sorted(tools.glob("*.sh"))]}


def main() -> None:
    """The command ``vgg-mm``: ``vgg-mm train demo`` is ``python tools/train.py configs/demo.py``.

    Raises:
        SystemExit: With the message of an error that the user can mend.
    """
    run(_main)


def _main() -> None:
    files = commands()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: vgg-mm COMMAND [ARGUMENTS]; each tells its own with --help\n")
        print(*(f"  {name:<18}{_summary(file)}" for name, file in files.items()), sep="\n")
    elif name not in files:
        raise UserError(f"vgg-mm has no command {name}.{suggest(name, list(files))}")
    elif files[name].suffix == ".py":
        sys.argv[1:] = arguments
        runpy.run_path(str(files[name]), run_name="__main__")
    else:
        # The scripts call python, which is to be this one.
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", str(files[name]), *arguments])


def _summary(file: Path) -> str:
    text = file.read_text()
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return text.splitlines()[1].removeprefix("# ")
