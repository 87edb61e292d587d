import gc
import math
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageColor

from detmix.evaluation import Curve
from detmix.figures import (
    draw_boxes,
    history_figures,
    history_series,
    image_grid,
    lambda_grid,
    objectives_figure,
    precision_recall_figure,
    to_picture,
)
from detmix.figures.objectives import objective_losses
from detmix.figures.style import PALETTE

GREY = torch.full((3, 128, 96), 100, dtype=torch.uint8)


def make_target(boxes=((20.0, 40.0, 80.0, 100.0),), **keys):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), **keys}


@pytest.mark.parametrize("count", [100, 101, 3000])
def test_a_crowd_is_drawn_without_captions_in_thin_lines(count):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([760.0, 560.0])
    image = torch.full((3, 600, 800), 100, dtype=torch.uint8)
    target = make_target(torch.cat([corners, corners + 20], 1).tolist(), weights=torch.full((count,), 0.5))
    picture = np.asarray(draw_boxes(image, target, ["a long name"]), dtype=int)
    inked = np.abs(picture - 100).sum(-1) > 30
    around = np.zeros((600, 800), dtype=bool)  # pixels of the outlines of a box and none of its inside
    for x, y in corners.round().int().tolist():
        around[max(0, y - 1) : y + 22, max(0, x - 1) : x + 22] = True
    assert inked[around].any()
    assert inked[~around].any() == (count == 100)


def test_of_many_classes_the_best_and_the_worst_curves_are_shown():
    recall = np.linspace(0, 1, 11)
    curves = {f"class {n}": Curve(recall, np.full(11, (n * 7 % 50) / 50), recall[::-1]) for n in range(50)}
    figure = precision_recall_figure(curves)
    shown = {axis.get_title() for axis in figure.axes if axis.get_title()}
    assert shown == {f"class {n}" for n in range(50) if not 20 <= n * 7 % 50 < 30}
    assert figure.get_suptitle() == "the 20 best and the 20 worst of 50 classes"


