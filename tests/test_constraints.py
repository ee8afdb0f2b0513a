"""constraints.txt and the Dockerfile: what they name, and the script that takes its steps."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_each_requirement_has_a_version_that_fits(monkeypatch):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    declared = {}
    monkeypatch.setattr("setuptools.setup", lambda **kwargs: declared.update(kwargs))
    runpy.run_path(str(ROOT / "setup.py"))
    extras = declared["extras_require"]
    wanted = [
        *declared["install_requires"],
        *extras["lite"],
        *extras["dev"],
        *extras["tensorboard"],
    ]
    for each in map(Requirement, wanted):
        name = canonicalize_name(each.name)
        if name != "setuptools":  # pip brings it, or who needs another one
            assert each.specifier.contains(pins[name], prereleases=True), name


def test_the_image_is_made_without_docker(tmp_path):
    """With stubs of what makes a root and runs things in it."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    (root / "etc").mkdir(parents=True)
    programs.mkdir()
    for name in ("debootstrap", "chroot"):
        path = programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/calls"\n')
        path.chmod(0o755)
    subprocess.run(
        [sys.executable, ROOT / ".ci/image", root, "TORCH=https://elsewhere"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        check=True,
    )
    made, *steps = (tmp_path / "calls").read_text().splitlines()
    assert made == f"debootstrap --variant=minbase bookworm {root}"
    assert len(steps) == 5 and all(step.startswith(f"chroot {root} env -i PATH=") for step in steps)
    venv, torch, ours, command = steps[1:]
    assert venv.endswith("mkdir -p / && cd / && python3 -m venv /opt/vgg_mm")
    assert "PATH=/opt/vgg_mm/bin:" in torch and "TORCH=https://elsewhere " in torch
    assert 'pip install -c /src/constraints.txt "/src[lite,weights]"' in ours
    assert command.endswith("mkdir -p /work && cd /work && vgg-mm --help")
    assert (root / "src/constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()
    assert (root / "src/vgg_mm/.mim/tools").is_symlink() and (root / "src/tools/train.py").exists()
    assert not re.search(r"/\.git/", "\n".join(map(str, (root / "src").rglob("*"))))
