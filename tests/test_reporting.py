"""evaluate_files: either rule on either layout, with predictions of either form."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from detmix.evaluation import compare_coco, compare_voc, evaluate_coco, evaluate_voc, find_mistakes
from detmix.reporting import CocoFile, Options, VocFolder, evaluate_files
from tests.test_data_voc import document, folder, thing
from tests.test_evaluation_coco import add_masks, make_scene

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


def write_coco(path, objects, images=5, size=80):
    rows = [
        {"id": n, "image_id": i + 1, "category_id": k + 1, "bbox": coco_box(b), "difficult": int(s > 0.9)}
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
    rows = [{"image_id": i + 1, "category_id": k + 1, "bbox": coco_box(b), "score": s} for i, k, b, s in detections]
    path.write_text(json.dumps(rows))
    return path


def write_kit(path, detections):
    path.mkdir()
    for label, name in enumerate(NAMES):
        lines = [f"{i} {s!r} {' '.join(map(str, b))}\n" for i, k, b, s in detections if k == label]
        (path / f"comp3_det_val_{name}.txt").write_text("".join(lines))
    return path


@pytest.fixture
def files(tmp_path):
    """Both layouts of one scene, and both forms of its predictions, by name."""
    objects, detections = draw_scene()
    return {
        "coco": write_coco(tmp_path / "truth.json", objects),
        "voc": write_voc(tmp_path / "VOC", objects),
        "results": write_results(tmp_path / "results.json", detections),
        "kit": write_kit(tmp_path / "kit", detections),
    }


def text_of(tables):
    console = Console(width=100, file=io.StringIO())
    console.print(tables)
    return console.file.getvalue()


def content_of(tmp_path, *arguments, **options):
    evaluate_files(*arguments, json_file=tmp_path / "new/numbers.json", **options)
    return json.loads((tmp_path / "new/numbers.json").read_text())


@pytest.mark.parametrize("rules", ["coco", "voc"])
@pytest.mark.parametrize("layout", ["coco", "voc"])
@pytest.mark.parametrize("form", ["results", "kit"])
def test_either_rule_on_either_layout_with_either_form(tmp_path, files, rules, layout, form):
    content = content_of(tmp_path, files[layout], files[form], Options(rules))
    truth, results = tmp_path / "truth.json", files["results"]
    if rules == "coco":
        wanted = evaluate_coco(truth, results)
        assert content["metrics"] == pytest.approx(wanted.metrics, abs=1e-12)
        assert content["by_class"]["cat"]["AP50"] == pytest.approx(wanted.ap50_by_class["cat"], abs=1e-12)
    else:
        wanted = evaluate_voc(truth, results)
        assert content["metrics"] == {"AP": pytest.approx(wanted.ap, abs=1e-12)}
    assert 0 < content["metrics"]["AP"] < 1
    assert {name: row["AP"] for name, row in content["by_class"].items()} == pytest.approx(wanted.ap_by_class)
    assert {name: row["objects"] for name, row in content["by_class"].items()} == wanted.objects_by_class
    mistakes = find_mistakes(truth, results)
    assert content["confusion"]["counts"] == mistakes.confusion.tolist()
    assert content["worst_images"] == [asdict(image) for image in mistakes.worst()]


def test_tables_tell_numbers_classes_confusions_and_images(files):
    wanted = evaluate_coco(files["coco"].annotations, files["results"])
    text = text_of(evaluate_files(files["coco"], files["results"], Options()))
    for name, value in wanted.metrics.items():
        assert any(line.split()[:2] == [name, "–" if value == -1 else f"{value:.3f}"] for line in text.splitlines())
    for word in ("By the rules of COCO, boxes", "average precision at IoU 0.75", "cat", "taken for", "3.jpg", "missed"):
        assert word in text


def test_a_name_is_text_whatever_the_terminal_would_make_of_it(tmp_path):
    truth, predictions = make_scene(0)
    for category in truth["categories"]:
        category["name"] += "\x1b[2J\n[red]"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    options = Options()
    text = text_of(evaluate_files(CocoFile(tmp_path / "truth.json"), tmp_path / "results.json", options))
    assert "\x1b" not in text
    assert "\ufffd[2J\ufffd[red]" in text


def test_masks_and_the_fast_backend(tmp_path):
    truth, predictions = make_scene(0)
    add_masks(truth["annotations"] + predictions)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    options = Options(iou_type="segm", backend="faster-coco-eval")
    content = content_of(tmp_path, CocoFile(tmp_path / "truth.json"), tmp_path / "results.json", options)
    assert content["metrics"] == evaluate_coco(truth, predictions, "segm").metrics
    assert {"detmix", "pycocotools", "numpy", "faster-coco-eval"} <= content["versions"].keys()
    assert content["confusion"]["counts"] == find_mistakes(truth, predictions, masks=True).confusion.tolist()


def test_proposals(tmp_path, files):
    rows = [{k: v for k, v in row.items() if k != "category_id"} for row in json.loads(files["results"].read_text())]
    files["results"].write_text(json.dumps(rows))
    options = Options(class_agnostic=True, max_detections=[5, 20])
    content = content_of(tmp_path, files["coco"], files["results"], options)
    wanted = evaluate_coco(tmp_path / "truth.json", rows, class_agnostic=True, max_detections=[5, 20])
    assert content["metrics"] == wanted.metrics
    assert "confusion" not in content
    text = text_of(evaluate_files(files["coco"], files["results"], options))
    assert "all classes taken for one" in text
    assert "with 5 detections per image" in text
    assert "AR20 of small objects" in text
    assert not any(words in text for words in ("the same", "AR100", "and class"))


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_a_comparison_puts_two_forms_side_by_side(tmp_path, files, layout):
    other = write_kit(tmp_path / "other", draw_scene()[1][::2])
    rows = write_results(tmp_path / "other.json", draw_scene()[1][::2])
    options, given = Options(layout, iou=0.6 if layout == "voc" else None), {"other": other, "resamples": 60}
    content = content_of(tmp_path, files[layout], files["results"], options, **given)
    arguments = tmp_path / "truth.json", files["results"], rows
    compare = compare_coco if layout == "coco" else lambda *a, **k: compare_voc(*a, iou=0.6, **k)
    wanted = compare(*arguments, resamples=60)
    found = content["comparison"]["differences"]
    assert list(found) == list(wanted)
    for name, difference in wanted.items():
        assert found[name] == pytest.approx(
            {**asdict(difference), "difference": difference.value, "clear": difference.clear}, abs=1e-9
        )
    text = text_of(evaluate_files(files[layout], files["results"], options, **given))
    assert "Intervals from 60 draws of the 5 images" in text
    (line,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["AP/cat"]]
    cat = wanted["AP/cat"]
    assert line[1:4] == [f"{cat.first:.3f}", f"{cat.second:.3f}", f"{cat.value:+.3f}"]


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_one_image_has_no_interval_and_no_verdict(tmp_path, layout):
    objects = [(0, 0, [1, 1, 40, 40], 0.5)]
    source = {"coco": write_coco, "voc": write_voc}[layout](tmp_path / "truth", objects, images=1)
    results, nothing = write_results(tmp_path / "a.json", objects), write_results(tmp_path / "b.json", [])
    given = {"other": nothing, "resamples": 5, "plots": tmp_path / "plots"}
    row = content_of(tmp_path, source, results, Options(layout), **given)["comparison"]["differences"]["AP/cat"]
    assert (row["low"], row["high"], row["clear"], row["images"]) == (None, None, False, 1)
    text = text_of(evaluate_files(source, results, Options(layout), other=nothing, resamples=5))
    (line,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["AP/cat"]]
    assert line[4:] == ["too", "few", "images"]
    assert "Fewer than 100 images have objects that bear on AP" in " ".join(text.split())


def test_a_runs_folder_is_its_predictions_with_the_classes_that_it_states(tmp_path, files):
    wanted = evaluate_voc(tmp_path / "truth.json", files["results"])
    run = tmp_path / "run"
    run.mkdir()
    write_results(run / "predictions.json", [*draw_scene()[1], (0, 2, [1, 1, 9, 9], 0.9)])
    (run / "classes.json").write_text(json.dumps([{"id": k, "name": n} for k, n in enumerate((*NAMES, "owl"), 1)]))
    content = content_of(tmp_path, files["voc"], run, Options("voc"))
    assert content["by_class"]["owl"] == {"objects": 0, "AP": -1}
    assert content["metrics"]["AP"] == pytest.approx(wanted.ap, abs=1e-12)
    text = text_of(evaluate_files(files["voc"], run, Options("voc")))
    assert "Classes without objects, which do not count: 1" in text
    wanted = evaluate_coco(tmp_path / "truth.json", files["results"])
    content = content_of(tmp_path, files["coco"], run, Options())
    assert content["by_class"]["owl"]["objects"] == 0
    assert content["metrics"] == pytest.approx(wanted.metrics, abs=1e-12)


def test_a_stated_class_comes_after_those_of_the_file_whatever_ids_these_have(tmp_path, files):
    truth = json.loads((tmp_path / "truth.json").read_text())
    for rows, key in (("categories", "id"), ("annotations", "category_id")):
        for row in truth[rows]:
            row[key] += 1
    wanted = evaluate_coco(tmp_path / "truth.json", files["results"])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    run = tmp_path / "run"
    run.mkdir()
    write_results(run / "predictions.json", [*draw_scene()[1], (0, 2, [1, 1, 9, 9], 0.9)])
    (run / "classes.json").write_text(json.dumps([{"id": k, "name": n} for k, n in enumerate((*NAMES, "owl"), 1)]))
    content = content_of(tmp_path, files["coco"], run, Options())
    assert content["metrics"] == pytest.approx(wanted.metrics, abs=1e-12)
    assert list(content["by_class"]) == [*NAMES, "owl"]


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_a_stated_class_is_none_that_a_plain_list_can_mean(tmp_path, files, layout):
    run = tmp_path / "run"
    run.mkdir()
    write_results(run / "predictions.json", draw_scene()[1])
    (run / "classes.json").write_text(json.dumps([{"id": k, "name": n} for k, n in enumerate((*NAMES, "owl"), 1)]))
    write_results(files["results"], [*draw_scene()[1], (0, 2, [1, 1, 9, 9], 0.9)])
    with pytest.raises(ValueError, match=r"results\.json: unknown category_id 3 - at"):
        evaluate_files(files[layout], files["results"], Options(layout), other=run)


def test_stated_classes_in_another_spelling_are_no_classes_more(tmp_path, files):
    run = tmp_path / "run"
    run.mkdir()
    write_results(run / "predictions.json", draw_scene()[1])
    (run / "classes.json").write_text(json.dumps([{"id": k, "name": n} for k, n in enumerate(("Cat", "dog"), 1)]))
    with pytest.raises(ValueError, match=r"classes\.json\): category_id 1 is 'Cat', .*it has 'cat', 'dog' -"):
        evaluate_files(files["coco"], run, Options())
    other = tmp_path / "other"
    other.mkdir()
    write_results(other / "predictions.json", draw_scene()[1])
    (other / "classes.json").write_text(json.dumps([{"id": k, "name": n} for k, n in enumerate(NAMES, 1)]))
    with pytest.raises(ValueError, match=r"run/classes\.json\): category_id 1 is 'Cat', "):
        evaluate_files(files["coco"], run, Options(), other=other)


def test_the_kits_classes_need_no_objects(tmp_path, files):
    (files["kit"] / "comp3_det_val_cow.txt").write_text("0 0.5 1 1 9 9\n")
    content = content_of(tmp_path, files["voc"], files["kit"], Options("voc"))
    assert list(content["by_class"]) == [*NAMES, "cow"]
    given = VocFolder(files["voc"].root, "val", ["cow", *NAMES])
    assert list(content_of(tmp_path, given, files["kit"], Options("voc"))["by_class"]) == ["cow", *NAMES]
    (files["kit"] / "comp3_det_val_unicorn.txt").write_text("")
    with pytest.raises(ValueError, match=r"unicorn.txt: no class is called 'unicorn'"):
        evaluate_files(files["voc"], files["kit"], Options("voc"))


def test_how_the_numbers_of_bare_results_are_taken_is_told(files):
    told = (
        "taken are the classes 1 cat, 2 dog (--classes changes that), and the images from 1 on in the order of val.txt"
    )
    assert told in " ".join(text_of(evaluate_files(files["voc"], files["results"], Options("voc"))).split())
    assert "taken are" not in text_of(evaluate_files(files["coco"], files["results"], Options("voc")))
    stated = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    files["results"].with_name("classes.json").write_text(json.dumps(stated))
    run = files["results"].rename(files["results"].with_name("predictions.json"))
    assert "taken are" not in text_of(evaluate_files(files["voc"], run, Options("voc")))


def test_classes_without_a_file_are_named(files):
    (files["kit"] / "comp3_det_val_dog.txt").unlink()
    text = text_of(evaluate_files(files["voc"], files["kit"], Options("voc")))
    assert "has no file for dog: taken for nothing found" in " ".join(text.split())


def test_nothing_wrong_is_said_in_words(tmp_path, files):
    truth = json.loads((tmp_path / "truth.json").read_text())
    rows = [{**{k: row[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for row in truth["annotations"]]
    files["results"].write_text(json.dumps(rows))
    text = text_of(evaluate_files(files["coco"], files["results"], Options()))
    assert "No object was taken for another class." in text
    assert "No image has a mistake." in text
    assert "Confused most often" not in text
    assert "Images with the most mistakes" not in text


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_plots_are_written_beside_what_is_there(tmp_path, files, layout):
    plots = tmp_path / "plots"
    names = {"precision_recall.png", "average_precision.png", "confusion.png"}
    evaluate_files(files[layout], files["results"], Options(layout), plots=plots)
    assert {path.name for path in plots.iterdir()} == names
    for path in plots.iterdir():
        with Image.open(path) as picture:
            assert (picture.format, min(picture.size) > 200) == ("PNG", True)
    (plots / "mine.txt").write_text("kept")
    evaluate_files(files[layout], files["results"], Options(layout), plots=plots, other=files["kit"], resamples=5)
    assert {path.name for path in plots.iterdir()} == names | {"comparison.png", "mine.txt"}
    evaluate_files(files[layout], files["results"], Options(layout), plots=plots)
    assert {path.name for path in plots.iterdir()} == names | {
        "mine.txt"
    }  # no comparison that is of another evaluation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options("voc", backend="pycocotools"), "--backend belongs to the rules of COCO, and --rules is voc"),
        (Options("voc", class_agnostic=True), "--class-agnostic belongs to the rules of COCO"),
        (Options("coco", iou=0.5), "--iou belongs to the rules of VOC, and --rules is coco"),
        (Options("coco", use_07_metric=True), "--use-07-metric belongs to the rules of VOC"),
        (Options("voc", iou=2), r"--iou must lie in \(0, 1\], got 2"),
        (Options(max_detections=[0]), r"max_detections must be whole numbers of 1 or more, got \[0\]"),
        (Options(min_score=float("nan")), r"--min-score must lie in \[0, 1\], got nan"),
        (Options(min_score=2), r"--min-score must lie in \[0, 1\], got 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, files, options, message):
    files["coco"].annotations.unlink()  # nothing is read before
    with pytest.raises(ValueError, match=message):
        evaluate_files(
            files["coco"], files["results"], options, json_file=tmp_path / "numbers.json", plots=tmp_path / "plots"
        )
    assert not {tmp_path / "numbers.json", tmp_path / "plots"} & set(tmp_path.iterdir())


def test_what_cannot_be_compared_or_written_is_refused_before_the_work(tmp_path, files):
    with pytest.raises(ValueError, match="--compare does not go together with --class-agnostic"):
        evaluate_files(files["coco"], files["kit"], Options(class_agnostic=True), other=files["kit"])
    with pytest.raises(ValueError, match="--resamples must be 1 or more, got 0"):
        evaluate_files(files["coco"], tmp_path / "nowhere.json", Options(), other=files["kit"], resamples=0)
    with pytest.raises(ValueError, match="--json must be a file, got .*kit, a folder"):
        evaluate_files(files["coco"], tmp_path / "nowhere.json", Options(), json_file=files["kit"])
    with pytest.raises(ValueError, match="--plots must be a folder, got .*results.json, a file"):
        evaluate_files(files["coco"], tmp_path / "nowhere.json", Options(), plots=files["results"])
    with pytest.raises(ValueError, match="--json: .*/n.json cannot be written, since .*results.json is no folder"):
        evaluate_files(files["coco"], tmp_path / "nowhere.json", Options(), json_file=files["results"] / "n.json")


def test_a_folder_that_cannot_be_made_is_named(files):
    nowhere = Path("/proc/nowhere/plots")  # not even root can make it
    if not nowhere.parent.parent.is_dir():
        pytest.skip("needs Linux's /proc")
    with pytest.raises((OSError, ValueError), match="/proc/nowhere/plots.* (cannot|could not) be written"):
        evaluate_files(files["coco"], files["results"], Options(), plots=nowhere)


def test_text_files_and_voc_folders_have_no_masks(files):
    options = Options(iou_type="segm")
    with pytest.raises(ValueError, match="a VOC folder has no masks: leave out --iou-type segm"):
        evaluate_files(files["voc"], files["results"], options)
    truth = json.loads(files["coco"].annotations.read_text())
    truth["annotations"] = []
    files["coco"].annotations.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="kit: the kit's text files have no masks"):
        evaluate_files(files["coco"], files["kit"], options)


@pytest.mark.parametrize("name", ["nowhere.json", "nowhere", "VOC"])
def test_missing_predictions_are_named(tmp_path, files, name):
    with pytest.raises(FileNotFoundError, match=rf"{name}.*: no such file; predictions are COCO results"):
        evaluate_files(files["coco"], tmp_path / name, Options())


def spoiled(detections, **changes):
    rows = [{"image_id": i + 1, "category_id": k + 1, "bbox": coco_box(b), "score": s} for i, k, b, s in detections]
    return [*rows[:3], {**rows[3], **changes}, *rows[4:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 9}, r"unknown image_id 9 - at `\$\[3\].image_id`"),
        ({"category_id": 0}, r"unknown category_id 0 - at `\$\[3\].category_id`"),
        ({"score": float("nan")}, r"score must be finite, got nan - at `\$\[3\].score`"),
        ({"score": 93}, r"score must lie in \[0, 1\], got 93.0 .*percentages"),
        ({"bbox": [5, 5, -1, 2]}, r"width and height of 0 or more, got .* at `\$\[3\].bbox`"),
    ],
)
@pytest.mark.parametrize("layout", ["coco", "voc"])
@pytest.mark.parametrize("comparing", [False, True])
def test_bad_results_name_file_and_record_and_nothing_is_written(tmp_path, files, layout, comparing, changes, message):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(spoiled(draw_scene()[1], **changes)))
    before = sorted(tmp_path.rglob("*"))
    pair = (files["results"], bad) if comparing else (bad, None)
    with pytest.raises(ValueError, match=rf"bad\.json: .*{message}"):
        evaluate_files(files[layout], pair[0], Options(layout), other=pair[1], json_file=tmp_path / "new/numbers.json")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_corners_in_the_place_of_sizes_and_cut_files_are_recognised(tmp_path, files, layout):
    rows = spoiled(draw_scene()[1])
    for row in rows:
        x, y, w, h = row["bbox"]
        row["bbox"] = [max(x, 0), max(y, 0), x + w, y + h]
    files["results"].write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"must be \[x, y, width, height\], and these look like \[x1, y1, x2, y2\]"):
        evaluate_files(files[layout], files["results"], Options(layout))
    files["results"].write_text(json.dumps(rows)[:-20])
    with pytest.raises(ValueError, match=r"results.json: not JSON.*was it cut short"):
        evaluate_files(files[layout], files["results"], Options(layout))


def test_a_list_that_names_a_missing_file_is_named(files):
    (files["voc"].root / "Annotations/3.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.xml: no such annotation file, and .*val\.txt lists it"):
        evaluate_files(files["voc"], files["kit"], Options("voc"))