@pytest.mark.parametrize("channels", [4, 10])
def test_of_many_channels_the_first_three_are_shown(channels):
    planes = torch.randint(0, 256, (channels, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for image in (planes, planes.permute(1, 2, 0).numpy()):
        assert np.array_equal(np.asarray(to_picture(image)), planes[:3].permute(1, 2, 0).numpy())


def drawn(target, **options):
    """How far each pixel of the drawing is from the image without boxes: (H, W) float."""
    plain = draw_boxes(GREY, make_target(()))
    difference = ImageChops.difference(draw_boxes(GREY, target, **options), plain)
    return np.asarray(difference, dtype=float).sum(-1)


def make_curve(seed=0):
    recall = np.linspace(0, 0.8, 20)
    return Curve(recall, np.linspace(1, 0.5, 20) - 0.01 * seed, np.linspace(1, 0, 20))


def lines_of(figure):
    return [line for axis in figure.axes for line in axis.get_lines()]


def render(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=60)
    with Image.open(tmp_path / "figure.png") as picture:
        return picture.size


def test_float_and_uint8_and_one_channel_give_the_same_picture():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    picture = to_picture(image.expand(3, -1, -1))
    assert np.array_equal(np.asarray(picture)[..., 0], image[0].numpy())
    for same in (image, image / 255, (image / 255).requires_grad_()):
        assert to_picture(same).tobytes() == picture.tobytes()
    assert to_picture(torch.tensor([-0.5, 1.5]).reshape(1, 1, 2)).getpixel((1, 0)) == (255, 255, 255)


def test_arrays_and_pil_images_are_drawn_as_the_tensor_of_their_pixels_is():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = to_picture(torch.from_numpy(pixels).permute(2, 0, 1))
    pixels.setflags(write=False)
    for same in (pixels, pixels[:, ::-1][:, ::-1], pixels / 255, Image.fromarray(pixels)):
        assert to_picture(same).tobytes() == picture.tobytes()
    gray = [pixels[..., 0], pixels[..., :1], Image.fromarray(pixels[..., 0])]
    assert len({to_picture(image).tobytes() for image in gray}) == 1
    drawn = draw_boxes(pixels, make_target([[2.0, 3, 9, 8]]))
    assert image_grid([pixels, drawn], cell=16).size[0] > 32


def test_masks_tint_their_pixels_alone_their_edges_more_and_faint_ones_less():
    mask = torch.zeros(1, 128, 96)
    mask[:, 60:80, 30:60] = 1.0
    shown = np.kron(mask[0].numpy(), np.ones((4, 4))) > 0.5  # such a small picture is drawn fourfold
    tints = []
    for weight in (1.0, 0.5):
        target = make_target(weights=torch.tensor([weight]))
        tint = np.abs(drawn(target | {"masks": mask}) - drawn(target))
        assert np.array_equal(tint > 0, shown)
        tints.append(tint[280, 180])  # in its middle
        assert tint[240:320, 120].min() == tint[240, 120:240].min() > 1.5 * tints[-1]
        assert tint[241:319, 121:239].max() == tints[-1]
    assert 0.4 * tints[0] < tints[1] < 0.6 * tints[0]


@pytest.mark.parametrize("shape", [(2, 128, 96), (0, 128, 96), (1, 96, 128), (1, 1, 64, 48)])
def test_masks_are_one_for_each_box_and_as_large_as_the_image(shape):
    with pytest.raises(ValueError, match=r"one for each of 1 boxes, of the image's 96x128 pixels, got the shape \("):
        draw_boxes(GREY, make_target(masks=torch.zeros(shape)))


def test_masks_of_detections_are_cut_at_a_half():
    scores = torch.rand(1, 128, 96, generator=torch.Generator().manual_seed(0))
    pictures = [
        draw_boxes(GREY, make_target(masks=masks)).tobytes() for masks in (scores[:, None], (scores > 0.5).byte())
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0] != draw_boxes(GREY, make_target()).tobytes()


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4, dtype=torch.int32), np.zeros((4, 4), np.uint16)])
def test_refuses_images_of_other_dtypes(image):
    with pytest.raises(TypeError, match=r"must be of dtype uint8 or floating, got torch\.u?int"):
        draw_boxes(image, make_target())


@pytest.mark.parametrize("shape", [(16, 16), (2, 8, 8), (2, 3, 8, 8), (40, 50, 3)])
def test_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match=r"\(C, H, W\) with C 1, or 3 to 16, got"):
        draw_boxes(torch.zeros(shape), make_target())


@pytest.mark.parametrize(("size", "scale"), [((128, 96), 4), ((479, 3), 2), ((600, 900), 1)])
def test_small_images_are_magnified_by_a_whole_number(size, scale):
    picture = draw_boxes(torch.zeros(3, *size), make_target([[0.0, 0, 2, 2]]))
    assert (picture.height, picture.width) == (size[0] * scale, size[1] * scale)


def test_the_outline_lies_on_the_boxs_outermost_pixels():
    changed = drawn(make_target()) > 0
    middle = changed[300, :]  # a row through the box, below its caption; the picture is magnified by 4
    assert (np.flatnonzero(middle)[0], np.flatnonzero(middle)[-1]) == (20 * 4, 80 * 4 - 1)
    assert not middle[100:300].any()
    assert np.flatnonzero(changed[:, 200])[-1] == 100 * 4 - 1


def test_each_class_has_a_colour_of_its_own():
    palette = [ImageColor.getrgb(color) for color in PALETTE]
    places = range(len(palette))
    target = make_target([[100.0 * n, 50, 100 * n + 80, 400] for n in places])
    picture = draw_boxes(torch.zeros(3, 500, 600), target | {"labels": torch.arange(len(palette)) + 1})
    sides = (picture.crop((100 * n, 200, 100 * n + 80, 201)) for n in places)  # a row across each box
    assert [{color for _, color in side.getcolors()} & {*palette} for side in sides] == [{color} for color in palette]


