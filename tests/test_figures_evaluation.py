"""Plots of an evaluation: what they show, and that it can be read."""

import io

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from detmix.evaluation import Difference, Mistakes
from detmix.figures import average_precision_figure, comparison_figure, confusion_figure


def render(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=60)
    with Image.open(tmp_path / "figure.png") as picture:
        return picture.size


def labels_of(ticks):
    return [text.get_text() for text in ticks]


def texts_of(axis):
    return [text.get_text() for text in axis.texts]


BY_CLASS = {
    "cat": {"objects": 4, "AP": 0.25, "AP50": 0.5},
    "owl": {"objects": 0, "AP": -1.0, "AP50": -1.0},
    "dog $x$": {"objects": 9, "AP": 0.75, "AP50": 1.0},
}


def test_classes_are_ranked_by_ap_with_their_numbers(tmp_path):
    figure = average_precision_figure(BY_CLASS, "$AP")
    (axis,) = figure.axes
    assert labels_of(axis.get_yticklabels()) == ["dog $x$ (9)", "cat (4)"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first on top
    assert [bar.get_width() for bar in axis.patches] == [0.75, 0.25]
    (marks,) = axis.get_lines()
    np.testing.assert_array_equal(marks.get_xydata(), [[1.0, 0], [0.5, 1]])
    assert texts_of(axis) == ["0.75", "0.25"]
    assert labels_of(axis.get_legend().get_texts()) == ["AP", "AP50"]
    render(figure, tmp_path)


@pytest.mark.parametrize("by_class", [{}, {"cat": {"objects": 1, "AP": 0.5}}])
def test_numbers_of_voc_and_none_at_all_are_drawn(tmp_path, by_class):
    figure = average_precision_figure(by_class)
    assert len(figure.axes[0].patches) == len(by_class)
    assert figure.axes[0].get_legend() is None
    render(figure, tmp_path)


def make_mistakes(confusion):
    names = tuple(f"class ${n}" for n in range(len(confusion) - 1))
    return Mistakes(names, np.array(confusion), (), 0.5, 0.3)


def cells_of(axis):
    return {(int(text.xy[1]), int(text.xy[0])): int(text.get_text()) for text in axis.texts}


def test_of_many_classes_the_best_and_the_worst_are_ranked():
    by_class = {f"class {n}": {"objects": 1, "AP": (n * 37 % 101) / 101} for n in range(101)}
    figure = average_precision_figure(by_class, "Title")
    (axis,) = figure.axes
    aps = [bar.get_width() for bar in axis.patches]
    assert len(aps) == 60
    assert sorted(aps) == pytest.approx([n / 101 for n in (*range(30), *range(71, 101))])
    assert figure.get_suptitle() == "Title\nthe 30 best and the 30 worst of 101 classes"


def test_confusions_are_shaded_by_their_share_and_counted(tmp_path):
    mistakes = make_mistakes([[6, 2, 2], [0, 0, 0], [5, 1, 0]])
    figure = confusion_figure(mistakes, "$title")
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.6, 0.2, 0.2], [0, 0, 0], [0, 0, 0]])
    assert cells_of(axis) == {(0, 0): 6, (0, 1): 2, (0, 2): 2, (2, 0): 5, (2, 1): 1}
    assert labels_of(axis.get_xticklabels()) == ["class $0", "class $1", "missed"]
    assert labels_of(axis.get_yticklabels()) == ["class $0", "class $1", "false detections"]
    assert "score 0.3 or more, IoU 0.5 or more" in axis.get_xlabel()
    render(figure, tmp_path)


def test_classes_without_objects_and_detections_are_left_out():
    (axis,) = confusion_figure(make_mistakes([[6, 0, 2], [0, 0, 0], [5, 0, 0]])).axes
    assert labels_of(axis.get_yticklabels()) == ["class $0", "false detections"]
    assert cells_of(axis) == {(0, 0): 6, (0, 1): 2, (1, 0): 5}


def test_beyond_twenty_classes_those_confused_most_are_shown_and_the_others_summed(tmp_path):
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(1, 50, 31))
    counts[-1] = rng.integers(0, 9, 31)
    counts[:, -1] = rng.integers(0, 9, 31)
    counts[-1, -1] = 0
    counts[3, 28] = counts[28, 7] = 40  # the only confusions
    (axis,) = confusion_figure(make_mistakes(counts)).axes
    names = labels_of(axis.get_yticklabels())
    assert len(names) == 21
    assert names[-2:] == ["11 other classes", "false detections"]
    three, seven, last = (names.index(f"class ${n}") for n in (3, 7, 28))
    cells = cells_of(axis)
    assert (cells[three, last], cells[last, seven]) == (40, 40)
    assert cells[three, three] == counts[3, 3]
    assert sum(cells.values()) == counts.sum()
    assert cells[19, 19] == sum(counts[n, n] for n in range(30) if f"class ${n}" not in names)


@pytest.mark.parametrize("classes", [0, 1, 20, 80])
def test_any_number_of_classes_can_be_drawn(tmp_path, classes):
    figure = confusion_figure(make_mistakes(np.ones((classes + 1, classes + 1), dtype=np.int64)))
    width, height = render(figure, tmp_path)
    assert 50 < height <= width * 2
    assert width < 1200


def test_differences_stand_beside_zero_and_clear_ones_are_full(tmp_path):
    differences = {
        "AP": Difference(0.5, 0.6, 0.05, 0.16, 100, 60),
        "AP/cat $": Difference(0.5, 0.45, -0.2, 0.1, 100, 60),
        "AP/dog": Difference(0.5, 0.4, -0.2, -0.05, 100, 60),
    }
    figure = comparison_figure(differences, ["a_$1$", "b"], "$title")
    (axis,) = figure.axes
    zero, *lines = axis.get_lines()
    assert zero.get_xdata()[0] == 0
    points = [line for line in lines if line.get_marker() == "o"]
    clear, open_ = points
    np.testing.assert_allclose(clear.get_xydata(), [[0.1, 0], [-0.1, 2]])
    np.testing.assert_allclose(open_.get_xydata(), [[-0.05, 1]])
    assert open_.get_markerfacecolor() == "white" != clear.get_markerfacecolor()
    intervals = sorted(tuple(line.get_xydata().ravel()) for line in lines if line not in points)
    assert intervals == [(-0.2, 1, 0.1, 1), (-0.2, 2, -0.05, 2), (0.05, 0, 0.16, 0)]
    assert labels_of(axis.get_yticklabels()) == list(differences)
    assert labels_of(axis.get_legend().get_texts()) == ["clear", "may be chance"]
    assert "A: a_$1$\nB: b" in axis.get_xlabel()
    render(figure, tmp_path)


def test_nothing_to_compare_is_drawn_too(tmp_path):
    render(comparison_figure({}, ["a", "b"]), tmp_path)


def test_a_notebook_shows_a_plot_in_the_size_in_which_it_is_saved(tmp_path):
    for plot in (confusion_figure(make_mistakes([[1, 0], [0, 0]])), average_precision_figure(BY_CLASS)):
        shown = Image.open(io.BytesIO(plot._repr_png_()))
        plot.savefig(tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as saved:
            assert shown.size == saved.size
        assert shown.convert("L").getextrema() == (0, 255)


def test_the_plots_leave_pyplot_alone():
    average_precision_figure(BY_CLASS)
    confusion_figure(make_mistakes([[1, 0], [0, 0]]))
    comparison_figure({}, ["a", "b"])
    assert pyplot.get_fignums() == []
