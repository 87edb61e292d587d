"""evaluate_files: either rule on either layout, with predictions of either form."""

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from pycocotools.cocoeval import COCOeval

from detmix.evaluation import compare_coco, compare_voc, evaluate_coco, evaluate_voc, find_mistakes
from detmix.evaluation.voc import rank_voc
from detmix.reporting import CocoFile, Options, evaluate_files
from tests.scored_files import (
    content_of,
    draw_scene,
    text_of,
    write_coco,
    write_files,
    write_kit,
    write_results,
    write_voc,
)
from tests.test_evaluation_coco import add_masks, make_scene
from tests.test_evaluation_keypoints import make_poses


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


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


def test_classes_without_objects_are_counted_and_not_shown(files):
    truth = json.loads(files["coco"].annotations.read_text())
    truth["categories"] += [{"id": 8, "name": "owl"}, {"id": 9, "name": "yak"}]
    files["coco"].annotations.write_text(json.dumps(truth))
    text = text_of(evaluate_files(files["coco"], files["results"], Options()))
    assert "Classes without objects, which do not count: 2." in text
    assert not any(name in text for name in ("owl", "yak"))


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


def write_poses(folder, count):
    truth, predictions = make_poses(1, count)
    for name, content in (("poses", truth), ("found", predictions), ("half", predictions[::2])):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return CocoFile(folder / "poses.json"), folder / "found.json", folder / "half.json"


@pytest.mark.parametrize(("count", "sigmas"), [(17, None), (5, None), (5, [0.02, 0.1, 0.1, 0.1, 0.2])])
def test_keypoints(tmp_path, count, sigmas):
    truth, found, _ = write_poses(tmp_path, count)
    options = Options(iou_type="keypoints", backend="faster-coco-eval", sigmas=sigmas)
    content = content_of(tmp_path, truth, found, options, plots=tmp_path / "plots")
    wanted = evaluate_coco(truth.annotations, found, "keypoints", sigmas=sigmas)
    assert content["metrics"] == wanted.metrics
    assert content["by_class"]["dog"]["APm"] == wanted.ap_by_size["APm"]["dog"]
    assert content["options"]["sigmas"] == sigmas
    assert "confusion" not in content
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"precision_recall.png", "average_precision.png"}
    text = " ".join(text_of(evaluate_files(truth, found, options)).split())
    assert "By the rules of COCO, keypoints" in text
    assert f"AR50 {wanted.metrics['AR50']:.3f} the same at OKS 0.50" in text
    assert "with 20 detections per image and class" in text
    assert "mistakes are told of boxes and masks only" in text
    taken = "Sigmas of OKS: 0.05 for each of the 5 keypoints, since --sigmas does not say."
    assert (taken in text) == (count == 5 and sigmas is None)


def test_precision_and_recall_of_keypoints_are_at_an_oks(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "detmix.reporting.evaluate.precision_recall_figure", lambda _, title: titles.append(title) or Figure()
    )
    truth, found, _ = write_poses(tmp_path, 17)
    for iou_type in ("keypoints", "bbox"):
        evaluate_files(truth, found, Options(iou_type=iou_type), plots=tmp_path / "plots")
    assert [title.splitlines()[0] for title in titles] == [f"Precision and recall at {of} 0.5" for of in ("OKS", "IoU")]


def test_most_detections_of_keypoints(tmp_path):
    truth, found, _ = write_poses(tmp_path, 17)
    options = Options(iou_type="keypoints", max_detections=[3, 7])
    wanted = evaluate_coco(truth.annotations, found, "keypoints", max_detections=[7])
    assert content_of(tmp_path, truth, found, options)["metrics"] == wanted.metrics
    assert "with 7 detections per" in " ".join(text_of(evaluate_files(truth, found, options)).split())