def test_opacity_follows_the_weight_with_a_floor():
    strength = {w: drawn(make_target(weights=torch.tensor([w])))[300].sum() for w in (0.0, 0.15, 0.5, 1.0)}
    full = drawn(make_target())[300].sum()
    assert strength[1.0] == full
    assert strength[0.5] == pytest.approx(full / 2, rel=0.02)
    assert strength[0.0] == strength[0.15] == pytest.approx(0.15 * full, rel=0.1)


@pytest.mark.parametrize("key", ["weights", "scores"])
def test_the_number_is_written_and_not_only_shown_by_opacity(key):
    one, other = (drawn(make_target(**{key: torch.tensor([value])})) for value in (0.71, 0.77))
    assert ((one > 0) != (other > 0)).any()


def test_captions_tell_class_weight_and_score():
    from detmix.figures.boxes import _captions

    numbers = {"weights": torch.tensor([0.37])}, {"scores": torch.tensor([0.934])}
    assert _captions(make_target(), None) == ["1"]
    assert _captions(make_target(), ["RBC"]) == ["RBC"]
    assert [_captions(make_target(**n), ["RBC"]) for n in numbers] == [["RBC 0.37"], ["RBC 93%"]]


@pytest.mark.parametrize("sign", ["\n", "\t", "\0", "\x1b", "\x85", "\u2028", "\udcff"])
def test_a_name_with_a_line_break_is_drawn_in_one_line(sign):
    target = make_target()
    assert np.array_equal(drawn(target, class_names=[f"a{sign}b"]), drawn(target, class_names=["a\ufffdb"]))
    title = precision_recall_figure({f"a{sign}b": make_curve()}).axes[0].get_legend().get_texts()[0]
    assert title.get_text() == "a\ufffdb"


def test_fates_are_told_by_the_line_and_in_words():
    boxes = [[20.0, 40.0, 80.0, 100.0]]
    whole = drawn(make_target(boxes)) > 0
    side = slice(200, 380), slice(312, 320)  # along the right side of the box, off its caption
    kinds = {fate: drawn(make_target(boxes), fates=[fate]) > 0 for fate in ("found", "confused", "missed", "false")}
    lengths = {fate: changed[side].any(1).mean() for fate, changed in kinds.items()}
    assert whole[side].any(1).all()
    assert lengths["found"] == 1
    assert lengths["confused"] == pytest.approx(6 / 8, abs=0.06)
    assert lengths["missed"] == lengths["false"] == pytest.approx(1 / 2, abs=0.06)
    captions = [changed[:200] for changed in kinds.values()]
    assert all((one != other).any() for n, one in enumerate(captions) for other in captions[:n])
    with pytest.raises(ValueError, match="fates must be one for each of 1 boxes, got 0"):
        draw_boxes(GREY, make_target(boxes), fates=[])


def make_marks(size, rng):
    """Boxes of any size, also thinner than a line, as large as the image and beyond it, with opacities and fates."""
    height, width = size
    corner = rng.uniform(-0.1, 1, (6, 2)) * [width, height]
    extent = rng.uniform(0, 1, (6, 2)) ** 3 * [1.2 * width, 1.2 * height]
    boxes = np.concatenate([corner, corner + extent], axis=1)
    boxes[0], boxes[1, 2:] = (0, 0, width, height), boxes[1, :2]
    target = make_target(boxes.astype(np.float32).tolist(), weights=torch.from_numpy(rng.uniform(0, 1, 6)))
    return target, rng.choice(["found", "confused", "missed", "false", "ignored"], 6).tolist()


