"""With VGG_MM_SKIPS, .ci/run's regex of the reasons that may skip a test, other skips fail."""

import os
import re

import pytest

SKIPS = os.environ.get("VGG_MM_SKIPS")


def _fail_if_skipped(report):
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if SKIPS is not None and reason and not re.search(SKIPS, reason):
        report.outcome, report.longrepr = "failed", f"VGG_MM_SKIPS does not allow: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _fail_if_skipped((yield))
