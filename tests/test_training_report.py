import base64
import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from detmix.analysis import DetectionRates
from detmix.evaluation import Curve, ImageMistakes, Mistakes
from detmix.evaluation.coco import METRICS
from detmix.figures import history_series
from detmix.training.report import Illustration, ImageResult, Report, write_report

from .browser import PHONE, find_faults

EVIL = "<script>alert(1)</script>"
COLUMNS = ("AP", "AP50", "APs", "APm", "APl", "VOC AP50")
VOID = ("meta", "img", "br", "wbr")


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

    def alt(self, start):
        return [image["alt"] for image in self.all("img") if image["alt"].startswith(start)]


def make_picture(text="A red square", caption="", size=(40, 30)):
    return Illustration(Image.new("RGB", size, "red"), text, caption)


def make_mistakes(names=("circle", "square"), confusion=((5, 1, 2), (0, 7, 0), (3, 0, 0))):
    images = (ImageMistakes(4, "4.jpg", 3, 1, 0, 2),)
    return Mistakes(tuple(names), np.array(confusion), images, iou=0.5, min_score=0.5)


def make_comparison(title="4.jpg"):
    truth, found = make_picture(f"{title}, annotated", "Annotated"), make_picture(f"{title}, detected", "Detected")
    return ImageResult(title, "3 found, 1 taken for another class.", truth, found)


def make_curve():
    return Curve(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.8, 0.0]), np.array([0.9, 0.6, 0.2]))


def make_rates():
    return DetectionRates(np.array([0.8, 0.2]), ("circle",), np.array([4]), np.array([[3], [1]]), 0.5, 0.05, 2)


def make_report(**changes):
    report = Report(
        title="Shapes with mixup",
        summary={"command": "train.py fit --config a.yaml", "seed": 0, "duration": "12 s"},
        metrics={**dict.fromkeys(METRICS, 0.25), "voc/AP50": 0.5},
        per_class={"circle": {"AP": 0.125, "objects": 1200}, "square": {"AP": 0.375, "objects": 9}},
        curves={"circle": make_curve(), "square": make_curve()},
        mistakes=make_mistakes(),
        worst=[make_comparison("4.jpg")],
        best=[make_comparison("2.jpg")],
        history=history_series([{"step": 0, "train/loss": 2.0}, {"step": 10, "train/loss": 1.0, "val/AP": 0.25}]),
        samples=[make_picture("Training sample 1: two images blended", "Weights stand beside the boxes.")],
        visibility={"mixup": make_rates()},
        config_text="seed_everything: 0\ndata: {format: shapes}\n",
        environment={"torch": "2.6.0", "gpu": "none"},
    )
    return replace(report, **changes)


NOTHING = {
    **dict.fromkeys(("summary", "metrics", "per_class", "curves", "visibility", "environment"), {}),
    **dict.fromkeys(("worst", "best", "samples"), ()),
    "history": history_series([]),
    "mistakes": None,
}


def write(tmp_path, **changes):
    write_report(tmp_path / "report.html", make_report(**changes))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def numbers_of(page, row):
    """The cells of the first row of a table that begins with this header."""
    start = page.texts.index(("th", row))
    cells = [text.strip() for tag, text in page.texts[start + 1 :] if tag in ("td", "th") and text.strip()]
    return cells


def test_everything_given_is_on_the_page(tmp_path):
    page = write(tmp_path)
    assert page.text("title") == page.text("h1") == ["Shapes with mixup"]
    assert page.text("h2") == [
        "What was trained",
        "Results",
        "Results by class",
        "Precision and recall",
        "What was taken for what",
        "Training curves",
        "Training samples",
        "Worst and best images",
        "Visibility",
        "Configuration",
        "Environment",
    ]
    assert {"train.py fit --config a.yaml", "12 s", "2.6.0"} <= set(page.text("td"))
    assert {*METRICS, "voc/AP50", "circle", "square", "seed", "torch"} <= {text.strip() for text in page.text("th")}
    assert set(METRICS.values()) < set(page.text("span"))
    assert {"0.250", "0.500", "0.125", "1,200", "9"} <= set(page.text("td"))
    assert page.text("strong") == ["0.250", "0.250", "0.500"]
    assert page.text("pre") == ["seed_everything: 0\ndata: {format: shapes}\n"]
    assert page.text("h4") == ["4.jpg", "2.jpg"]
    assert {"Weights stand beside the boxes.", "Annotated", "Detected"} <= set(page.text("figcaption"))


def test_the_page_is_accessible(tmp_path):
    page = write(tmp_path)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [link["href"] for link in page.all("a")] == [f"#{id}" for id in ids]


