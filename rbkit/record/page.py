"""Turns what a notebook holds, which is hostile, into what a page may hold: nothing runs, nothing is fetched."""

import base64
import binascii
import html
import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mistune
import nh3
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

__all__ = ["Figure", "Row", "data_image", "figure", "markdown", "sanitized", "text", "within"]

MOST_TEXT = 100_000
"""The most characters of one text output that are shown; the notebook holds the rest."""
MOST_HTML = 200_000
"""The most characters of one HTML output that are read; the parser's time grows with the square of its depth."""
_MOST_ROWS = 50
_DEEPEST = 20
_LARGEST = 1e300


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_TAGS = _words("""
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img ins kbd li
    mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul var
""")
_GONE = _words("""
    iframe math noembed noframes noscript object script select style svg template textarea title xmp
""")
_ATTRIBUTES = {
    "a": {"href", "title"}, "abbr": {"title"}, "img": {"alt", "src", "title"}, "ol": {"start"},
    "td": {"colspan", "rowspan", "style"}, "th": {"colspan", "rowspan", "scope", "style"},
}  # fmt: skip
_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_LINK = re.compile(r"(?:https?://|mailto:)[^\s\\]+", re.IGNORECASE)
_IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|[@-Z\\-_])")
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_GLYPH = re.compile(r"^(\s*)([✓✗↩⏸↷◐○]|\?(?= ))", re.MULTILINE)
_COLOURS = {"✓": "good", "✗": "bad", "?": "warn", "⏸": "warn", "↩": "warn"}


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Keep a link to the web and an image that carries its own bytes."""
    if name == "src":
        return value if _IMAGE.fullmatch(value) else None
    if name == "href":
        return value if _LINK.fullmatch(value) else None
    return value


_CLEANER = nh3.Cleaner(
    tags=_TAGS,
    clean_content_tags=_GONE,
    attributes=_ATTRIBUTES,
    attribute_filter=_attribute,
    allowed_classes={"span": {"good", "bad", "warn", "calm"}, "table": {"dataframe"}},
    set_tag_attribute_values={"table": {"tabindex": "0"}, "pre": {"tabindex": "0"}},
    filter_style_properties={"text-align"},
    url_schemes={"data", "http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)
_PLAIN = nh3.Cleaner(tags=set(), attributes={}, clean_content_tags=_GONE)
_LABEL = nh3.Cleaner(tags={"b", "br", "em", "i", "strong", "sub", "sup"}, attributes={}, clean_content_tags=_GONE)


def sanitized(source: str) -> Markup:
    """Make hostile HTML harmless: no script, style sheet, frame, form, handler or remote address is left.

    Args:
        source: HTML of any origin.

    Returns:
        HTML for the page; the keyboard reaches every table and block of code, as they scroll on their own.
    """
    return Markup(_CLEANER.clean(source).replace("<th></th>", "<td></td>"))  # noqa: S704 - nh3 wrote it


def text(source: str) -> Markup:
    """Make a printed text readable: no terminal codes, state glyphs in their colours, the middle of a long one cut.

    Args:
        source: What a cell printed.

    Returns:
        Escaped text for a `<pre>`.
    """
    lines = _ESCAPES.sub("", source).split("\n")
    plain = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return _painted(escape(_shown(within(plain, MOST_TEXT))))


def within(source: str, most: int) -> str:
    """Cut the middle out of a text that is too long, and say how much is missing.

    Args:
        source: The text.
        most: The most characters to keep.
    """
    if len(source) <= most:
        return source
    half = most // 2
    missing = f"… {len(source) - 2 * half:,} characters left out; the notebook holds them …"
    return f"{source[:half]}\n{missing}\n{source[-half:]}"


def _shown(source: str) -> str:
    """Write control and direction characters as their codes, so that they cannot hide or turn a text around."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", source)


def _painted(safe: Markup) -> Markup:
    """Colour the state glyph at the beginning of each line."""
    return Markup(_GLYPH.sub(_span, safe))  # noqa: S704 - the text is escaped, the span is ours


