import base64
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from detmix.evaluation.coco import METRICS
from detmix.training.report import write_report

EVIL = "<script>alert(1)</script>"
VOID = ("meta", "img")


class Page(HTMLParser):
    """Reads a page, insisting that every element is closed where it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return [data for name, data in self.texts if name == tag]


def make_figure():
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    return figure


def make_arguments(**changes):
    arguments = {
        "title": "Shapes with mixup",
        "summary": {"command": "train.py fit --config a.yaml", "seed": 0, "duration": "12 s"},
        "metrics": {**dict.fromkeys(METRICS, 0.25), "voc/AP50": 0.5},
        "per_class": {"circle": {"AP": 0.125, "objects": 1200}, "square": {"AP": 0.375, "objects": 9}},
        "history": [{"step": 0, "train/loss": 2.0}, {"step": 10, "train/loss": 1.0, "val/AP": 0.25}],
        "config_text": "seed_everything: 0\ndata: {format: shapes}\n",
        "figures": [
            ("A batch", "Two blended images", "Weights stand beside the boxes.", Image.new("RGB", (40, 30), "red")),
            ("Curves", "Precision falls as recall grows", "", make_figure()),
        ],
        "environment": {"torch": "2.6.0", "gpu": "none"},
    }
    return {**arguments, **changes}


def report(tmp_path, **changes):
    write_report(tmp_path / "report.html", **make_arguments(**changes))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_everything_given_is_on_the_page(tmp_path):
    page = report(tmp_path)
    assert page.text("title") == page.text("h1") == ["Shapes with mixup"]
    assert page.text("h2") == [
        "What was trained",
        "Results",
        "Results by class",
        "Training curves",
        "Pictures",
        "Configuration",
        "Environment",
    ]
    assert {"train.py fit --config a.yaml", "12 s", "2.6.0", *METRICS.values()} <= set(page.text("td"))
    assert {*METRICS, "voc/AP50", "circle", "square", "seed", "torch"} <= set(page.text("th"))
    assert {"0.250", "0.500", "0.125", "1,200", "9"} <= set(page.text("td"))
    assert page.text("pre") == ["seed_everything: 0\ndata: {format: shapes}\n"]
    assert "Weights stand beside the boxes." in page.text("figcaption")


def test_the_page_is_accessible(tmp_path):
    page = report(tmp_path)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_page_needs_nothing_beside_it(tmp_path):
    page = report(tmp_path)
    links = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert len(links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not page.all("script")
    assert not page.all("link")
    style = "".join(page.text("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_are_kept_as_they_are(tmp_path):
    page = report(tmp_path, history=[])
    sources = [image["src"].partition(",")[2] for image in page.all("img")]
    pictures = [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
    assert [picture.size for picture in pictures] == [(40, 30), (300, 150)]
    assert pictures[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("evil", [EVIL, '"><b>', "</style></pre></title>", "a & b &lt; c"])
def test_whatever_comes_from_data_is_text(tmp_path, evil):
    plain = report(tmp_path)
    page = report(
        tmp_path,
        title=evil,
        summary={evil: evil, "seed": 0, "duration": "12 s"},
        metrics={**dict.fromkeys(METRICS, 0.25), evil: 0.5},
        per_class={evil: {"AP": 0.125, evil: 1200}, "square": {"AP": 0.375, evil: 9}},
        history=[{"step": 0, evil: 2.0}, {"step": 10, evil: 1.0, "val/AP": 0.25}],
        config_text=evil,
        figures=[(evil, evil, evil, Image.new("RGB", (4, 3))), (evil, evil, "", Image.new("RGB", (4, 3)))],
        environment={evil: evil, "gpu": evil},
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.all("img")[1]["alt"] == evil
    for tag in ("title", "h1", "h3", "th", "td", "pre", "figcaption"):
        assert evil in page.text(tag)


@pytest.mark.parametrize("value", [-1, -1.0, math.nan])
def test_numbers_without_objects_are_dashes_with_a_note(tmp_path, value):
    page = report(tmp_path, metrics={"AP": 0.25, "APs": value})
    assert page.text("td")[3:7] == ["0.250", METRICS["AP"], "–", METRICS["APs"]]
    assert [text for text in page.text("p") if "no such objects" in text] == ["– means: no such objects"]
    assert report(tmp_path, per_class={"a": {"AP": value}, "b": {"objects": 3}}).text("td").count("–") == 3
    assert not report(tmp_path).text("p")


def test_parts_without_content_are_left_out(tmp_path):
    page = report(tmp_path, summary={}, metrics={}, per_class={}, history=[{"step": 0}], figures=[], environment={})
    assert page.text("h2") == ["Configuration"]
    assert not page.all("img")


def test_curves_are_also_there_in_numbers(tmp_path):
    page = report(tmp_path, figures=[])
    (curves,) = page.all("img")
    assert "by step: loss, average precision." in curves["alt"]
    numbers = page.text("td")
    start = numbers.index("2")
    assert numbers[start : start + 4] == ["2", "1", "2", "1"]  # first, lowest, highest, last


def test_a_picture_without_alt_text_is_refused_and_the_old_page_stays(tmp_path):
    report(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(ValueError, match="the figure 'A batch' needs a text"):
        report(tmp_path, figures=[("A batch", " ", "", Image.new("RGB", (4, 3)))])
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_page_is_moved_into_place(tmp_path, monkeypatch):
    def refuse(source, destination):
        raise OSError("disk full")

    report(tmp_path / "runs" / "0")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "runs" / "1" / "report.html", **make_arguments())
    assert [path.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob("*.*")] == ["0/report.html"]


def test_a_command_that_is_not_text_does_not_stop_the_report(tmp_path):
    assert "train.py ?.yaml" in report(tmp_path, summary={"command": "train.py \udcff.yaml"}).text("td")


def test_the_report_itself_does_not_need_lightning():
    code = """
import sys, types, detmix
package = types.ModuleType("detmix.training")  # stands for the real one, which imports lightning
package.__path__ = [detmix.__path__[0] + "/training"]
sys.modules["detmix.training"] = package
import detmix.training.report
assert "lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
