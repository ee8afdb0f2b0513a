"""The command that serves a page; the page itself is tested in tests/app."""

import sys

import pytest


def test_a_net_without_weights(mistake):
    says = mistake("app", "D")
    assert says == (
        "error: D is no checkpoint, folder or address; of a config or a net of Table 1 say its "
        "--weights."
    )


def test_without_gradio(mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert mistake("app") == "error: the page needs gradio: pip install 'vgg_mm[app]'."


def test_the_port_is_a_number(tool):
    with pytest.raises(SystemExit):
        tool("app", "--port", "web")
