"""Files of one made-up scene: its ground truth in either layout, and predictions of either form."""

import io
import json

import numpy as np
from rich.console import Console

from detmix.reporting import CocoFile, VocFolder, evaluate_files
from tests.test_data_voc import document, folder, thing

NAMES = ("cat", "dog")


def draw_scene(seed=0, images=5, size=80):
    """Objects and detections as (image, class, kit box, score), images and classes from 0; few are difficult."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        corners = rng.integers(1, size - 40, (count, 2))
        return np.concatenate([corners, corners + rng.integers(5, 40, (count, 2))], 1)

    objects = [(int(rng.integers(images)), int(rng.integers(2)), b.tolist(), rng.random()) for b in boxes(40)]
    near = [(i, k, (np.array(b) + rng.integers(-2, 3, 4)).tolist(), s) for i, k, b, s in objects if s < 0.8]
    away = [(int(rng.integers(images)), int(rng.integers(2)), b.tolist(), rng.random()) for b in boxes(40)]
    return objects, near + away


def coco_box(box):
    x1, y1, x2, y2 = box
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def corner_points(box):
    x1, y1, x2, y2 = box
    return [x1, y1, 2, x2, y2, 2]


def write_coco(path, objects, images=5, size=80):
    rows = [
        {"id": n, "image_id": i + 1, "category_id": k + 1, "bbox": coco_box(b), "difficult": int(s > 0.9)}
        | {"keypoints": corner_points(b)}
        for n, (i, k, b, s) in enumerate(objects, 1)
    ]
    truth = {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "height": size, "width": size} for i in range(images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)],
        "annotations": rows,
    }
    path.write_text(json.dumps(truth))
    return CocoFile(path)


def write_voc(root, objects, images=5):
    things = [[thing(NAMES[k], b, int(s > 0.9)) for image, k, b, s in objects if image == i] for i in range(images)]
    size = "<size><width>80</width><height>80</height></size>"
    documents = {str(i): document(*found, size=size, name="") for i, found in enumerate(things)}
    return VocFolder(folder(root, documents, "val"), "val")


def write_results(path, detections):
    rows = [
        {"image_id": i + 1, "category_id": k + 1, "bbox": coco_box(b), "score": s, "keypoints": corner_points(b)}
        for i, k, b, s in detections
    ]
    path.write_text(json.dumps(rows))
    return path


def write_kit(path, detections):
    path.mkdir()
    for label, name in enumerate(NAMES):
        lines = [f"{i} {s!r} {' '.join(map(str, b))}\n" for i, k, b, s in detections if k == label]
        (path / f"comp3_det_val_{name}.txt").write_text("".join(lines))
    return path


def write_files(folder):
    """Both layouts of one scene, and both forms of its predictions, by name."""
    objects, detections = draw_scene()
    return {
        "coco": write_coco(folder / "truth.json", objects),
        "voc": write_voc(folder / "VOC", objects),
        "results": write_results(folder / "results.json", detections),
        "kit": write_kit(folder / "kit", detections),
    }


def text_of(tables):
    console = Console(width=100, file=io.StringIO())
    console.print(tables)
    return console.file.getvalue()


def content_of(tmp_path, *arguments, **options):
    evaluate_files(*arguments, json_file=tmp_path / "new/numbers.json", **options)
    return json.loads((tmp_path / "new/numbers.json").read_text())