def test_long_names_and_many_classes_fit_every_window(tmp_path, browser):
    names = [f"class {n} of the Polycentropodidae_and_others" for n in range(12)]
    confusion = np.full((13, 13), 4321)
    confusion[-1, -1] = 0
    write(
        tmp_path,
        title="a_very_long_name_of_a_run_that_goes_on_and_on_and_does_not_end_soon",
        summary={"command": "train.py fit --config " + 20 * "folder/" + 60 * "x", "Weights": 60 * "w"},
        per_class={name: {"objects": 123456, **dict.fromkeys(COLUMNS, 0.5)} for name in names},
        curves=dict.fromkeys(names[:2], make_curve()),
        mistakes=make_mistakes(names, confusion),
        config_text=200 * "long",
    )
    assert find_faults(browser, tmp_path / "report.html") == set()


def edge_of_classes(browser, moved):
    """Brightness along the last pixels of the table of classes on a phone, moved sideways or not: (24,), 0 to 255."""
    find = f"""(() => {{ const table = document.querySelector("[aria-label='Results by class']");
                         table.scrollLeft = {moved}; const place = table.getBoundingClientRect();
                         return [place.right, place.bottom + scrollY]; }})()"""
    right, bottom = browser.call("Runtime.evaluate", expression=find, returnByValue=True)["result"]["value"]
    with Image.open(io.BytesIO(browser.picture())) as picture:
        return np.asarray(picture.convert("L"))[round(bottom) - 4, round(right) - 24 : round(right)].astype(int)


def test_a_table_wider_than_a_phone_shows_on_which_side_it_goes_on(tmp_path, browser):
    row = {"objects": 123456, **dict.fromkeys(COLUMNS, 0.5)}
    write(tmp_path, per_class={"a class with a long name": row})
    browser.open(tmp_path / "report.html", width=PHONE)
    more, end = edge_of_classes(browser, 0), edge_of_classes(browser, 9999)
    assert more[-1] < 170 < 250 < more[0]  # darker towards the edge
    assert end.min() > 250
    write(tmp_path, per_class={"a": {"AP": 0.5}})
    browser.open(tmp_path / "report.html", width=PHONE)
    assert edge_of_classes(browser, 0).min() > 250  # all of it is there


def test_pictures_are_told_in_words(tmp_path):
    page = write(tmp_path)
    assert page.alt("Precision against recall") == [
        "Precision against recall of circle: average precision 0.60, at most 50% of the objects found; "
        "square: average precision 0.60, at most 50% of the objects found."
    ]
    assert page.alt("Curves of loss") == ["Curves of loss by step: train/loss from 2 to 1."]
    assert page.alt("Detection rate") == [
        "Detection rate against visibility: mixup finds 25% of the objects at a visibility of 20%, 75% at 80%."
    ]


@pytest.mark.parametrize(("classes", "plots"), [(0, 0), (6, 1), (7, 2), (80, 14), (90, 14)])
def test_a_plot_of_precision_has_as_many_classes_as_can_be_told_apart(tmp_path, classes, plots):
    names = [f"<{number}>" for number in range(classes)]
    told = write(tmp_path, **NOTHING | {"curves": dict.fromkeys(names, make_curve())}).alt("Precision against recall")
    assert len(told) == plots
    assert [name for text in told for name in re.findall(r"<\d+>", text)] == names[:80]


