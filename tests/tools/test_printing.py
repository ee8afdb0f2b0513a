"""Tables as the tools print them."""

import pytest

from tools.printing import as_markdown, as_text

ROWS = [
    ["net", "[error]\n(%)", "note"],
    ["A", "9.5", "[red]x[/red] :smile:"],
    ["猫", "10.25", "a|b"],
    ["all", "1\n[0; 2]", ""],
]


def test_words_begin_at_the_left_and_numbers_end_at_the_right():
    assert as_text(ROWS, words=(0, 2)).splitlines() == [
        "     [error]",
        "net      (%)  note",
        "A        9.5  [red]x[/red] :smile:",
        "猫     10.25  a|b",  # its character is two columns wide
        "all        1",
        "      [0; 2]",
    ]


def test_no_line_is_folded_or_cut():
    long = "word " * 100 + "end"
    assert as_text([["", ""], ["a", long]]).endswith(long)


def test_the_header_is_bold_on_a_terminal_alone(monkeypatch):
    assert "\033" not in as_text(ROWS)
    monkeypatch.setenv("FORCE_COLOR", "1")
    header, *lines = as_text([["net"], ["A"]]).splitlines()
    assert header == "\033[1mnet\033[0m" and lines == ["A"]


@pytest.mark.parametrize("cell, shown", [("a|b", r"a\|b"), ("1\n[0; 2]", "1<br>[0; 2]")])
def test_markdown(cell, shown):
    assert as_markdown([["net", "x"], ["A", cell]]).splitlines() == [
        "| net | x |",
        "| --- | --- |",
        f"| A | {shown} |",
    ]
