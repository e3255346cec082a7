import re
import xml.dom.minidom

import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.report import Interval, Report, _log_ticks, _ticks
from hf_vpdd.evaluation.tables import format_table


MP4 = b"\0\0\0\x18ftypisom" + bytes(32)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


def full_report():
    report = Report("A <title>", "subtitle & more")
    report.add_numbers([("91 %", "success")])
    report.add_section("Results", "text with `code` & <tags>")
    report.add_table(
        ["task", "success", "n", "ms", "what"], [["a", Interval(0.5, 0.2, 0.8), 1200, 3.14159, None]], "note"
    )
    report.add_bars(
        ["a", "b"], {"ours": [Interval(0.5, 0.2, 0.8)] * 2, "bc": [Interval(0, 0, 0.3)] * 2}, {"expert": [1, 0.9]}
    )
    report.add_lines(
        {"loss": ([0, 1, 2], [3.0, float("nan"), 1.0]), "dev": ([0, 2], [2.0, 0.5])}, "step", "loss", log_y=True
    )
    report.add_figure(PNG, "a picture")
    report.add_video(MP4, "one", "success")
    report.add_video(MP4, "two", "failure")
    report.add_code("make demo")
    report.add_facts({"seed": 1})
    return report


def test_a_page_needs_nothing_from_outside(tmp_path):
    page = full_report().save(tmp_path / "report.html").read_text()
    assert "<script" not in page and "<link" not in page and "@import" not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,12})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_text_is_escaped_and_values_are_shown():
    page = full_report().html()
    assert "A &lt;title&gt;" in page and "<code>code</code> &amp; &lt;tags&gt;" in page
    assert "50 % <small>[20, 80]</small>" in page and "1,200" in page and ">3.1<" in page and ">–<" in page


def test_neighbouring_videos_share_a_grid():
    page = full_report().html()
    assert page.count('class="grid"') == 1 and page.count("<video") == 2


def test_plots_are_well_formed_and_to_scale():
    page = full_report().html()
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 2
    for plot in plots:
        xml.dom.minidom.parseString(plot)
    bars = [float(width) for width in re.findall(r'<rect[^>]* y="\d+" width="([\d.]+)" height="11"', plots[0])]
    zero, hundred = (float(re.search(rf'x="([\d.]+)" y="\d+">{tick} %', plots[0]).group(1)) for tick in (0, 100))
    assert bars == pytest.approx([0.5 * (hundred - zero), 0, 0.5 * (hundred - zero), 0], abs=0.1)
    assert "nan" not in plots[1]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.0179), (-3, 250000), (5, 5)])
def test_ticks_are_few_and_cover_the_data(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 1 <= len(ticks) <= 8


def test_log_ticks_are_round_numbers():
    import math

    assert [round(10**tick, 9) for tick in _log_ticks(math.log10(0.3), math.log10(3.1))] == [0.2, 0.5, 1, 2, 5]
    assert [10**tick for tick in _log_ticks(-3, 4)] == pytest.approx([10.0**power for power in range(-3, 5)])
    assert len(_log_ticks(0, 0)) == 1


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda report: report.add_table(["a", "b"], [["only one"]]), "1 cells but there are 2"),
        (lambda report: report.add_video(b"RIFF1234AVI "), "not an MP4"),
        (lambda report: report.add_video("nowhere.mp4"), "nowhere.mp4"),
        (lambda report: report.add_figure(b"GIF89a"), "PNG"),
        (lambda report: report.add_bars(["a"], {"x": []}), "'x' are 0"),
        (lambda report: report.add_lines({"x": ([1], [float("nan")])}, "step", "loss"), "no curve of 'loss'"),
    ],
)
def test_wrong_parts_are_named(add, message):
    with pytest.raises(InputError, match=message):
        add(Report("t"))


def test_plain_table_lines_up():
    table = format_table(["task", "n"], [["drawer", 3], ["b", None], ["c", 2.345]])
    assert table.splitlines() == ["task      n", "──────  ───", "drawer    3", "b         –", "c       2.3"]
