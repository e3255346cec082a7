"""A report as one self-contained HTML file: text, tables, plots and videos, with nothing to fetch and no script to
run.

    report = Report("Ten tasks", "drawn from 1,000 unseen starts")
    report.add_table(["task", "success"], [["drawer-close", Interval(0.96, 0.90, 0.98)]])
    report.add_video("videos/drawer-close.mp4", "what it imagined, and what happened", tag="success")
    report.save("report.html")

Plots are drawn as SVG here rather than by matplotlib: they take the page's fonts and colours, follow a dark theme, and
stay sharp. A matplotlib figure can still be put in with `add_figure`. Videos must be H.264 in yuv420p, which every
browser plays.
"""

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import atomic_write_text


class Interval(NamedTuple):
    """A rate with its confidence interval, all in 0..1; tables show it as percent with a small bar."""

    rate: float
    low: float
    high: float


class Report:
    """Gathers the parts of a page in the order in which they are added. All text given is escaped.

    Args:
        title: The page's heading.
        subtitle: One or two sentences below it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts: list[str] = []
        self._videos: list[str] = []  # neighbours go into one grid
        intro = f'<p class="lead">{html.escape(subtitle)}</p>' if subtitle else ""
        self._header = f"<header><h1>{html.escape(title)}</h1>{intro}</header>"

    def add_section(self, title: str, text: str = "") -> None:
        """A heading, and a paragraph below it."""
        self._add(f"<h2>{html.escape(title)}</h2>")
        if text:
            self.add_text(text)

    def add_text(self, text: str) -> None:
        """A paragraph; words between `backticks` are set as code."""
        pieces = html.escape(text).split("`")
        marked = "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
        self._add(f"<p>{marked}</p>")

    def add_code(self, text: str) -> None:
        """Commands to type, as they are."""
        self._add(f"<pre>{html.escape(text)}</pre>")

    def add_numbers(self, numbers: Iterable[tuple[str, str]]) -> None:
        """The few figures to see first: pairs (figure, what it is)."""
        cards = "".join(
            f'<div class="card"><strong>{html.escape(figure)}</strong><span>{html.escape(name)}</span></div>'
            for figure, name in numbers
        )
        self._add(f'<div class="cards">{cards}</div>')

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Names and values, small: where the results come from."""
        rows = "".join(
            f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
        )
        self._add(f"<dl>{rows}</dl>")

    def add_table(self, headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """A table; numbers are set to the right, an `Interval` as percent with a bar, None as a dash.

        Args:
            headers: Names of the columns.
            rows: One sequence of cells per row, as long as `headers`.
            caption: A line below the table.
        """
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in headers)
        body = []
        for row in rows:
            if len(row) != len(headers):
                raise InputError(f"a table row has {len(row)} cells but there are {len(headers)} columns: {row!r}")
            body.append("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>")
        note = f'<p class="note">{html.escape(caption)}</p>' if caption else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        self._add(f'<div class="wide">{table}</div>{note}')

    def add_bars(
        self,
        labels: Sequence[str],
        series: Mapping[str, Sequence[Interval]],
        marks: Mapping[str, Sequence[float]] | None = None,
        caption: str = "",
    ) -> None:
        """Success rates as lying bars with their intervals, one group of bars per label.

        Args:
            labels: What each group is, e.g. the tasks.
            series: Name of a policy -> one `Interval` per label.
            marks: Name of a reference -> one rate per label, drawn as a tick across the bars (e.g. the scripted
                expert).
            caption: A line below the plot.
        """
        self._add(_figure(_bars_svg(labels, series, marks or {}), caption))

    def add_lines(
        self,
        series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        x_label: str,
        y_label: str,
        log_y: bool = False,
        caption: str = "",
    ) -> None:
        """Curves, e.g. of a training run.

        Args:
            series: Name -> (x values, y values), equally long. Values that are not finite are left out.
            x_label: What x is, with its unit.
            y_label: What y is, with its unit.
            log_y: Logarithmic y; values of 0 and below are left out.
            caption: A line below the plot.
        """
        self._add(_figure(_lines_svg(series, x_label, y_label, log_y), caption))

    def add_figure(self, figure: Any, caption: str = "") -> None:
        """A picture: a matplotlib figure, SVG text, or PNG as bytes or the path of a file.

        Raises:
            InputError: It is none of these.
        """
        if hasattr(figure, "savefig"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight")
            figure = buffer.getvalue()
        if isinstance(figure, str) and figure.lstrip().startswith("<svg"):
            picture = figure
        else:
            if isinstance(figure, str | os.PathLike):
                figure = _read(figure)
            if not isinstance(figure, bytes) or not figure.startswith(b"\x89PNG"):
                raise InputError("a figure must be a matplotlib figure, SVG text, PNG bytes or the path of a PNG file")
            picture = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{_base64(figure)}">'
        self._add(_figure(picture, caption))

    def add_video(self, video: str | os.PathLike | bytes, caption: str = "", tag: str = "") -> None:
        """A silent looping video; several in a row form a grid.

        Args:
            video: An MP4 (H.264, yuv420p) as a path or as bytes.
            caption: What it shows.
            tag: A word before the caption; "success" and "failure" are coloured.
        """
        data = video if isinstance(video, bytes) else _read(video)
        if data[4:8] != b"ftyp":
            raise InputError(f"{video if not isinstance(video, bytes) else 'the bytes given'}: not an MP4 file")
        label = f'<b class="tag {html.escape(tag)}">{html.escape(tag)}</b> ' if tag else ""
        self._videos.append(
            f'<figure><video autoplay loop muted playsinline src="data:video/mp4;base64,{_base64(data)}">'
            f"</video><figcaption>{label}{html.escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole page."""
        self._close_grid()
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join([self._header, *self._parts])
            + "\n</main>\n</body>\n</html>\n"
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the page, whole or not at all, and returns its path."""
        atomic_write_text(path, self.html())
        return Path(path)

    def _add(self, part: str) -> None:
        self._close_grid()
        self._parts.append(part)

    def _close_grid(self) -> None:
        if self._videos:
            self._parts.append(f'<div class="grid">{"".join(self._videos)}</div>')
            self._videos = []


def _read(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read for the report ({error.strerror})") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _figure(picture: str, caption: str) -> str:
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="plot">{picture}{note}</figure>'


def _cell(value: Any) -> str:
    if value is None:
        return '<td class="number">–</td>'
    if isinstance(value, Interval):
        bar = (
            f'<span class="meter"><i style="left:{100 * value.low:.1f}%;'
            f'width:{100 * (value.high - value.low):.1f}%"></i>'
            f'<u style="left:{100 * value.rate:.1f}%"></u></span>'
        )
        text = f"{100 * value.rate:.0f} % <small>[{100 * value.low:.0f}, {100 * value.high:.0f}]</small>"
        return f'<td class="rate">{bar}<span>{text}</span></td>'
    if isinstance(value, float):
        return f'<td class="number">{value:.1f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{html.escape(str(value))}</td>"


# Plots -------------------------------------------------------------------------------------------------

WIDTH = 760  # of every plot, in SVG units; the page scales it


def _bars_svg(
    labels: Sequence[str], series: Mapping[str, Sequence[Interval]], marks: Mapping[str, Sequence[float]]
) -> str:
    for name, values in [*series.items(), *marks.items()]:
        if len(values) != len(labels):
            raise InputError(f"the bars of {name!r} are {len(values)} but there are {len(labels)} labels")
    left = 24 + 7 * max((len(label) for label in labels), default=0)  # 7 units: a character at 13 px
    right, thickness = 30, 16 if len(series) == 1 else 11
    group = len(series) * (thickness + 2) + 10
    names = [*series, *marks]
    top = 34 if len(names) > 1 else 8
    bottom = top + group * len(labels)

    def x(rate: float) -> float:
        return left + rate * (WIDTH - left - right)

    out = []
    for tick in (0, 25, 50, 75, 100):
        out.append(
            f'<line class="grid-line" x1="{x(tick / 100):.1f}" x2="{x(tick / 100):.1f}" y1="{top}" y2="{bottom}"/>'
        )
        out.append(
            f'<text class="tick" text-anchor="middle" x="{x(tick / 100):.1f}" y="{bottom + 17}">{tick} %</text>'
        )
    for row, label in enumerate(labels):
        y0 = top + row * group + 5
        middle = y0 + len(series) * (thickness + 2) / 2
        out.append(f'<text text-anchor="end" x="{left - 10}" y="{middle + 4:.1f}">{html.escape(label)}</text>')
        for index, values in enumerate(series.values()):
            rate, low, high = values[row]
            y = y0 + index * (thickness + 2)
            centre = y + thickness / 2
            out.append(
                f'<rect class="fill-{index % COLOURS}" x="{x(0):.1f}" y="{y}" width="{x(rate) - x(0):.1f}" '
                f'height="{thickness}" rx="2">'
                f"<title>{100 * rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]</title></rect>"
                f'<path class="whisker" d="M{x(low):.1f} {centre}H{x(high):.1f}M{x(low):.1f} {centre - 4}v8'
                f'M{x(high):.1f} {centre - 4}v8"/>'
            )
        for values in marks.values():
            out.append(f'<path class="mark" d="M{x(values[row]):.1f} {y0 - 2}v{len(series) * (thickness + 2) + 2}"/>')
    if len(names) > 1:
        out.append(_legend(list(series), list(marks), left))
    return _svg(bottom + 26, out)


def _lines_svg(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, log_y: bool
) -> str:
    curves = {}
    for name, (xs, ys) in series.items():
        if len(xs) != len(ys):
            raise InputError(f"the curve {name!r} has {len(xs)} x values and {len(ys)} y values")
        points = [(float(a), float(b)) for a, b in zip(xs, ys) if math.isfinite(a) and math.isfinite(b)]
        curves[name] = [(a, math.log10(b)) for a, b in points if b > 0] if log_y else points
    every = [point for points in curves.values() for point in points]
    if not every:
        raise InputError(f"no curve of {y_label!r} has a finite value to draw")
    x_low, x_high = min(a for a, _ in every), max(a for a, _ in every)
    y_low, y_high = min(b for _, b in every), max(b for _, b in every)
    x_ticks, y_ticks = _ticks(x_low, x_high), (_log_ticks if log_y else _ticks)(y_low, y_high)
    x_low, x_high = min(x_low, x_ticks[0]), max(x_high, x_ticks[-1])
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])
    left, right, top, bottom = 66, 16, 34 if len(curves) > 1 else 12, 290

    def at(a: float, b: float) -> tuple[float, float]:
        return (
            left + (a - x_low) / ((x_high - x_low) or 1) * (WIDTH - left - right),
            bottom - (b - y_low) / ((y_high - y_low) or 1) * (bottom - top),
        )

    out = []
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        value = 10**tick if log_y else tick
        out.append(f'<line class="grid-line" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y + 4:.1f}">{value:.3g}</text>')
    for tick in x_ticks:
        x = at(tick, y_low)[0]
        out.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 18}">{tick:,.6g}</text>')
    middle = (left + WIDTH - right) / 2
    out.append(f'<text class="tick" text-anchor="middle" x="{middle}" y="{bottom + 38}">{html.escape(x_label)}</text>')
    out.append(
        f'<text class="tick" text-anchor="middle" transform="translate(14 {(top + bottom) / 2}) rotate(-90)">'
        f"{html.escape(y_label)}</text>"
    )
    for index, points in enumerate(curves.values()):
        # A curve of 100,000 steps would make a page of megabytes; 400 points are all that the width can show.
        step = max(1, math.ceil(len(points) / 400))
        path = "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in [*points[:-1:step], *points[-1:]])
        if path:
            out.append(f'<path class="curve line-{index % COLOURS}" d="M{path}"/>')
    if len(curves) > 1:
        out.append(_legend(list(curves), [], left))
    return _svg(bottom + 46, out)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that lie around low..high."""
    if high <= low:
        return [low]
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = min((step * power for step in (1, 2, 2.5, 5, 10)), key=lambda step: abs(step - raw))
    first = math.floor(low / step + 1e-9)
    return [round(step * i, 12) for i in range(first, math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of round numbers around low..high: 1, 2, 5 times powers of ten; powers alone over many decades."""
    digits = (1, 2, 5) if high - low < 3 else (1,)
    values = [
        math.log10(digit) + power for power in range(math.floor(low) - 1, math.ceil(high) + 2) for digit in digits
    ]
    first = max(index for index, value in enumerate(values) if value <= low + 1e-9)
    last = min(index for index, value in enumerate(values) if value >= high - 1e-9)
    return values[first : last + 1]


def _legend(names: Sequence[str], marks: Sequence[str], left: float) -> str:
    out, x = [], left
    for index, name in enumerate(names):
        out.append(f'<rect class="fill-{index % COLOURS}" x="{x}" y="8" width="12" height="12" rx="2"/>')
        out.append(f'<text x="{x + 18}" y="18">{html.escape(name)}</text>')
        x += 40 + 7 * len(name)
    for name in marks:
        out.append(f'<path class="mark" d="M{x + 5} 7v14"/><text x="{x + 14}" y="18">{html.escape(name)}</text>')
        x += 36 + 7 * len(name)
    return "".join(out)


def _svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


COLOURS = 5  # .fill-0 … .fill-4 below
STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --ink: #1d2127; --soft: #667080; --line: #e2e5ea;
  --c0: #2f6fdb; --c1: #e08a1e; --c2: #8a94a3; --c3: #2a9d6f; --c4: #a155b9; --good: #1f8a5b; --bad: #c2433a; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --card: #1c2027; --ink: #e7eaef; --soft: #98a2b3;
  --line: #2d333d; --c0: #6aa0ff; --c1: #f0ad4e; --c2: #7d8796; --c3: #4cc38a; --c4: #c98adf; --good: #4cc38a;
  --bad: #ef7a70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 48px 0 10px; letter-spacing: -0.005em; }
p { margin: 0 0 14px; max-width: 72ch; }
.lead { color: var(--soft); font-size: 18px; }
.note, figcaption { color: var(--soft); font-size: 14px; }
code, pre { font: 13.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { background: var(--line); border-radius: 4px; padding: 1px 5px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px;
  overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 26px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 20px;
  min-width: 150px; flex: 1; }
.card strong { display: block; font-size: 27px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: 14px; margin: 14px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums;
  margin: 8px 0 6px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13.5px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.number { text-align: left; }
.rate span:last-child { display: inline-block; min-width: 7em; }
.rate small { color: var(--soft); }
.meter { position: relative; display: inline-block; width: 92px; height: 10px; border-radius: 5px; margin-right: 12px;
  background: var(--line); overflow: hidden; }
.meter i { position: absolute; top: 0; bottom: 0; background: var(--c0); opacity: .38; }
.meter u { position: absolute; top: 0; bottom: 0; width: 3px; margin-left: -2px; background: var(--c0); }
.plot { margin: 18px 0; max-width: 820px; } .plot svg, .plot img { width: 100%; height: auto; display: block; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); font-size: 12px; }
.grid-line { stroke: var(--line); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.4; fill: none; opacity: .8; }
.mark { stroke: var(--bad); stroke-width: 3; fill: none; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.fill-0 { fill: var(--c0); } .fill-1 { fill: var(--c1); } .fill-2 { fill: var(--c2); } .fill-3 { fill: var(--c3); }
.fill-4 { fill: var(--c4); }
.line-0 { stroke: var(--c0); } .line-1 { stroke: var(--c1); } .line-2 { stroke: var(--c2); }
.line-3 { stroke: var(--c3); } .line-4 { stroke: var(--c4); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 22px; margin: 18px 0; }
.grid figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; }
.grid video { display: block; width: 100%; height: auto; }
.grid figcaption { padding: 10px 14px 12px; }
.tag { font-weight: 600; } .tag.success { color: var(--good); } .tag.failure { color: var(--bad); }
@media (max-width: 560px) { .grid { grid-template-columns: 1fr; } main { padding: 28px 16px 60px; } }
"""