def _span(found: re.Match[str]) -> str:
    return f'{found[1]}<span class="{_COLOURS.get(found[2], "calm")}">{found[2]}</span>'


def data_image(kind: str, data: str) -> str:
    """Turn an image's bytes into an address that needs no request.

    Args:
        kind: Its MIME type.
        data: Its bytes in base64.

    Returns:
        A `data:` address, or an empty text when it is no PNG, JPEG, GIF or WebP.
    """
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (ValueError, binascii.Error):
        return ""
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}" if raw and kind in _IMAGE_TYPES else ""


class _Renderer(mistune.HTMLRenderer):
    """Markdown without HTML, remote images and local files.

    Args:
        attachments: The cell's own images: name → MIME type → base64.
        lower: How many levels the headings are lowered.
    """

    def __init__(self, attachments: Mapping[str, Any], lower: int) -> None:
        super().__init__(escape=True)
        self._attachments, self._lower = attachments, lower

    def text(self, text: str) -> str:
        return _painted(Markup(super().text(_shown(text))))  # noqa: S704 - mistune escaped it

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return super().heading(text, min(6, level + self._lower))

    def image(self, text: str, url: str, title: str | None = None) -> str:
        bundle = self._attachments.get(url.removeprefix("attachment:"), {}) if url.startswith("attachment:") else {}
        found = [data_image(kind, data) for kind, data in _items(bundle) if isinstance(data, str)]
        address = next(filter(None, found), url)
        if not _IMAGE.fullmatch(address):
            return f"[image not in the record: {text or escape(url)}]"
        return super().image(text, address, title)

    def block_code(self, code: str, info: str | None = None) -> str:
        block = super().block_code(code)
        words = "Diagram as text (mermaid)"
        return f"<details><summary>{words}</summary>{block}</details>" if (info or "").strip() == "mermaid" else block


def markdown(source: str, attachments: Any = None, *, lower: int = 1) -> Markup:
    """Render Markdown; HTML in it is shown as text, an image must be attached or carry its own bytes.

    Args:
        source: Markdown of any origin.
        attachments: The cell's attachments: name → MIME type → base64.
        lower: How many levels the headings are lowered below the page's own.

    Returns:
        HTML for the page.
    """
    renderer = _Renderer(dict(_items(attachments)), lower)
    render = mistune.create_markdown(renderer=renderer, plugins=["table", "strikethrough", "url"])
    try:
        return sanitized(str(render(within(source, MOST_TEXT))))
    except RecursionError:
        return Markup("<pre>{}</pre>").format(text(source))


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


@dataclass(frozen=True, slots=True)
class Row:
    """What one series of a chart says in numbers; a dash where it has none."""

    name: str
    last: str
    least: str
    most: str
    points: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart: its data for plotly.js, and the same in numbers for whoever does not see it.

    Args:
        title: Its title, plain text.
        data: JSON for a script block; empty when plotly.js' basic bundle cannot draw it.
        rows: One row per series.
        note: What a reader must know; empty when it is drawn whole.
    """

    title: str
    data: Markup
    rows: list[Row]
    note: str


_TYPES = {"scatter", "bar", "pie"}
_TRACE = _words("""
    type x y x0 dx y0 dy name mode line marker text textposition textinfo texttemplate textfont hovertemplate hoverinfo
    hovertext customdata fill fillcolor opacity orientation xaxis yaxis legendgroup showlegend visible stackgroup
    groupnorm error_x error_y connectgaps labels values hole sort direction base width offset offsetgroup
    alignmentgroup cliponaxis insidetextanchor pull rotation xhoverformat yhoverformat
""")
_LAYOUT = _words("""
    title showlegend legend height hovermode barmode bargap bargroupgap barnorm annotations shapes margin colorway
    separators grid uniformtext piecolorway font
