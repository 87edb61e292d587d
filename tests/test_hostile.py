"""Whatever a file holds, its reader takes it or names it: no other error, and an end."""

import encodings.aliases
import io
import json
import os
import resource
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detmix.data import DetectionDataset, read_coco, read_image, read_voc
from detmix.data.find import stated_images
from detmix.data.images import size_in_header
from detmix.evaluation import evaluate_coco, evaluate_voc, find_mistakes
from detmix.evaluation.kit_files import read_kit_files
from detmix.evaluation.reading import read_ground_truth
from detmix.training.checkpoints import read_checkpoint
from detmix.training.models import untrained_detector
from detmix.training.trained import open_trained
from detmix.training.weights import read_state

from .conftest import ROOT, needs_linux
from .hostile import changed, damaged, ending, read_or_refused
from .processes import run_apart
from .test_data_images import QUARTERS
from .test_data_voc import document, folder, thing

LIMIT = 300  # seconds; what reads a small file for as long on a busy machine hangs


def fuzz(*values, examples=150, **named):
    """Calls a test with many values, and ends each call in time.

    A limit on all of them would end the whole process where Hypothesis is about to tell the value that failed.
    """
    unhealthy = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    chosen = settings(max_examples=examples, deadline=None, suppress_health_check=unhealthy)
    return lambda test: chosen(given(*values, **named)(ending(LIMIT)(test)))


HANGING = """
import time
from tests.hostile import ending

def test_that_hangs():
    with ending(1):
        time.sleep(300)
"""


def run_pytest(file):
    sys.exit(pytest.main(["-p", "tests.conftest", "-p", "no:cacheprovider", str(file)]))


def test_what_hangs_ends_all_tests_and_its_place_is_shown(tmp_path):
    (tmp_path / "test_one.py").write_text(HANGING)
    assert run_apart(run_pytest, tmp_path / "test_one.py", output=tmp_path / "said.txt") == 1
    assert 'test_one.py", line 7 in test_that_hangs' in (tmp_path / "said.txt").read_text()


SQUARE = [[1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0]]
TRUTH = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 12} for i in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 3, 3], "area": 9.0, "segmentation": SQUARE},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 7,
            "bbox": [2, 2, 5, 5],
            "iscrowd": 1,
            "segmentation": {"size": [10, 12], "counts": [20, 60, 40]},
        },
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "info": {"year": 2017},
}
FOUND = [
    {
        "image_id": 1,
        "category_id": 3,
        "bbox": [1, 1, 3, 3],
        "score": 0.9,
        "segmentation": {"size": [10, 12], "counts": "D33O1"},
    },
    {
        "image_id": 2,
        "category_id": 7,
        "bbox": [2, 2, 5, 5],
        "score": 0.4,
        "segmentation": {"size": [10, 12], "counts": [20, 60, 40]},
    },
]


@pytest.fixture(autouse=True)
def _ends():
    with ending(LIMIT):
        yield


def as_json(content):
    return json.dumps(content).encode()


def walk_coco(file):
    for masks in (False, True):
        found = read_or_refused(lambda masks=masks: read_coco(file, file.parent / "images", masks=masks), str(file))
        if found is not None:
            dataset = DetectionDataset(found)
            json.dumps(dataset.ground_truth())
            for index in range(len(dataset)):
                assert dataset.image_path(index).is_relative_to(file.parent / "images")
                if not masks or found.sizes[index].max() < 100:  # masks are drawn if the image has its size
                    read_or_refused(partial(dataset.target_of, index), "annotation")


@fuzz(changed(TRUTH))
def test_coco_annotations_with_other_values(tmp_path, content):
    (tmp_path / "set.json").write_bytes(as_json(content))
    walk_coco(tmp_path / "set.json")


@fuzz(damaged(as_json(TRUTH)))
def test_coco_annotations_with_other_bytes(tmp_path, data):
    (tmp_path / "set.json").write_bytes(data)
    walk_coco(tmp_path / "set.json")
    read_or_refused(lambda: stated_images(tmp_path / "set.json", [tmp_path / "1.png"]), str(tmp_path))


def evaluate(truth, found, *names):
    for kind in ("bbox", "segm"):
        read_or_refused(lambda kind=kind: evaluate_coco(truth, found, kind), *names)
    read_or_refused(lambda: evaluate_voc(truth, found), *names)


@fuzz(changed(FOUND))
def test_results_with_other_values(tmp_path, content):
    (tmp_path / "found.json").write_bytes(as_json(content))
    evaluate(TRUTH, tmp_path / "found.json", str(tmp_path))


