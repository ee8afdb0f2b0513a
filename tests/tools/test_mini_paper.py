"""docs/mini-paper: a run of reproduce.py, whose figures come from the scores beside it.

Copied from work_dirs/mini are report/, settings.json, choose.json, and each run's scores/ and
ablations/.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tools.reproduce import report
from tools.reproduce.plan import Run
from tools.reproduce.results import Results
from tools.reproduce.scales import SCALES
from vgg_mm.paper import TABLE_3
from vgg_mm.testing.scores import file_sha256

FOLDER = Path(__file__).parents[2] / "docs/mini-paper"
SCALE = SCALES["mini"]


@pytest.fixture(scope="module")
def results():
    runs = [Run(None, FOLDER)]
    for folder in sorted(FOLDER.glob("fold*_seed*")):
        fold, seed = map(int, re.findall(r"\d+", folder.name))
        runs.append(Run(None, folder, fold, seed))
    return Results(SCALE, runs)


@pytest.fixture(scope="module")
def text():
    return (FOLDER / "report.md").read_text()


def test_tables_and_verdicts_are_those_of_the_scores(results, text):
    for block in (*report.claims(results), *report.tables(results)):
        assert block in text


def test_every_file_of_scores_is_named_with_its_hash(text):
    files = [*FOLDER.rglob("*.npz")]
    assert len(files) % 14 == 0 and files  # 12 models and 2 ablations, as often as all was trained
    for file in files:
        assert f"{file.relative_to(FOLDER)} | {file_sha256(file)}" in text


def test_the_settings_are_those_of_the_scale():
    saved = json.loads((FOLDER / "settings.json").read_text())
    ours = asdict(replace(SCALE, chosen=""))
    assert {key: saved[key] for key in ours} == ours


def test_every_net_learnt(results):
    errors = {(row.arch, row.S): results.errors(row)[0] for row in TABLE_3}
    assert len(errors) == 12 and max(errors.values()) <= 62.5  # chance is 87.5
    assert errors["A", 256] < 50


def test_no_weights_are_kept():
    assert {file.suffix for file in FOLDER.rglob("*.*") if file.is_file()} == {
        *(".md", ".html", ".png", ".json", ".npz")
    }
