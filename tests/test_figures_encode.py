import base64
import io
import random

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from detmix.figures.encode import data_url


def decoded(url):
    head, _, content = url.partition(";base64,")
    return head, base64.b64decode(content)


def make_figure(points=2):
    figure = Figure(figsize=(4, 2))
    axis = figure.add_subplot()
    axis.set_axis_off()
    axis.plot(np.random.default_rng(0).random(points))
    return figure


def test_a_photograph_is_scaled_down_but_never_up():
    for size, wanted in (((1280, 640), (640, 320)), ((100, 800), (80, 640)), ((30, 20), (30, 20))):
        head, content = decoded(data_url(Image.new("RGB", size, "red")))
        picture = Image.open(io.BytesIO(content))
        assert (head, picture.format, picture.size) == ("data:image/webp", "WEBP", wanted)
    assert Image.open(io.BytesIO(decoded(data_url(Image.new("RGB", (9, 4)), longest=3))[1])).size == (3, 1)


def test_a_photograph_stays_what_it_was():
    image = Image.new("RGB", (200, 100), "red")
    before = image.tobytes()
    data_url(image, longest=50)
    assert (image.size, image.tobytes()) == ((200, 100), before)


def test_a_photograph_with_transparency_or_grey_levels_can_be_sent():
    for mode in ("RGBA", "L", "P"):
        head, _ = decoded(data_url(Image.new(mode, (8, 8))))
        assert head == "data:image/webp"


def test_a_plot_takes_the_smaller_of_its_forms():
    head, content = decoded(data_url(make_figure()))
    assert head == "data:image/svg+xml"
    assert content.startswith(b"<?xml")
    head, content = decoded(data_url(make_figure(points=60_000)))
    assert head == "data:image/png"
    assert Image.open(io.BytesIO(content)).size == (600, 300)


def test_the_same_plot_gives_the_same_bytes():
    first = data_url(make_figure())
    random.seed(0)
    assert data_url(make_figure()) == first