@fuzz(damaged(as_json(FOUND)))
def test_results_with_other_bytes(tmp_path, data):
    (tmp_path / "found.json").write_bytes(data)
    evaluate(TRUTH, tmp_path / "found.json", str(tmp_path))


@fuzz(changed(TRUTH))
def test_ground_truth_with_other_values(tmp_path, content):
    (tmp_path / "truth.json").write_bytes(as_json(content))
    evaluate(tmp_path / "truth.json", FOUND, str(tmp_path), "predictions")  # which are of images that it lacks


@fuzz(damaged(document(thing(), thing("cat", (1, 2, 3, 4))).encode()))
def test_voc_annotations_with_other_bytes(tmp_path, data):
    folder(tmp_path, {"a": ""})
    (tmp_path / "Annotations" / "a.xml").write_bytes(data)
    found = read_or_refused(lambda: read_voc(tmp_path), str(tmp_path))
    assert found is None or found.image_path(0).is_relative_to(tmp_path / "JPEGImages")


ENCODINGS = sorted({"foo", "mbcs", *encodings.aliases.aliases.values()})


def test_voc_annotations_in_any_encoding_that_they_claim(tmp_path):
    root = folder(tmp_path, {"a": ""})
    text = document(thing()).encode()
    for encoding in ENCODINGS:
        (root / "Annotations" / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + text)
        read_or_refused(lambda: read_voc(root), "a.xml")


@fuzz(damaged(b"a 1\nb -1\n"))
def test_image_sets_with_other_bytes(tmp_path, data):
    folder(tmp_path, {"a": document(thing()), "b": document()})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(data)
    read_or_refused(lambda: read_voc(tmp_path), str(tmp_path))


@fuzz(data=st.data())
def test_a_voc_index_with_other_bytes_counts_for_nothing(tmp_path, data):
    root, cache = folder(tmp_path / "voc", {"a": document(thing())}), tmp_path / "cache"
    os.utime(root / "Annotations" / "a.xml", (1, 1))
    wanted = read_voc(root, cache_dir=cache).ground_truth()
    [file] = cache.iterdir()
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    assert read_voc(root, cache_dir=cache).ground_truth() == wanted


KIT = b"1 0.5 2 2 4 4\n2 0.25 1 1 9 9\n1 1e-3 1.5 1 2 2\n"


@fuzz(damaged(KIT))
def test_the_kits_text_files_with_other_bytes(tmp_path, data):
    (tmp_path / "comp4_det_val_cat.txt").write_bytes(data)
    truth = read_ground_truth(TRUTH)
    read_or_refused(lambda: read_kit_files(tmp_path, truth, "val"), str(tmp_path))


@fuzz(changed({"images": TRUTH["images"], "categories": TRUTH["categories"]}), examples=60)
def test_what_ids_mean_with_other_values(tmp_path, content):
    (tmp_path / "predictions.json").write_bytes(as_json(FOUND))
    (tmp_path / "images.json").write_bytes(as_json(content))
    read_or_refused(lambda: evaluate_coco(TRUTH, tmp_path / "predictions.json"), str(tmp_path))


def image_bytes(kind, **options):
    file = io.BytesIO()
    Image.fromarray(QUARTERS).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
@fuzz(data=st.data())
def test_images_with_other_bytes(tmp_path, kind, data):
    file = tmp_path / "image"
    file.write_bytes(data.draw(damaged(image_bytes(kind))))
    image = read_or_refused(lambda: read_image(file, QUARTERS.shape[:2]), str(file))
    assert image is None or image.shape == (3, *QUARTERS.shape[:2])
    read_or_refused(lambda: size_in_header(file), str(file))


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@fuzz(damaged(saved({"state_dict": {"weight": torch.ones(3)}, "global_step": 1, "epoch": 0})))
def test_checkpoints_with_other_bytes(tmp_path, data):
    file = tmp_path / "model.pt"
    file.write_bytes(data)
    for mmap in (False, True):
        read_or_refused(lambda mmap=mmap: read_checkpoint(file, mmap=mmap), str(file))
    read_or_refused(lambda: read_state(file), str(file))


