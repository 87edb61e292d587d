"""evaluate_files: which predictions, classes and ids the files of its sources are taken for."""

import json

import pytest

from detmix.evaluation import evaluate_coco, evaluate_voc
from detmix.reporting import Options, VocFolder, evaluate_files
from tests.scored_files import NAMES, coco_box, content_of, draw_scene, text_of, write_files, write_results


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


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
