from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from detmix.analysis import DetectionRates, Entanglement
from detmix.figures.analysis import entanglement_figure, visibility_figure

CHANCE = ("all objects equally far apart", "the same, by class")


def make_rates(found=((1, 0), (4, 1)), visibilities=(0.2, 0.8)):
    return DetectionRates(np.array(visibilities), ("cat", "dog"), np.array([4, 1]), np.array(found), 0.5, 0.05, 3)


def make_entanglement(classes=2, layers=("input", "backbone.layer_$1$")):
    losses = np.linspace(0.2, 1.4, len(layers) * classes).reshape(len(layers), classes)
    losses[:, -1] = np.nan
    names = tuple(f"class {n}" for n in range(classes))
    counts, own = np.full(classes, 3), np.linspace(0.9, 1.3, classes)
    return Entanglement(layers, names, np.nanmean(losses, 1), losses, np.ones(len(layers)), counts, 1, 1.1, own)


def labels_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def render(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=60)
    with Image.open(tmp_path / "figure.png") as picture:
        return picture.size


def test_each_model_has_a_line_of_its_rates_and_a_unit_on_each_axis(tmp_path):
    results = {"mix_up $": make_rates(), "plain": make_rates(((4, 1), (0, 0)), (0.9, 0.1))}
    figure = visibility_figure(results, title="$rates")
    (axis,) = figure.axes
    first, second = axis.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [[0.2, 0.2], [0.8, 1.0]])
    np.testing.assert_allclose(second.get_xydata(), [[0.1, 0.0], [0.9, 1.0]])  # in the order of visibility
    assert labels_of(axis) == list(results)
    assert "share" in axis.get_xlabel()
    assert "recall at IoU 0.5, score 0.05" in axis.get_ylabel()
    render(figure, tmp_path)


def test_lines_differ_in_more_than_their_colour():
    lines = visibility_figure({str(n): make_rates() for n in range(20)}).axes[0].get_lines()
    assert len({(line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}) == 20
    first = lines[:6]
    assert len({line.get_marker() for line in first}) == len({line.get_color() for line in first}) == 6


def test_what_was_not_measured_alike_is_not_drawn_together():
    with pytest.raises(ValueError, match="of one IoU and one score threshold"):
        visibility_figure({"a": make_rates(), "b": replace(make_rates(), score_threshold=0.5)})
    with pytest.raises(ValueError, match="results of at least one model, got none"):
        visibility_figure({})


def test_each_layer_has_a_mark_for_all_objects_and_a_point_for_each_class(tmp_path):
    result = make_entanglement(classes=4)
    figure = entanglement_figure(result)
    (axis,) = figure.axes
    lines = axis.get_lines()
    (everything, *classes), (chance, *own) = lines[:4], lines[4:]
    np.testing.assert_allclose(everything.get_xydata(), np.stack([result.losses, [0, 1]], 1))
    for column, line in enumerate(classes):  # the last class was not measured
        np.testing.assert_allclose(line.get_xydata(), np.stack([result.losses_by_class[:, column], [0, 1]], 1))
    assert chance.get_xdata()[0] == 1.1
    assert [line.get_xdata()[0] for line in own] == result.uninformed_by_class[:3].tolist()
    assert [line.get_color() for line in own] == [line.get_color() for line in classes]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(result.layers)
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first layer on top
    assert labels_of(axis) == ["all objects", "class 0", "class 1", "class 2", *CHANCE]
    assert "nats" in axis.get_xlabel()
    assert {handle.get_markersize() for handle in axis.get_legend().legend_handles} == {7}  # lest one covers the next
    assert len({line.get_marker() for line in axis.get_lines()[:4]}) == 4
    render(figure, tmp_path)


def test_classes_that_were_measured_keep_their_names_beside_one_that_was_not():
    result = make_entanglement(classes=4)
    result.losses_by_class[:, 1] = np.nan  # beside the last
    (axis,) = entanglement_figure(result).axes
    assert labels_of(axis) == ["all objects", "class 0", "class 2", *CHANCE]
    (line,) = [line for line in axis.get_lines() if line.get_label() == "class 2"]
    np.testing.assert_array_equal(line.get_xdata(), result.losses_by_class[:, 2])


@pytest.mark.parametrize(("classes", "entries"), [(7, 6 + 3), (8, 1 + 2), (80, 1 + 2)])
def test_many_classes_share_one_mark(classes, entries):
    (axis,) = entanglement_figure(make_entanglement(classes)).axes
    assert len(labels_of(axis)) == entries
    assert len(axis.get_lines()) == classes - 1 + 2 + (6 if classes == 7 else 0)


def test_the_plots_leave_pyplot_alone():
    visibility_figure({"a": make_rates()})
    entanglement_figure(make_entanglement())
    assert pyplot.get_fignums() == []
