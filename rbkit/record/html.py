"""The record as one HTML page: read-only, opens offline, fetches nothing, runs nothing of the notebook's."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rbkit.errors import RefusedInput
from rbkit.record.document import SUMMARY_TAG
from rbkit.record.page import MOST_HTML, data_image, figure, markdown, sanitized, text
from rbkit.values import valid_run_id

__all__ = ["export_html"]

_HERE = Path(__file__).parent
_PLOTLY = "application/vnd.plotly.v1+json"
_NAMED = ("parameters", "contract", "precondition", "diagnose", "decide", "step", "postcondition", "close")
_MOST_SUMMARY = 100
_TALL = 40
"""Lines above which a text scrolls in a box of its own."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """One output as the page shows it: what kind, its safe content, and what it is called."""

    kind: Literal["text", "error", "html", "image", "figure", "note"]
    body: Any
    name: str = ""

    @property
    def tall(self) -> bool:
        """Whether it is so long that it scrolls in a box of its own."""
        return str(self.body).count("\n") > _TALL


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as the page shows it.

    Args:
        number: Its place in the notebook, from 1.
        kind: code, markdown or raw.
        body: Rendered Markdown, or the escaped source.
        outputs: What it put out.
        state: done, failed or pending; empty for a cell that does not run.
        part: Which part of the runbook it is, from its tag.
        line: What a folded code cell is called.
    """

    number: int
    kind: str
    body: Markup
    outputs: list[Output]
    state: str = ""
    part: str = ""
    line: str = ""


def export_html(notebook: dict[str, Any], title: str) -> str:
    """Turn an executed notebook into one page that needs nothing else.

    Args:
        notebook: An nbformat 4 notebook as JSON; it is not changed and not trusted.
        title: The page's title, plain text.

    Returns:
        HTML: the closing summary first, then every cell in order, code folded; charts are live and have a table.

    Raises:
        RefusedInput: It is no notebook.
    """
    copy = _copied({"notebook": notebook, "title": title})
    cells = _raw_cells(copy["notebook"])
    last = cells[-1] if cells and SUMMARY_TAG in _tags(cells[-1]) and cells[-1].get("cell_type") == "markdown" else {}
    closing = _source(last)
    shown = [_cell(number, raw, closing) for number, raw in enumerate(cells, 1) if raw is not last and not _blank(raw)]
    summary = markdown(closing, last.get("attachments"), lower=0)
    return _page(copy["title"], summary, shown, _run_id(copy["notebook"]))


def _copied(value: Json) -> Json:
    """Copy JSON so that every text in it can be written as UTF-8."""
    try:
        copy: Json = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedInput(f"This is no notebook as JSON: {error}.", todo="Give an executed notebook.") from error
    return copy


def _raw_cells(notebook: Any) -> list[Json]:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise RefusedInput("This is no notebook: it has no list of cells.", todo="Give an nbformat 4 notebook.")
    return cells


def _page(title: str, summary: Markup, cells: list[Cell], run: str) -> str:
    drawn = any(output.kind == "figure" and output.body.data for cell in cells for output in cell.outputs)
    scripts = [_asset("plotly-basic.min.js"), _asset("charts.js")] if drawn else []
    page: str = _template().render(
        title=title, summary=summary, cells=cells, run=run, scripts=scripts, policy=_policy(scripts),
        style=_asset("record.css"), license=_asset("plotly-LICENSE.txt"),
        states={"done": "✓", "failed": "✗", "pending": "○"},
        counts=[(state, [c.number for c in cells if c.state == state]) for state in ("failed", "done", "pending")],
    )  # fmt: skip
    return page


def _policy(scripts: list[Markup]) -> Markup:
    """Allow the page's own scripts by their digests, and nothing else."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rest = "style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"
    return Markup(f"default-src 'none'; script-src {allowed}; {rest}")  # noqa: S704 - words and digests of ours


@cache
def _asset(name: str) -> Markup:
    return Markup((_HERE / "static" / name).read_text("utf-8"))  # noqa: S704 - a file of ours


@cache
def _template() -> Any:
    loader = FileSystemLoader(_HERE / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True).get_template("record.html.j2")  # fmt: skip


def _run_id(notebook: Json) -> str:
    """Read the run's id from the record's header, if it has the form of one."""
    header = _mapping(_mapping(notebook.get("metadata")).get("rbkit"))
    run = str(header.get("run", ""))
    return run if valid_run_id(run) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Join what nbformat may write as lines."""
    if isinstance(value, list):
        return "".join(str(line) for line in value)
    return "" if value is None else str(value)