CATEGORIES = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}, {"id": 5, "name": "triangle"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, with weights and classes."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(ROOT / "configs" / "quickstart.yaml", folder / "config.yaml")
    torch.save(untrained_detector("fasterrcnn_resnet18_small", 4).state_dict(), folder / "model.pt")
    return folder


@fuzz(changed(CATEGORIES) | damaged(as_json(CATEGORIES)), examples=15)
def test_the_classes_of_a_run_with_other_values(run, content):
    (run / "classes.json").write_bytes(content if isinstance(content, bytes) else as_json(content))
    read_or_refused(lambda: open_trained(str(run / "model.pt")), str(run))


DEEP = b"[" * 200_000


@pytest.mark.parametrize("text", [DEEP, b'{"info": ' + DEEP, b'{"images": ' + DEEP, b'[{"image_id": ' + DEEP])
def test_what_is_nested_without_end_is_refused(tmp_path, run, text):
    file, classes = tmp_path / "deep.json", run / "classes.json"
    file.write_bytes(text)
    classes.write_bytes(text)
    evaluate(TRUTH, file, str(file))
    evaluate(file, FOUND, str(file))
    for read in (
        lambda: read_coco(file, tmp_path),
        lambda: stated_images(file, [tmp_path / "1.png"]),
        lambda: evaluate_coco(TRUTH, file),
        lambda: evaluate_coco(file, FOUND),
        lambda: open_trained(str(run / "model.pt")),
    ):
        with pytest.raises(ValueError, match=r"deep\.json|classes\.json"):
            read()


def test_xml_that_is_nested_without_end_is_read_past(tmp_path):
    deep = "<part>" * 100_000 + "</part>" * 100_000
    folder(tmp_path, {"a": document(thing(), deep)})
    assert len(read_voc(tmp_path).boxes) == 1


HUGE = {"size": [100_000, 100_000], "counts": [0, 10_000_000_000]}


def outlined(polygon, height, width):
    """The ground truth with one polygon for all objects of images of a size."""
    return {
        **TRUTH,
        "images": [{**image, "height": height, "width": width} for image in TRUTH["images"]],
        "annotations": [{**row, "segmentation": [polygon]} for row in TRUTH["annotations"]],
    }


def header(kind, size):
    """An image file that says how large it is, and has hardly a pixel."""
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, kind)
    small, large = ((16).to_bytes(4, order) * 2 for order in ("big", "little"))
    wanted = [side.to_bytes(4, order) for order in ("big", "little") for side in size]
    return file.getvalue().replace(small, b"".join(wanted[:2]), 1).replace(large, b"".join(wanted[2:]), 1)


def read_small_files(folder, megabytes):
    """Read files that say that they hold much, in as much memory as this process has, and some more."""
    headers = {kind: header(kind, (60_000, 60_000)) for kind in ("png", "bmp")}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (megabytes << 20),) * 2)
    for kind, content in headers.items():
        file = folder / f"a.{kind}"
        file.write_bytes(content)
        read_or_refused(lambda file=file: read_image(file), str(file))
    file = folder / "a.json"
    for truth, found in (
        ({**TRUTH, "images": [{**image, "height": 10**5, "width": 10**5} for image in TRUTH["images"]]}, FOUND),
        ({**TRUTH, "annotations": [{**row, "segmentation": HUGE} for row in TRUTH["annotations"]]}, FOUND),
        (TRUTH, [{**row, "segmentation": HUGE} for row in FOUND]),
        (TRUTH, [{**row, "segmentation": {"size": [10**5] * 2, "counts": "0" * 9}} for row in FOUND]),
        (TRUTH, [{**row, "score": 10**400} for row in FOUND]),
        *((outlined([0, 0, w, 0, w, 1, 0, 1], 1, w), []) for w in (2 * 10**7, 2**31 - 1)),
        (outlined([0, 0, 500, 500] * 10_000, 500, 500), []),
    ):
        evaluate(truth, found, "ground truth", "predictions")
        file.write_bytes(as_json(truth))
        walk_coco(file)
    assert evaluate_voc(*crowded(1500)).ap == 1
    assert find_mistakes(*crowded(1500)).images[0].found == 1500


def crowded(count):
    """An image with so many objects, one on the other, and their detections."""
    rows = [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 3, 3 + n], "id": n} for n in range(count)]
    return {**TRUTH, "annotations": rows}, [{**row, "score": 0.5} for row in rows]


@needs_linux
def test_small_files_that_claim_much_take_little_memory(tmp_path):
    said = tmp_path / "said.txt"
    assert run_apart(read_small_files, tmp_path, 256, output=said) == 0, said.read_text()
    assert run_apart(read_small_files, tmp_path, 1, output=said) != 0  # the limit is one
    assert any(word in said.read_text() for word in ("MemoryError", "memory", "bad_alloc"))