""")
_AXIS = re.compile(r"[xy]axis\d{0,3}")
_NEVER = {"href", "image", "images", "source", "src", "template", "url"}
_FETCHES = re.compile(r"url\s*\(|^\s*(?:data:\w+/|javascript:|vbscript:|file:/|blob:)", re.IGNORECASE)


def figure(content: Any) -> Figure:
    """Read a plotly figure, keeping only what draws and nothing that could run or fetch.

    Args:
        content: The output's JSON, as plotly wrote it.

    Returns:
        The figure; drawable when every series is a line, scatter, bar or pie.
    """
    parts = dict(_items(content))
    traces = [_trace(item) for item in parts.get("data") or [] if isinstance(item, Mapping)]
    layout = _layout(parts.get("layout"))
    title = _title(layout) or "Chart"
    rows = [_row(trace, place) for place, trace in enumerate(traces[:_MOST_ROWS], 1)]
    other = sorted({str(trace["type"])[:40] for trace in traces} - _TYPES)
    data = Markup() if other else htmlsafe_json_dumps({"data": traces, "layout": layout}, allow_nan=False)
    return Figure(title, data, rows, _note(other, len(traces)))


def _note(other: list[str], traces: int) -> str:
    if other:
        return f"A chart of this kind ({', '.join(other)}) is shown in numbers only; JupyterLab draws it."
    return f"The table holds {_MOST_ROWS} of {traces} series." if traces > _MOST_ROWS else ""


def _trace(raw: Mapping[str, Any]) -> dict[str, Any]:
    trace = {key: _harmless(value) for key, value in raw.items() if key in _TRACE}
    trace["type"] = {"scattergl": "scatter"}.get(str(raw.get("type", "scatter")), str(raw.get("type", "scatter")))
    return trace


def _layout(raw: Any) -> dict[str, Any]:
    layout = {key: _harmless(value) for key, value in _items(raw) if key in _LAYOUT or _AXIS.fullmatch(key)}
    height = layout.get("height")
    layout["height"] = min(800, max(200, height)) if isinstance(height, int | float) else 360
    return layout


def _title(layout: Mapping[str, Any]) -> str:
    title = layout.get("title")
    found = title.get("text") if isinstance(title, Mapping) else title
    return _plain(found)


def _plain(value: Any) -> str:
    """Take the markup out of a label."""
    return _shown(html.unescape(_PLAIN.clean(str(value)))).strip()[:200] if value not in (None, "") else ""


def _harmless(value: Any, depth: int = 0) -> Any:
    """Copy a part of a figure: finite numbers, labels without links, no key that names a source."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {str(key): _harmless(item, depth + 1) for key, item in value.items() if str(key).lower() not in _NEVER}
    if isinstance(value, list):
        return [_harmless(item, depth + 1) for item in value]
    return _label(value) if isinstance(value, str) else _finite(value)


def _label(value: str) -> str:
    """Keep line breaks and emphasis of a label; drop one that could fetch."""
    if _FETCHES.search(html.unescape(value)):
        return ""
    return _LABEL.clean(value) if "<" in value and ">" in value else value


def _finite(value: Any) -> Any:
    """Leave out NaN, infinity and numbers that a browser cannot hold."""
    return value if not isinstance(value, int | float) or -_LARGEST < value < _LARGEST else None


def _row(trace: Mapping[str, Any], place: int) -> Row:
    pie = trace["type"] == "pie"
    found = trace.get("values") if pie else trace.get("x" if trace.get("orientation") == "h" else "y")
    values = _values(found)
    numbers = [item for item in values if isinstance(item, int | float) and math.isfinite(item)]
    name = _plain(trace.get("name")) or f"series {place}"
    least, most = (_number(min(numbers)), _number(max(numbers))) if numbers else ("–", "–")
    return Row(name, _last(values), least, most, len(values))


def _last(values: list[Any]) -> str:
    value = next((item for item in reversed(values) if item is not None), None)
    return "–" if value is None else _number(value) if isinstance(value, int | float) else _plain(value)


def _number(value: float) -> str:
    return f"{value:,.6g}"


_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}


def _values(found: Any) -> list[Any]:
    """Read a series; plotly writes numpy's arrays as bytes in base64."""
    if isinstance(found, list):
        return found
    packed = dict(_items(found))
    try:
        return array(_CODES[str(packed["dtype"])], base64.b64decode(str(packed["bdata"]))).tolist()
    except (KeyError, ValueError):
        return []