def _source(raw: Mapping[str, Any]) -> str:
    return _text(raw.get("source"))


def _tags(raw: Mapping[str, Any]) -> list[str]:
    tags = _mapping(raw.get("metadata")).get("tags")
    return [str(tag) for tag in tags] if isinstance(tags, list) else []


def _blank(raw: Mapping[str, Any]) -> bool:
    """Tell whether there is nothing to show; papermill's own error banners are replaced by the page's links."""
    return not (_source(raw).strip() or raw.get("outputs")) or "papermill-error-cell-tag" in _tags(raw)


def _cell(number: int, raw: Json, closing: str) -> Cell:
    source, kind = _source(raw), raw.get("cell_type")
    if kind == "markdown":
        return Cell(number, "markdown", markdown(source, raw.get("attachments")), [])
    if kind != "code":
        return Cell(number, "raw", text(source), [])
    outputs = list(_outputs(raw.get("outputs"), closing))
    return Cell(number, "code", text(source), outputs, _state(raw, outputs), _part(raw), _line(source))


def _state(raw: Json, outputs: list[Output]) -> str:
    """Say what the cell's own traces tell; papermill's status is not to be trusted."""
    if any(output.kind == "error" for output in outputs):
        return "failed"
    return "pending" if raw.get("execution_count") is None else "done"


def _part(raw: Json) -> str:
    tags = _tags(raw)
    return "given parameters" if "injected-parameters" in tags else next((tag for tag in tags if tag in _NAMED), "")


def _line(source: str) -> str:
    """Name a folded cell by its first comment or definition, else by its first line."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    told = (line for line in lines if line.startswith(("#", "def ", "async def ", "class ")))
    line = next(told, lines[0] if lines else "no code").lstrip("# ").removesuffix(":")
    return line if len(line) <= _MOST_SUMMARY else line[: _MOST_SUMMARY - 1] + "…"


def _outputs(raw: Any, closing: str) -> Iterator[Output]:
    """Show the outputs of a cell; a stream that came in pieces is one text."""
    items = [item for item in raw if isinstance(item, dict)] if isinstance(raw, list) else []
    for stream, group in groupby(items, lambda item: item.get("output_type") == "stream" and item.get("name")):
        if stream:
            body = text("".join(_text(item.get("text")) for item in group))
            yield Output("text", body, "Standard error" if stream == "stderr" else "")
        else:
            yield from (found for item in group if (found := _output(item, closing)))


def _output(raw: Json, closing: str) -> Output | None:
    if raw.get("output_type") == "error":
        name, trace = f"{_text(raw.get('ename'))}: {_text(raw.get('evalue'))}", raw.get("traceback")
        lines = "\n".join(_text(line) for line in trace) if isinstance(trace, list) else ""
        return Output("error", text(lines or name), text(_text(raw.get("ename"))))
    data = _mapping(raw.get("data"))
    if _text(data.get("text/markdown")) == closing != "":
        return Output("note", "The closing summary stands at the top of this page.")
    return next(filter(None, (read(kind, data[kind]) for kind, read in _READERS.items() if kind in data)), _left(data))


def _left(data: Mapping[str, Any]) -> Output | None:
    """Say that an output is not shown; a scrap is data for other programs."""
    kinds = sorted(kind for kind in data if not kind.startswith("application/scrapbook."))
    return Output("note", f"Not shown here: an output of kind {', '.join(kinds)[:200]}.") if kinds else None


def _chart(kind: str, content: Any) -> Output:
    return Output("figure", figure(content))


def _image(kind: str, content: Any) -> Output | None:
    address = data_image(kind, _text(content))
    return Output("image", address) if address else None


def _html(kind: str, content: Any) -> Output | None:
    source = _text(content)
    safe = sanitized(source) if len(source) <= MOST_HTML else Markup()
    return Output("html", safe) if safe.striptags().strip() or "<img" in safe else None


def _markdown(kind: str, content: Any) -> Output:
    return Output("html", markdown(_text(content)))


def _json(kind: str, content: Any) -> Output:
    return Output("text", text(json.dumps(content, indent=2, ensure_ascii=False)))


def _plain(kind: str, content: Any) -> Output:
    return Output("text", text(_text(content)))


_READERS: dict[str, Callable[[str, Any], Output | None]] = {
    _PLOTLY: _chart,
    "image/png": _image,
    "image/jpeg": _image,
    "image/gif": _image,
    "image/webp": _image,
    "text/html": _html,
    "text/markdown": _markdown,
    "application/json": _json,
    "text/plain": _plain,
}
