"""How soon a command says what is wrong with its arguments."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What is typed, and what it says.
WRONG = {
    "train nothing": "no config nothing: give a file",
    "train demo --resume no.pth": "no checkpoint no.pth.",
    "train demo --resume no.pth --start-from no.pth": "a run goes on from --resume CHECKPOINT, or",
    "train demo --start-from no.pth": "no file no.pth.",
    "train demo --init-from-a no.pth": "no file no.pth.",
    "test demo no.pth": "no checkpoint no.pth.",
    "predict demo no.pth .": "no checkpoint no.pth.",
    "predict demo no.pth nothing.jpg": "no image or folder nothing.jpg.",
    "score_map demo no.pth image.png": "no checkpoint no.pth.",
    "extract_features demo no.pth . --out f.npz": "no checkpoint no.pth.",
    "export demo no.pth net.onnx --to onnx": "no checkpoint no.pth.",
    "describe nothing": "no config nothing: give a file",
    "describe demo --size 1 2 3": "--size takes a height and a width, not 3 numbers.",
    "describe empty.py": "empty.py has no model to describe.",
}
# Types each line of stdin in this process, and tells what it says and whether it needed torch.
TYPED = """
import json, sys
from vgg_mm.cli.commands import main
told = {}
for line in sys.stdin.read().splitlines():
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as ended:
        told[line] = [str(ended.code), "torch" in sys.modules]
print(json.dumps(told))
"""


def test_wrong_arguments_are_told_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "image.png").touch()
    (tmp_path / "empty.py").touch()
    lines = sorted(WRONG, key="describe empty.py".__eq__)  # it is looked at as a config is
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", TYPED],
        input="\n".join(lines),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    assert told.keys() == WRONG.keys()
    for line, (says, torch) in told.items():
        assert says.startswith(f"error: {WRONG[line]}"), line
        assert not torch or line == "describe empty.py", line
    assert done.stderr == ""
    # Of the processor, with torch once: 4 s where nothing else runs.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
