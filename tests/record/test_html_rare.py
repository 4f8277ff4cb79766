"""Rare outputs of cells in the HTML page."""

from typing import Any

import mistune
import pytest

from rbkit.record.html import export_html
from rbkit.record.page import markdown


def page(data: dict[str, Any]) -> str:
    """Export a notebook with one output."""
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1", "outputs": [output], "execution_count": 1}
    return export_html({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, "r")


def test_markdown_output():
    """Markdown that a cell shows is rendered, and what is hostile in it is not."""
    text = page({"text/markdown": "**bold** <script>alert(1)</script>"})
    assert "<strong>bold</strong>" in text
    assert "<script>alert" not in text


def test_json_output():
    """JSON that a cell shows is shown as text."""
    assert "&#34;a&#34;: 1" in page({"application/json": {"a": 1}})


def test_deep_markdown(monkeypatch: pytest.MonkeyPatch):
    """Markdown that nests too deeply to be rendered is shown as it was written."""

    def too_deep(**options: Any) -> Any:
        def render(source: str) -> str:
            raise RecursionError

        return render

    monkeypatch.setattr(mistune, "create_markdown", too_deep)
    assert markdown("**a**") == "<pre>**a**</pre>"


def test_deep_figure():
    """A figure that nests too deeply is cut, not refused."""
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    trace = {"type": "scatter", "x": [1], "y": [2], "customdata": deep}
    text = page({"application/vnd.plotly.v1+json": {"data": [trace], "layout": {}}})
    assert '"scatter"' in text
    assert "[" * 60 not in text
