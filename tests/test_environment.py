"""Installations that are broken, and the line that mends each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vgg_mm.environment import advice, check

ROOT = Path(__file__).parents[1]
FRONT_DOOR = "import vgg_mm; vgg_mm.get_config('demo'); vgg_mm.load"
HEADLESS = "pip install opencv-python-headless"


def broken(folder, module, line, code):
    """What Python says of ``code`` where importing ``module`` runs ``line``."""
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(line)
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", *code],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    "module, line, mends",
    [
        ("mmcv", "raise ImportError(\"No module named 'mmcv'\")", "pip install mmcv-lite==2.1.0"),
        ("cv2", "raise ImportError('libGL.so.1: cannot open shared object file')", HEADLESS),
        ("cv2", "", HEADLESS),  # what is left when one of two packages is uninstalled
    ],
)
def test_the_front_door_and_the_tools_say_what_mends_it(module, line, mends, tmp_path):
    for code in (["-c", FRONT_DOOR], [str(ROOT / "tools/train.py"), "demo"]):
        place = tmp_path / Path(code[0]).name
        place.mkdir()
        *_, last = broken(place, module, line, code).strip().splitlines()
        assert mends in last and last.startswith(("ImportError: ", "error: "))


def test_what_other_packages_versions_do():
    for error in (
        ModuleNotFoundError("No module named 'pkg_resources'"),
        AttributeError("module 'pkgutil' has no attribute 'ImpImporter'"),
    ):
        assert advice(error).endswith("Mend it with: pip install 'setuptools>=71,<81'")
    nms = RuntimeError("operator torchvision::nms does not exist")
    assert "pip install torch torchvision, both from one index" in advice(nms)
    assert "uninstall -y transformers" in advice(TypeError("NoneType takes no arguments"))
    assert advice(ModuleNotFoundError("No module named 'mmcv._ext'")).endswith("mmcv==2.1.0")
    assert advice(ModuleNotFoundError("No module named 'mmcvx'")) is None
    assert advice(ValueError("No module named 'mmcv'")) is None


def test_two_mmcvs_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mmcv", "mmcv_lite"):
        place = tmp_path / f"{name}-2.0.{len(name)}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Name: {name}\nVersion: 2.0.{len(name)}\n")
    with pytest.warns(UserWarning) as told:
        check()
    (told,) = (str(each.message) for each in told)
    assert re.match(r"mmcv 2.0.4 and mmcv-lite 2.0.9 are both installed", told)
    assert "pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite==2.1.0" in told
