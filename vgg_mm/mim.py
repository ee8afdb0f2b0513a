"""What a wheel carries besides the package, its configs and tools, and the command that runs them.

They lie where MIM looks for them, in ``.mim``; in the source repository that folder links to them.
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_mm.errors import UserError, run, suggest

if TYPE_CHECKING:
    from mmengine.config import Config

FOLDER = Path(__file__).with_name(".mim")


def config_file(name: str | os.PathLike) -> Path:
    """The config at the path ``name``, or else the package's own one of that name.

    Raises:
        UserError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    configs = FOLDER / "configs"
    ours = configs / f"{name}.py"
    if ours.is_file():
        return ours
    found = (file.relative_to(configs) for file in sorted(configs.rglob("[!_]*.py")))
    names = [str(file.with_suffix("")) for file in found if file.parts[0] != "_base_"]
    raise UserError(
        f"no config {name}: give a file, or the name of one of the package's: {', '.join(names)}."
        f"{suggest(path.stem, names)}"
    )


def get_config(name: str | os.PathLike) -> Config:
    """A config of the package by its name, such as ``'vgg16_d_jitter'``, or by its path.

    Raises:
        UserError: If there is no such config.
    """
    from mmengine.config import Config

    return Config.fromfile(config_file(name))


def commands() -> dict[str, Path]:
    """The tools by their names: of ``tools/weights/export.py`` it is ``export``."""
    files = sorted((FOLDER / "tools").rglob("*.py"), key=lambda file: file.stem)
    tools = [file for file in files if "__main__" in file.read_text() and file.stem != "torchrun"]
    tools += [FOLDER / f"tools/{name}.sh" for name in ("dist_test", "dist_train", "slurm_train")]
    return {file.stem: file for file in tools}


def main() -> None:
    """The command ``vgg-mm``: ``vgg-mm train demo`` is ``python tools/train.py configs/demo.py``.

    Raises:
        SystemExit: With the message of an error that the user can mend.
    """
    run(_main)


def _main() -> None:
    tools = commands()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: vgg-mm COMMAND [ARGUMENTS]; each tells its own with --help\n")
        print(*(f"  {name:<18}{_summary(file)}" for name, file in tools.items()), sep="\n")
    elif name not in tools:
        raise UserError(f"vgg-mm has no command {name}.{suggest(name, list(tools))}")
    elif tools[name].suffix == ".py":
        sys.argv[1:] = arguments
        runpy.run_path(str(tools[name]), run_name="__main__")
    else:
        # The scripts call python, which is to be this one.
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", str(tools[name]), *arguments])


def _summary(tool: Path) -> str:
    text = tool.read_text()
    if tool.suffix == ".py":
        return ast.get_docstring(ast.parse(text)).partition("\n")[0]
    return text.splitlines()[1].removeprefix("# ")
