"""What guards main: .ci/run, with stubs of what it calls, and the rule about skipped tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REAL = ("bash", "dirname", "mktemp", "rm", "mkdir", "touch", "chmod")


@pytest.fixture
def ci(tmp_path):
    """Runs .ci/run in a clone, as root or not; returns its output and what it called."""
    commands, clone = tmp_path / "bin", tmp_path / "clone"
    commands.mkdir()
    (clone / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", clone / ".ci")
    hosts = clone / "tools/benchmarks/hosts.sh"
    hosts.parent.mkdir(parents=True)
    hosts.write_text('#!/bin/bash\n[ "$(id -u)" = 0 ]\n')
    hosts.chmod(0o755)
    for name in REAL:
        (commands / name).symlink_to(shutil.which(name))

    def stub(name, does=""):
        path = commands / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{tmp_path}/calls"\n{does}\n')
        path.chmod(0o755)

    for name in ("pip", "ruff", "mypy", "mkdocs"):
        stub(name)
    stub("pytest", f'echo "skips $VGG_MM_SKIPS" >>"{tmp_path}/calls"')
    stub("python", 'mkdir -p "$3/bin" && touch "$3/bin/activate"')

    def call(user, **environment):
        stub("id", f"echo {user}")
        env = dict(PATH=str(commands), PYTHON="python", **environment)
        done = subprocess.run(
            ["bash", clone / ".ci/run"], env=env, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), (tmp_path / "calls").read_text()

    call.stub = stub
    return call


def test_ci_installs_what_its_tests_need_and_runs_all(ci, tmp_path):
    (tmp_path / "shared/wheels").mkdir(parents=True)
    programs = " ".join(f"{tmp_path}/bin/{name}" for name in ("jpegtran", "chromium"))
    # It knows its packages from the update on.
    ci.stub(
        "apt-get",
        f"""updated="{tmp_path}/updated"
        [[ $* == *update ]] && touch "$updated" && exit
        [ -e "$updated" ] && touch {programs} && chmod +x {programs}""",
    )
    out, calls = ci(user=0)
    assert out == []
    assert "install --no-install-recommends libjpeg-turbo-progs chromium iproute2" in calls
    assert "skips --amp works here|No module named '(nvidia|spdl|simplejpeg)\n" in calls
    assert "--find-links ../shared/wheels" in calls
    order = [
        "pytest -m not downstream\n",
        "pytest tests/extras tests/app",
        "mkdocs build --quiet --strict",
    ]
    order += ["pytest tests/site", "pytest -m downstream tests/"]
    assert [calls.index(each) for each in order] == sorted(calls.index(each) for each in order)


def test_ci_says_in_its_last_lines_what_it_leaves_out(ci):
    out, calls = ci(user=1000)
    assert len(out) == 8 and out[:4] == out[4:] and "apt-get" not in calls
    for line, what in zip(out, ("jpegtran", "Chromium", "two hosts", "downstream"), strict=False):
        assert line.startswith("WARNING: ") and what in line and "left out" in line
    assert "simplejpeg)|jpegtran|no Chromium|network namespaces\n" in calls
    assert "pytest -m downstream" not in calls


def test_ci_names_a_folder_of_wheels(ci):
    _, calls = ci(user=1000, MMCV_WHEELS="/elsewhere")
    assert "--find-links /elsewhere" in calls and "pytest -m downstream tests/" in calls


@pytest.mark.parametrize(("skips", "outcome"), [(None, 0), ("no .pple|no pear", 0), ("no pear", 1)])
def test_a_skip_fails_where_its_reason_is_not_allowed(skips, outcome, tmp_path):
    (tmp_path / "test_x.py").write_text("import pytest\ndef test_x(): pytest.skip('no apple')\n")
    env = {key: value for key, value in os.environ.items() if key != "VGG_MM_SKIPS"}
    env |= {"PYTHONPATH": str(ROOT / "tests")} | ({} if skips is None else {"VGG_MM_SKIPS": skips})
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "skips"]
    command += ["-c", os.devnull, "test_x.py"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == outcome, done.stdout
    assert ("VGG_MM_SKIPS does not allow: Skipped: no apple" in done.stdout) == outcome