@pytest.mark.parametrize("size", [(100, 140), (500, 60), (520, 610)])
@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_drawn_where_they_have_ink_are_those_drawn_on_layers_of_the_whole_picture(size, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    target, fates = make_marks(size, rng)
    names = ["jÅ platelets"]
    pictures = [draw_boxes(image, target, names, fates)]
    monkeypatch.setattr("detmix.figures.marks._regions", lambda mark, font, size: [(0, 0, *size)])
    pictures.append(draw_boxes(image, target, names, fates))
    assert ImageChops.difference(*pictures).getbbox() is None


def test_a_box_takes_memory_for_its_outline_and_not_for_its_interior(monkeypatch):
    layers = []
    new = Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size: layers.append(math.prod(size)) or new(mode, size))
    draw_boxes(torch.zeros(3, 1500, 2000, dtype=torch.uint8), make_target([[0.0, 0, 2000, 1500]] * 10))
    assert sum(layers) < 2 * 1500 * 2000


def test_a_large_image_is_scaled_down_before_it_is_drawn_on():
    mask = torch.zeros(1, 1500, 2000, dtype=torch.bool)
    mask[:, 600:900, 400:800] = True
    target, image = make_target([[400.0, 600, 800, 900]], masks=mask), torch.zeros(3, 1500, 2000, dtype=torch.uint8)
    found = draw_boxes(image, target, max_side=1000)
    small = make_target([[200.0, 300, 400, 450]], masks=mask[:, ::2, ::2])
    assert found.tobytes() == draw_boxes(image[:, ::2, ::2], small).tobytes()
    assert draw_boxes(image[:, :1], make_target(()), max_side=100).size == (100, 1)
    for size in ((2000, 1500), (90, 60)):  # which is magnified, to less than 960
        plain = torch.zeros(3, *size[::-1], dtype=torch.uint8)
        assert (
            draw_boxes(plain, make_target(()), max_side=2000).tobytes() == draw_boxes(plain, make_target(())).tobytes()
        )


def test_pictures_that_are_shown_small_are_drawn_small(monkeypatch):
    made = []
    monkeypatch.setattr("detmix.figures.grid.image_grid", lambda pictures, *_, **__: made.extend(pictures))
    image = torch.zeros(3, 1500, 2000, dtype=torch.uint8)
    lambda_grid((image, make_target()), (image, make_target()), lambda *sample, lam: sample[:2], lams=[0.5])
    assert [picture.size for picture in made] == [(1280, 960)]


@pytest.mark.parametrize("label", [0, 2])
def test_a_label_without_a_name_is_refused(label):
    with pytest.raises(ValueError, match=rf"labels must lie in \[1, 1\], one for each class name, got {label}"):
        draw_boxes(GREY, make_target() | {"labels": torch.tensor([label])}, ["RBC"])


def test_captions_stay_in_the_picture_and_apart():
    from detmix.figures.boxes import _place_captions, _shared_areas
    from detmix.figures.style import font_of

    box = (380.0, 0.0, 400.0, 30.0)  # in the upper right corner
    places = _place_captions([box] * 3, ["a long name 0.50"] * 3, font_of(18), (400, 300), [0, 1, 2])
    assert all(0 <= x1 < x2 <= 400 and 0 <= y1 < y2 <= 300 for x1, y1, x2, y2 in places.values())
    assert _shared_areas(np.array([places[0]]), np.array([places[1]])) == 0


@pytest.mark.parametrize(("side", "error"), [(0, ValueError), (-5, ValueError), (10.5, TypeError)])
def test_a_longest_side_that_is_none_is_refused(side, error):
    with pytest.raises(error, match="max_side must be"):
        draw_boxes(GREY, make_target(()), max_side=side)