def test_a_comparison_of_keypoints(tmp_path):
    truth, found, half = write_poses(tmp_path, 5)
    options, sigmas = Options(iou_type="keypoints", sigmas=[0.1] * 5), [0.1] * 5
    content = content_of(tmp_path, truth, found, options, other=half, resamples=30)
    wanted = compare_coco(truth.annotations, found, half, "keypoints", sigmas=sigmas, resamples=30)
    differences = content["comparison"]["differences"]
    assert list(differences) == list(wanted)
    assert {"AR", "APm", "AP/dog"} < differences.keys()
    assert differences["AR"]["low"] == wanted["AR"].low
    assert content["metrics"] == evaluate_coco(truth.annotations, found, "keypoints", sigmas=sigmas).metrics


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
    alone = content_of(tmp_path, files[layout], files["results"], options)
    assert all(content[key] == alone[key] for key in ("metrics", "by_class", "confusion", "worst_images"))
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
@pytest.mark.parametrize("other", [False, True])
def test_each_set_is_counted_once_in_a_stage_of_its_own(monkeypatch, files, layout, other):
    steps = []

    class Bars:
        def add_task(self, name, total):
            steps.append(name)

        def remove_task(self, task):
            steps.append("done")

        def update(self, task, completed, total):
            assert steps[-1] == "comparing: draws"

    def noting(function):
        def count(*arguments, **options):
            steps.append("counted")
            return function(*arguments, **options)

        return count

    monkeypatch.setattr("detmix.reporting.evaluate.progress_bars", lambda: nullcontext(Bars()))
    monkeypatch.setattr(COCOeval, "evaluate", noting(COCOeval.evaluate))
    for module in ("voc", "compare"):
        monkeypatch.setattr(f"detmix.evaluation.{module}.rank_voc", noting(rank_voc))
    paths = [files["results"], *([files["kit"]] if other else [])]
    evaluate_files(files[layout], paths[0], Options(layout), other=files["kit"] if other else None, resamples=5)
    measuring = [step for path in paths for step in (f"{path}: measuring", "counted", "done")]
    rest = [*(["comparing: draws"] if other else []), f"{paths[0]}: looking for mistakes", "done"]
    assert steps[2 + 2 * len(paths) :] == [*measuring, *rest]


def test_the_tables_before_a_comparison_say_whose_they_are(files):
    alone = text_of(evaluate_files(files["coco"], files["results"], Options()))
    text = text_of(evaluate_files(files["coco"], files["results"], Options(), other=files["kit"], resamples=5))
    assert text.index("A alone, ") < text.index("By the rules of COCO")
    assert "A alone" not in alone


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
        (Options("voc", sigmas=[0.1]), "--sigmas belongs to the rules of COCO, and --rules is voc"),
        (Options(sigmas=[0.1]), "--sigmas belongs to --iou-type keypoints"),
        (Options(iou_type="keypoints", sigmas=[0.1, -1]), r"sigmas must be finite numbers above 0, .* \[0.1, -1\]"),
        (
            Options(iou_type="keypoints", class_agnostic=True),
            "--class-agnostic does not go together with --iou-type key",
        ),
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
    with pytest.raises(ValueError, match="--compare does not go together with --max-detections"):
        evaluate_files(files["coco"], files["kit"], Options(max_detections=[5, 20]), other=files["kit"])
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


@pytest.mark.parametrize(("iou_type", "what"), [("segm", "masks"), ("keypoints", "keypoints")])
def test_text_files_and_voc_folders_have_boxes_only(files, iou_type, what):
    options = Options(iou_type=iou_type)
    with pytest.raises(ValueError, match=f"a VOC folder has no {what}: leave out --iou-type {iou_type}"):
        evaluate_files(files["voc"], files["results"], options)
    truth = json.loads(files["coco"].annotations.read_text())
    square = {"segmentation": [[0, 0, 9, 0, 9, 9]], "keypoints": [5, 5, 2]}
    truth["annotations"] = [{**row, **square} for row in truth["annotations"]]
    files["coco"].annotations.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=f"kit: the kit's text files have no {what}: leave out --iou-type {iou_type}"):
        evaluate_files(files["coco"], files["kit"], options)