def test_the_page_needs_nothing_beside_it(tmp_path):
    page = write(tmp_path)
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 9  # precision and recall, two pairs, two curves, sample, visibility
    assert all(re.match("data:image/(webp|png|svg[+]xml);base64,", source) for source in sources)
    assert not page.all("script")
    assert not page.all("link")
    style = "".join(page.text("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_photographs_are_scaled_to_what_a_page_needs(tmp_path):
    page = write(tmp_path, **NOTHING | {"samples": [make_picture(), make_picture(size=(3000, 1500))]})
    sources = [image["src"].partition(",")[2] for image in page.all("img")]
    pictures = [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
    assert [picture.size for picture in pictures] == [(40, 30), (640, 320)]
    assert pictures[0].getpixel((20, 15)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("evil", [EVIL, '"><b>', "</style></pre></title>", "a & b &lt; c", "{{ 7 * 7 }}{% raw %}"])
def test_whatever_comes_from_data_is_text(tmp_path, evil):
    plain = write(tmp_path)
    page = write(
        tmp_path,
        title=evil,
        summary={evil: evil, "seed": 0, "duration": "12 s"},
        metrics={**dict.fromkeys(METRICS, 0.25), evil: 0.5, "voc/AP50": 0.5},
        per_class={evil: {"AP": 0.125, evil: 1200}, "square": {"AP": 0.375, evil: 9}},
        curves={evil: make_curve()},
        mistakes=make_mistakes(names=(evil, "square")),
        worst=[make_comparison(evil)],
        best=[make_comparison(evil)],
        history=history_series([{"step": 0, evil: 2.0}, {"step": 10, evil: 1.0, "val/AP": 0.25}]),
        samples=[make_picture(evil, evil)],
        visibility={evil: make_rates()},
        config_text=evil,
        environment={evil: evil, "gpu": evil},
    )
    more = ["tr", "th", "td"]  # a metric beside those that plain has
    tags, others = ([tag for tag, _ in p.elements] for p in (page, plain))
    assert len(tags) == len(others) + len(more)
    assert sorted(tags) == sorted([*others, *more])
    assert page.alt(evil) == [evil, *[f"{evil}, annotated", f"{evil}, detected"] * 2]
    for tag in ("title", "h1", "h4", "th", "td", "pre", "figcaption"):
        assert evil in map(str.strip, page.text(tag))


@pytest.mark.parametrize("value", [-1, -1.0, math.nan])
def test_numbers_without_objects_are_dashes_with_a_note(tmp_path, value):
    page = write(tmp_path, **NOTHING | {"metrics": {"AP": 0.25, "APs": value}})
    assert page.text("td") == ["0.250", "–"]
    assert page.text("p") == ["– means: no such objects."]
    page = write(tmp_path, **NOTHING | {"per_class": {"a": {"AP": value}, "b": {"objects": 3}}})
    assert page.text("td") == ["–", "–", "–", "3"]
    assert page.text("p") == ["– means: no such objects."]
    assert not write(tmp_path, **NOTHING | {"metrics": {"AP": 0.25}}).text("p")


def test_parts_without_content_are_left_out(tmp_path):
    page = write(tmp_path, **NOTHING)
    assert page.text("h2") == ["Configuration"]
    assert not page.all("img")
    assert write(tmp_path, worst=()).text("h3") == ["The best images"]
    assert write(tmp_path, best=()).text("h3") == ["The images with the most mistakes"]


def test_curves_are_also_there_in_numbers(tmp_path):
    page = write(tmp_path)
    assert numbers_of(page, "train/loss")[:4] == ["2", "1", "2", "1"]  # first, lowest, highest, last


def test_confusion_has_a_row_for_each_class_and_one_for_what_was_made_up(tmp_path):
    page = write(tmp_path, **NOTHING | {"mistakes": make_mistakes()})
    assert numbers_of(page, "object") == [
        *["taken for circle", "taken for square", "missed"],
        *["circle", "5", "1", "2"],
        *["square", "0", "7", "0"],
        *["nothing there", "3", "0"],  # what is not there cannot be missed
    ]
    cells = [cell for cell in page.all("td") if "shaded" in cell["class"]]
    assert [cell["style"] for cell in cells[:3]] == ["--share: 62%", "--share: 12%", "--share: 25%"]
    assert [n for n, cell in enumerate(cells) if "same" in cell["class"]] == [0, 4]


def test_classes_with_nothing_to_tell_are_left_out_of_the_confusion(tmp_path):
    counts = [[5, 0, 1, 2], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]  # neither objects nor detections of owl
    page = write(tmp_path, **NOTHING | {"mistakes": make_mistakes(("cat", "owl", "dog"), counts)})
    assert numbers_of(page, "object")[:3] == ["taken for cat", "taken for dog", "missed"]
    assert "owl" not in page.text("th")
    assert [cell["style"] for cell in page.all("td")[:3]] == ["--share: 62%", "--share: 12%", "--share: 25%"]
    few = write(
        tmp_path, **NOTHING | {"mistakes": make_mistakes(map(str, range(40)), np.diag([5, 5, *np.zeros(39, int)]))}
    )
    assert numbers_of(few, "object")[:3] == ["taken for 0", "taken for 1", "missed"]  # those that occur count
    many = write(tmp_path, **NOTHING | {"mistakes": make_mistakes(map(str, range(13)), np.diag(np.full(14, 5)))})
    assert "No object was taken for another class." in many.text("p")
    assert not many.all("table")


def test_many_classes_have_their_largest_confusions_listed(tmp_path):
    names = [f"class {n}" for n in range(13)]
    confusion = np.diag(np.full(14, 50))
    confusion[2, 7], confusion[7, 2], confusion[3, 13], confusion[13, 3] = 4, 9, 11, 12
    page = write(tmp_path, **NOTHING | {"mistakes": make_mistakes(names, confusion)})
    assert numbers_of(page, "object") == ["taken for", "times", "class 7", "class 2", "9", "class 2", "class 7", "4"]


def test_a_picture_without_alt_text_is_refused_and_the_old_page_stays(tmp_path):
    write(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(ValueError, match="a picture needs a text for those who cannot see it"):
        write(tmp_path, samples=[make_picture(" ")])
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_page_is_moved_into_place(tmp_path, monkeypatch):
    def refuse(source, destination):
        raise OSError("disk full")

    write(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, title="another")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_command_that_is_not_text_does_not_stop_the_report(tmp_path):
    assert "train.py ?.yaml" in write(tmp_path, summary={"command": "train.py \udcff.yaml"}).text("td")


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