def test_no_function_is_called_for_each_pair_of_captions():
    from detmix.figures.boxes import _place_captions
    from detmix.figures.style import font_of

    counts = {}
    for boxes in (50, 200):
        arguments = [(0.0, 0.0, 9.0, 9.0)] * boxes, ["a"] * boxes, font_of(18), (400, 300), list(range(boxes))
        calls = []
        gc.collect()
        gc.disable()  # what other tests have left would be finalized in between, by calls that count
        sys.setprofile(lambda frame, event, _, calls=calls: calls.append(frame.f_code) if event == "call" else None)
        try:
            _place_captions(*arguments)
        finally:
            sys.setprofile(None)
            gc.enable()
        counts[boxes] = len(calls)
    assert counts[200] < 4.5 * counts[50]


@pytest.mark.parametrize("boxes", [(), [[-5.0, -5, 200, 200]], [[10.0, 10, 10.4, 10.4]], [[0.0, 0, 96, 128]] * 40])
def test_odd_boxes_are_drawn_without_complaint(boxes):
    assert draw_boxes(GREY, make_target(boxes)).size == (384, 512)


def test_inputs_are_not_changed():
    image, target = GREY.clone(), make_target(weights=torch.tensor([0.01]))
    draw_boxes(image, target)
    assert torch.equal(image, GREY)
    assert target["weights"].item() == pytest.approx(0.01)


def test_grid_holds_every_image_with_its_caption():
    colors = ["red", "lime", "blue", "yellow", "cyan"]
    images = [Image.new("RGB", (60 + 10 * n, 50), color) for n, color in enumerate(colors)]
    grid = image_grid(images, colors, columns=2, title="Five colours")
    counts = {color: count for count, color in grid.getcolors(maxcolors=100_000)}
    for image in images:
        assert counts[image.getpixel((0, 0))] >= image.width * image.height
    bare = image_grid(images, columns=2)
    assert grid.width == bare.width
    assert grid.height > bare.height


def test_grid_shrinks_large_pictures_and_takes_tensors():
    grid = image_grid([torch.zeros(3, 1000, 500), torch.zeros(3, 10, 10)], columns=1, cell=200)
    black = grid.getcolors(maxcolors=100_000)
    assert (200 * 100 + 10 * 10, (0, 0, 0)) in black


def test_grid_breaks_long_captions_into_lines():
    image = Image.new("RGB", (200, 50))
    heights = [image_grid([image], [caption]).height for caption in ("word", "word " * 30, "word" * 30)]
    assert heights[1] > heights[0] == heights[2]


@pytest.mark.parametrize(("count", "captions", "columns"), [(0, None, 4), (2, ["one"], 4), (2, None, 0)])
def test_grid_refuses_what_cannot_be_laid_out(count, captions, columns):
    with pytest.raises(ValueError, match="got"):
        image_grid([Image.new("RGB", (8, 8))] * count, captions, columns)


@pytest.mark.parametrize(("cell", "error"), [(0, ValueError), (-3, ValueError), (99.5, TypeError)])
def test_grid_refuses_cells_that_hold_no_pixel(cell, error):
    with pytest.raises(error, match=rf"cell must be .*, got {cell}"):
        image_grid([Image.new("RGB", (8, 8))], cell=cell)


def test_lambda_grid_blends_at_each_ratio():
    asked = []

    def mix(image_a, target_a, image_b, target_b, *, lam):
        asked.append(lam)
        weights = torch.tensor([lam] * len(target_a["boxes"]))
        return (lam * image_a + (1 - lam) * image_b).to(torch.uint8), {**target_a, "weights": weights}

    samples = (GREY, make_target()), (GREY // 2, make_target())
    grid = lambda_grid(*samples, mix, class_names=["RBC"])
    assert asked == pytest.approx(np.arange(1, 10) / 10)
    assert {100, 50 + 25} <= set(np.asarray(lambda_grid(*samples, mix, lams=[0.5, 1.0])).flatten().tolist())
    assert grid.width > 3 * 384


@pytest.mark.parametrize(("classes", "plots"), [(0, 1), (1, 1), (6, 1), (7, 7), (20, 20)])
def test_precision_recall_curves_are_told_apart(tmp_path, classes, plots):
    curves = {f"class ${n}": make_curve(n) for n in range(classes)}
    figure = precision_recall_figure(curves, title="$5 and $")
    assert isinstance(figure, Figure)
    assert len(figure.axes) == plots
    np.testing.assert_array_equal(
        [line.get_ydata()[1:] for line in lines_of(figure)], [c.precision for c in curves.values()]
    )
    if plots == 1:
        styles = [
            (line.get_color(), line.get_linestyle(), tuple(line._dash_pattern[1] or ())) for line in lines_of(figure)
        ]
        assert len({color for color, *_ in styles}) == len({tuple(dash) for _, *dash in styles}) == classes
        shown = figure.axes[0].get_legend().get_texts() if classes else []
        assert [text.get_text() for text in shown] == list(curves)
    else:
        assert [axis.get_title() for axis in figure.axes] == list(curves)
    render(figure, tmp_path)


def test_precision_is_drawn_in_steps_up_to_the_last_recall_that_was_reached(tmp_path):
    recall = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    padded = Curve(recall, np.array([0.9, 0.9, 0.4, 0.0, 0.0]), recall)
    raw = Curve(np.array([0.0, 0.25, 0.5, 0.5]), np.array([0.0, 0.5, 2 / 3, 0.5]), recall[:4])
    nothing = Curve(recall, np.zeros(5), recall)
    figure = precision_recall_figure({"padded": padded, "raw": raw, "nothing": nothing})
    drawn = [line.get_xydata().tolist() for line in lines_of(figure)]
    assert drawn == [
        [[0, 0.9], [0, 0.9], [0.25, 0.9], [0.5, 0.4]],
        [[0, 2 / 3], [0, 2 / 3], [0.25, 2 / 3], [0.5, 2 / 3], [0.5, 0.5]],
        [],
    ]
    assert {line.get_drawstyle() for line in lines_of(figure)} == {"steps-pre"}
    assert [line.get_markevery() for line in lines_of(figure)] == [[-1]] * 3
    render(figure, tmp_path)


def test_single_points_of_a_short_run_are_told_apart_without_colour(tmp_path):
    keys = [f"val/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "voc/AP50", "voc/AP50_11point")]
    figure = history_figures(*history_series([{"step": 4} | dict.fromkeys(keys, 0.5)]))["average precision"]
    render(figure, tmp_path)
    (axis,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == keys
    assert len({line.get_marker() for line in axis.get_lines()}) == len(keys)
    assert [tick for tick in axis.get_xticks() if 3 < tick < 5] == [4]
    assert not legend.get_window_extent().overlaps(axis.get_window_extent())


ROWS = [
    {"step": 0, "epoch": 0, "train/loss": 2.0, "lr": 0.1},
    {"step": 10, "epoch": 0, "train/loss": "1.5", "val/loss": "", "lr": None},
    {"step": 19, "epoch": 0, "val/loss": 1.8, "val/AP": 0.25, "val/AP50": 0.5, "val/APs": -1, "train/delta": -1},
    {"step": 20, "epoch": 1, "train/loss": float("nan"), "train/loss_box_reg": 0.5, "note": "text"},
]


def test_history_is_sorted_into_series_without_its_gaps():
    axis, series = history_series(ROWS)
    assert axis == "step"
    assert {name: points.tolist() for name, points in series.items()} == {
        "train/loss": [[0, 2.0], [10, 1.5]],
        "lr": [[0, 0.1]],
        "val/loss": [[19, 1.8]],
        "val/AP": [[19, 0.25]],
        "val/AP50": [[19, 0.5]],
        "train/delta": [[19, -1.0]],
        "train/loss_box_reg": [[20, 0.5]],
    }


@pytest.mark.parametrize(("keys", "axis"), [({"epoch": 3}, "epoch"), ({}, "row"), ({"step": "", "epoch": 3}, "epoch")])
def test_history_counts_what_there_is(keys, axis):
    name, series = history_series([{**keys, "train/loss": 1.0}])
    assert (name, series["train/loss"].tolist()) == (axis, [[3.0 if axis == "epoch" else 0.0, 1.0]])


def test_history_has_a_plot_for_each_quantity(tmp_path):
    figures = history_figures(*history_series(ROWS))
    shown = {title: [line.get_label() for line in lines_of(figure)] for title, figure in figures.items()}
    assert shown == {
        "loss": ["train/loss", "val/loss"],
        "loss_box_reg": ["train/loss_box_reg"],
        "lr": ["lr"],
        "average precision": ["val/AP", "val/AP50"],
        "delta": ["train/delta"],
    }
    for title, figure in figures.items():
        (axis,) = figure.axes
        assert (axis.get_title(), axis.get_xlabel()) == (title, "step")
        render(figure, tmp_path)


@pytest.mark.parametrize("rows", [[], [{"step": 1, "epoch": 0}], [{"step": 1, "train/loss": ""}]])
def test_history_without_values_has_no_plots(rows):
    assert history_figures(*history_series(rows)) == {}


@pytest.mark.parametrize(("classes", "shown"), [(3, True), (6, True), (7, False)])
def test_history_of_single_classes_is_drawn_while_it_can_be_told_apart(classes, shown):
    row = {"step": 1, "val/AP": 0.5, "val/voc/AP50": 0.6, "val/voc/AP50_11point": 0.6}
    row |= {f"val/AP/cat/{n}": -1 if n == 0 else 0.1 * n for n in range(classes + 1)}
    figures = history_figures(*history_series([row]))
    lines = {title: len(lines_of(figure)) for title, figure in figures.items()}
    assert lines == {"average precision": 3, **({"AP by class": classes} if shown else {})}


@pytest.mark.parametrize("count", [1000, 1001, 20_000])
def test_a_long_line_is_drawn_by_the_points_that_show(count):
    points = np.stack([np.arange(count), np.random.default_rng(0).normal(size=count)], axis=1)
    points[[count // 3, count // 2], 1] = 9, -9  # each of a single step
    [line] = lines_of(history_figures("step", {"train/loss": points})["loss"])
    drawn = line.get_xydata()
    assert len(drawn) <= 1002
    assert {tuple(point) for point in drawn} <= {tuple(point) for point in points}
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert np.array_equal(drawn[[0, -1]], points[[0, -1]])
    for part in np.array_split(points, 100):  # no pixel across is left without its ends
        within = drawn[(drawn[:, 0] >= part[0, 0]) & (drawn[:, 0] <= part[-1, 0]), 1]
        assert (within.min(), within.max()) == (part[:, 1].min(), part[:, 1].max())


def test_figures_leave_pyplot_alone():
    from matplotlib import pyplot

    precision_recall_figure({"cat": make_curve()})
    history_figures(*history_series(ROWS))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("objective", "overlap", "cat", "dog", "background"),
    [
        ("weighted", False, 0.3, 0.0, 0.0),
        ("weighted", True, 0.3, 0.0, 0.0),
        ("pair", False, 0.3, 0.0, 0.7),
        ("pair", True, 0.3, 0.7, 0.0),
        ("unweighted", False, 1.0, 0.0, 0.0),
        ("unweighted", True, 1.0, 0.0, 0.0),
    ],
)
def test_objective_losses_are_the_sums_of_the_docs(objective, overlap, cat, dog, background):
    expected = -(cat * math.log(0.5) + dog * math.log(0.3) + background * math.log(0.2))
    assert objective_losses(0.3, objective, overlap=overlap) == pytest.approx(expected, rel=1e-5)


def test_objectives_figure_draws_each_objective_in_both_plots(tmp_path):
    figure = objectives_figure()
    assert [[line.get_label() for line in axis.get_lines()] for axis in figure.axes] == [
        ["weighted", "pair", "unweighted"]
    ] * 2
    render(figure, tmp_path)
