"""The trainer from its command line: what it writes, and how it goes on."""

import json
import runpy
import shutil
import sys
import tempfile

import msgspec
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from pycocotools.coco import COCO
from torchvision.models import mobilenet_v3_large

from detmix.data import Shapes
from detmix.detectors import losses_and_detections
from detmix.evaluation import evaluate_coco, evaluate_voc
from detmix.reporting import CocoFile, Options, evaluate_files
from detmix.reporting.tables import number_text
from detmix.training import DetectionData, build_detector, cli_main, resume
from detmix.training.artifacts import _write_ids
from detmix.training.devices import best_precision
from detmix.training.files import read_history
from detmix.training.run_report import report_run

from .browser import find_faults
from .test_configs import write_coco
from .test_training_report import Page
from .trainings import TINY, losses_in, mean_losses


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished fit of two epochs, the second without mixing."""
    folder = tmp_path_factory.mktemp("runs")
    config = "configs/quickstart.yaml"
    cli_main(["fit", "--config", config, "--runs", str(folder), *TINY, "--trainer.max_epochs=2"])
    return folder / "quickstart"


def test_a_fit_leaves_every_artifact(finished):
    found = {path.name for path in finished.iterdir()}
    assert found == {
        "train_samples",
        "detections.jpg",
        "run.json",
        "metrics.json",
        "predictions.json",
        "model.pt",
        "report.html",
        "config.yaml",
        "classes.json",
        "checkpoints",
        "csv",
        "tensorboard",
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    samples = {path.name for path in (finished / "train_samples").iterdir()}
    assert samples == {f"{number}.jpg" for number in range(1, 9)}
    for file in ("detections.jpg", "train_samples/8.jpg"):
        with Image.open(finished / file) as picture:
            assert min(picture.size) > 100


def test_the_report_tells_all_that_a_fit_knows(finished):
    page = Page((finished / "report.html").read_text())
    assert page.text("h2") == [
        "What was trained",
        "Results",
        "Results by class",
        "Precision and recall",
        "What was taken for what",
        "Training curves",
        "Training samples",
        "Worst and best images",
        "Configuration",
        "Environment",
    ]
    assert {"Command", "Seed", "Duration", "torch", "APs", "val/loss_classifier", "triangle"} <= {
        text.strip() for text in page.text("th")
    }
    assert len(page.alt("Training sample ")) == 8
    assert "seed_everything: 0" in page.text("pre")[0]


def test_the_report_is_sound_in_a_browser(finished, browser):
    assert find_faults(browser, finished / "report.html") == set()


def test_the_report_can_be_written_anew_from_what_the_fit_left(finished, tmp_path, in_repository):
    copy = shutil.copytree(finished, tmp_path / finished.name)
    (copy / "report.html").unlink()
    assert report_run(copy).read_bytes() == (finished / "report.html").read_bytes()


def test_metrics_are_those_of_the_predictions(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    predictions = json.loads((finished / "predictions.json").read_text())
    truth = Shapes(4, size=64, max_extent=32, seed=1).ground_truth()
    coco = evaluate_coco(truth, predictions)
    assert {name: metrics[name] for name in coco.metrics} == pytest.approx(coco.metrics)
    assert metrics["voc/AP50"] == pytest.approx(evaluate_voc(truth, predictions).ap)
    assert metrics["voc/AP50_11point"] == pytest.approx(evaluate_voc(truth, predictions, use_07_metric=True).ap)
    assert {name for name in metrics if name.startswith("AP/")} == {"AP/circle", "AP/square", "AP/triangle"}
    assert (metrics["epoch"], metrics["step"]) == (1, 4)


def test_predictions_are_written_without_spaces_and_read_by_pycocotools(finished, tmp_path):
    file, truth = finished / "predictions.json", tmp_path / "truth.json"
    predictions = json.loads(file.read_text())
    assert file.read_bytes() == msgspec.json.encode(predictions)
    truth.write_text(json.dumps(Shapes(4, size=64, max_extent=32, seed=1).ground_truth()))
    loaded = COCO(truth).loadRes(str(file)).dataset["annotations"]
    keys = ("image_id", "category_id", "bbox", "score")
    assert [[row[key] for key in keys] for row in loaded] == [[row[key] for key in keys] for row in predictions]


def test_model_pt_loads_safely_into_plain_torchvision_and_gives_the_predictions(finished):
    model = build_detector("fasterrcnn_resnet18_small", 4, None, min_size=64, max_size=96).eval()
    model.load_state_dict(torch.load(finished / "model.pt", weights_only=True))
    image, target = Shapes(4, size=64, max_extent=32, seed=1)[0]
    with torch.no_grad():
        [detection] = model([image / 255])
    rows = [row for row in json.loads((finished / "predictions.json").read_text()) if row["image_id"] == 0]
    torch.testing.assert_close(detection["scores"], torch.tensor([row["score"] for row in rows]))


def test_everything_worth_following_is_logged(finished):
    rows = read_history(finished)
    logged = {name for row in rows for name in row}
    terms = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert logged >= {f"train/{name}" for name in terms | {"mixed_fraction", "lambda"}}
    assert logged >= {f"val/{name}" for name in terms}
    assert [int(row["epoch"]) for row in rows if "val/loss" in row] == [0, 1]
    assert logged >= {"val/AP", "val/AP50", "val/voc/AP50", "val/AP/circle", "epoch", "step"}
    assert any(name.startswith("lr-") for name in logged)


@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_the_validation_loss_is_the_mean_over_the_images_of_torchvisions_own(run, tmp_path, objective):
    run(
        "fit",
        "--trainer.max_epochs=1",
        "--data.mixup.no_mixup_epochs=0",
        "--data.shapes.val=6",
        f"--model.objective={objective}",
    )
    folder = tmp_path / "quickstart"
    by_hand = mean_losses(folder, 6)
    assert losses_in(folder) == pytest.approx(by_hand, rel=1e-3)  # rounding may swap two proposals that nearly tie
    assert by_hand["loss"] > by_hand["loss_classifier"] > 0
    [row] = [row for row in read_history(folder) if "val/loss" in row]
    assert {name: float(row[f"val/{name}"]) for name in by_hand} == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize(
    ("detector", "options", "terms"),
    [
        ("ssdlite320_mobilenet_v3_large", "null", {"classification", "bbox_regression"}),
        ("retinanet_resnet50_fpn", "{min_size: 64, max_size: 64}", {"classification", "bbox_regression"}),
    ],
)
def test_a_one_stage_detector_trains_and_validates(run, tmp_path, monkeypatch, detector, options, terms):
    downloaded = mobilenet_v3_large().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: dict(downloaded))
    weights = "backbone" if detector.startswith("ssdlite") else "null"
    model = [f"--model.detector={detector}", f"--model.options={options}", f"--model.weights={weights}"]
    run(
        "fit",
        *model,
        "--trainer.max_epochs=1",
        "--data.mixup.no_mixup_epochs=0",
        "--data.batch_size=2",
        "--trainer.limit_train_batches=2",
    )
    folder = tmp_path / "quickstart"
    assert losses_in(folder).keys() == {"loss"} | {f"loss_{term}" for term in terms}
    logged = {name for row in read_history(folder) for name in row}
    assert {name for name in logged if "/loss" in name} == {
        f"{stage}/{name}" for stage in ("train", "val") for name in losses_in(folder)
    }
    run("validate", *model, "--data.batch_size=2")
    assert losses_in(folder / "validate") == pytest.approx(losses_in(folder), rel=1e-5)


def test_images_without_annotations_can_be_validated_on(tmp_path, in_repository, capsys, caplog):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    data = ["--data.format=coco", f"--data.root={tmp_path}", "--data.train=[train2017]", "--data.val=val2017"]
    arguments = ["--config", "configs/quickstart.yaml", "--runs", str(tmp_path), *TINY, *data]
    cli_main(["fit", *arguments, "--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0"])
    told, best = [record.getMessage() for record in caplog.records if record.name == "detmix.training"]
    assert told == f"{file}: no object is annotated for data.val: there is no AP to measure"
    assert best.startswith("val/AP is -1: no object that it could be of is in the images that were measured.")
    assert not (tmp_path / "quickstart" / "checkpoints" / "best.ckpt").exists()
    assert "AP –  AP50 – (COCO)  AP50 – (VOC)\n" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    assert metrics["AP"] == -1
    assert metrics["loss_box_reg"] == metrics["loss_rpn_box_reg"] == 0
    assert metrics["loss"] == pytest.approx(metrics["loss_classifier"] + metrics["loss_objectness"])
    assert metrics["loss"] > 0


def test_a_split_with_other_ids_and_without_one_class_is_scored_by_name(tmp_path, in_repository, monkeypatch, caplog):
    """What is detected is what is annotated, one class of three is not in the validation file, and ids are swapped."""
    write_coco(tmp_path)
    files = {split: tmp_path / "annotations" / f"instances_{split}.json" for split in ("train2017", "val2017")}
    train, val = (json.loads(file.read_text()) for file in files.values())
    train["categories"].append({"id": 1, "name": "bus"})
    val["categories"] = [{"id": 7, "name": "car"}, {"id": 3, "name": "train"}, {"id": 1, "name": "vehicle"}]
    for row in val["annotations"]:
        row["category_id"] = 10 - row["category_id"]
    for file, content in zip(files.values(), (train, val), strict=True):
        file.write_text(json.dumps(content))

    def annotated(detector, images, targets, **options):
        losses, _ = losses_and_detections(detector, images, targets, **options)
        return losses, [{**target, "scores": torch.ones(len(target["labels"]))} for target in targets]

    monkeypatch.setattr("detmix.training.visits.losses_and_detections", annotated)
    data = ["--data.format=coco", f"--data.root={tmp_path}", "--data.train=[train2017]", "--data.val=val2017"]
    arguments = ["--config", "configs/quickstart.yaml", "--runs", str(tmp_path), *TINY, *data]
    cli_main(["fit", *arguments, "--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0"])
    assert "no training object is of 'bus'" in caplog.text
    run = tmp_path / "quickstart"
    metrics = json.loads((run / "metrics.json").read_text())
    assert [metrics[f"AP/{name}"] for name in ("bus", "car", "train")] == [-1, pytest.approx(1), pytest.approx(1)]
    rows = json.loads((run / "predictions.json").read_text())
    by_name = {row["name"]: row["id"] for row in json.loads((run / "classes.json").read_text())}
    assert by_name == {"bus": 1, "car": 3, "train": 7}
    assert [row["category_id"] for row in rows] == [3, 7, 3, 7]
    evaluate_files(CocoFile(files["val2017"]), run, Options(), json_file=tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text())["metrics"]["AP"] == pytest.approx(1)
    cli_main(["test", *arguments, "--data.test=val2017"])
    for image in val["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    files["val2017"].write_text(json.dumps(val))  # the ids are the same, and the images others
    for predictions in (run, run / "predictions.json", run / "test"):
        with pytest.raises(ValueError, match=r"image_id 0 is '0.jpg', and .* has none of that name"):
            evaluate_files(CocoFile(files["val2017"]), predictions, Options())


def test_a_part_of_the_images_is_told_to_be_one(run, tmp_path, capsys):
    run(
        "fit",
        "--trainer.max_epochs=1",
        "--data.mixup.no_mixup_epochs=0",
        "--trainer.limit_val_batches=2",
        "--data.batch_size=1",
    )
    told = capsys.readouterr().out
    assert told.count(" (measured: 2 of 4 images)\n") == 2  # in the line of the validation, and in that of the end
    assert json.loads((tmp_path / "quickstart" / "metrics.json").read_text())["images"] == 2
    assert json.loads((tmp_path / "quickstart" / "run.json").read_text())["summary"]["Data"].endswith("2 of 4 images)")


def test_the_default_loggers_can_be_asked_for(run, tmp_path):
    run("fit", "--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0", "--trainer.logger=true")
    assert {path.name for path in (tmp_path / "quickstart").iterdir()} >= {"csv", "tensorboard"}


def test_only_names_that_tell_images_apart_are_stated(tmp_path):
    """Images of one name are known by their ids, and what was stated of others before goes."""
    write_coco(tmp_path)
    file, stated = tmp_path / "annotations" / "instances_val2017.json", tmp_path / "out" / "images.json"
    for names in (["0.jpg", "1.jpg"], ["./0.jpg", "0.jpg"]):
        content = json.loads(file.read_text())
        for image, name in zip(content["images"], names, strict=False):
            image["file_name"] = name
        file.write_text(json.dumps(content))
        data = DetectionData(format="coco", root=str(tmp_path), train=["train2017"], val="val2017")
        _write_ids(stated, data, "val")
        assert stated.exists() == (names[1] == "1.jpg")


def test_without_mixing_the_run_has_a_name_of_its_own(run, tmp_path):
    run("fit", "--trainer.max_epochs=1", "--data.mixup=null")
    assert (tmp_path / "quickstart_nomix" / "report.html").exists()


def test_a_run_without_a_log_leaves_all_else(run, tmp_path):
    run("fit", "--trainer.max_epochs=1", "--data.mixup=null", "--trainer.logger=false")
    left = {path.name for path in (tmp_path / "quickstart_nomix").iterdir()}
    assert {"report.html", "metrics.json", "model.pt", "checkpoints"} <= left
    assert not {"csv", "tensorboard"} & left


def test_validate_and_test_take_the_last_checkpoint_and_write_beside_the_fit(run, tmp_path):
    run("fit", "--trainer.max_epochs=2", "--name=mine")
    run("validate", "--name=mine")
    run("test", "--name=mine")
    fitted, validated, tested = (
        json.loads((tmp_path / "mine" / folder / "metrics.json").read_text()) for folder in (".", "validate", "test")
    )
    assert validated["AP50"] == pytest.approx(fitted["AP50"])
    assert validated["loss"] == pytest.approx(fitted["loss"])
    assert tested["loss"] != pytest.approx(fitted["loss"])
    assert tested.keys() == validated.keys() == fitted.keys() | {"checkpoint"}
    last = tmp_path / "mine" / "checkpoints" / "last.ckpt"
    stated = torch.load(last, weights_only=True)
    for measured in (validated, tested):
        assert (measured["epoch"], measured["step"]) == (stated["epoch"], stated["global_step"]) == (fitted["epoch"], 4)
        assert measured["checkpoint"] == str(last)


def test_results_that_cannot_be_written_are_refused_before_the_work(run, finished, tmp_path, capsys):
    own = shutil.copytree(finished, tmp_path / "quickstart")
    (own / "test").write_text("a file where the folder should be")
    with pytest.raises(SystemExit):
        run("test")
    assert "metrics.json cannot be written, since" in capsys.readouterr().err


def test_a_trial_leaves_the_earlier_run_alone_and_nothing_behind(run, finished, tmp_path, capsys, monkeypatch):
    own = shutil.copytree(finished, tmp_path / "quickstart")
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    for arguments in ([], ["--resume"]):
        cli = run("fit", "--trainer.fast_dev_run=true", "--data.mixup.no_mixup_epochs=1", *arguments)
        assert cli.trainer.global_step == 1
        assert cli.datamodule.seeded_set.enabled  # not as in the last epoch, which goes unmixed
    said = capsys.readouterr().out
    assert said.count("This was a trial (fast_dev_run): nothing of it is kept.") == 2
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quickstart", "scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_checkpoint_knows_the_number_of_threads(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run("fit", "--trainer.max_epochs=1", "--data.mixup=null", "--name=threads")
    checkpoint = torch.load(tmp_path / "threads_nomix" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint[resume._KEY]["threads"] == 7


def test_the_name_of_a_run_is_no_markup(run, tmp_path, capsys):
    for _ in range(2):
        run("fit", "--trainer.max_epochs=1", "--data.mixup=null", "--name=[x[/y]:car:")
    said = capsys.readouterr().out
    folder = tmp_path / "[x[/y]:car:_nomix"
    assert said.count("\nWriting report.html\n") == said.count(f"\nSee {folder}/report.html\n") == 2
    assert f"The earlier run in {folder} is now in {folder}-1.\n" in said


def test_a_task_of_srun_that_trains_alone_is_the_first_process_of_its_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning does for the second task when it is imported
    for _ in range(2):
        run("fit", "--trainer.max_epochs=1", "--data.mixup=null")
    said = capsys.readouterr().out
    folder = tmp_path / "quickstart_nomix"
    assert f"The earlier run in {folder} is now in {folder}-1.\n" in said
    assert said.count(f"\nSee {folder}/report.html\n") == 2
    assert [row["epoch"] for row in read_history(folder) if "val/AP" in row] == ["0"]
    assert list((folder / "tensorboard").rglob("events*"))


def test_a_run_ends_well_where_what_it_prints_is_in_no_utf_8_and_a_config_is_not_printed(run, capsys):
    sys.stdout.reconfigure(encoding="ascii")
    run("fit", "--trainer.max_epochs=1", "--data.mixup=null", "--name=\xe9", "--trainer.enable_progress_bar=true")
    assert "/?_nomix/report.html\n" in capsys.readouterr().out
    sys.stdout.reconfigure(errors="strict")
    with pytest.raises(SystemExit) as ended:
        run("fit", "--name=\xe9", "--print_config")
    assert ended.value.code == 2
    assert "PYTHONIOENCODING=utf-8 does: 'ascii' codec can't encode" in capsys.readouterr().err


def test_a_run_goes_on_from_its_checkpoint_and_an_earlier_one_is_kept(run, tmp_path):
    run("fit", "--trainer.max_epochs=1", "--data.mixup.no_mixup_epochs=0")
    last = tmp_path / "quickstart" / "checkpoints" / "last.ckpt"
    cli = run("fit", "--trainer.max_epochs=3", f"--ckpt_path={last}")
    assert cli.trainer.current_epoch == 3
    assert cli.trainer.global_step == 6
    epochs = [int(row["epoch"]) for row in read_history(tmp_path / "quickstart") if "val/AP" in row]
    assert epochs == [0, 1, 2]
    assert not (tmp_path / "quickstart-1").exists()
    run("fit", "--trainer.max_epochs=2")
    assert (tmp_path / "quickstart-1" / "checkpoints" / "last.ckpt").exists()


def test_the_best_checkpoint_goes_by_its_name(run, finished, tmp_path):
    own = shutil.copytree(finished, tmp_path / "quickstart")
    best = own / "checkpoints" / "best.ckpt"
    (own / "checkpoints" / "last.ckpt").unlink()
    cli = run("test", "--ckpt_path=best")
    assert cli.trainer.ckpt_path == str(best)
    assert (own / "test" / "metrics.json").exists()
    run("fit", "--ckpt_path=best", "--trainer.max_epochs=3")
    assert [int(row["step"]) for row in read_history(own) if "train/loss" in row] == list(range(6))
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


def test_going_on_from_a_finished_run_says_that_nothing_was_done(run, tmp_path, capsys):
    run("fit", "--trainer.max_epochs=2")
    last = tmp_path / "quickstart" / "checkpoints" / "last.ckpt"
    found = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    each = f"Epoch 1, step 4: AP {number_text(found['AP'])}, AP50 {number_text(found['AP50'])}\n"
    assert each in capsys.readouterr().out
    run("fit", "--trainer.max_epochs=2", f"--ckpt_path={last}")
    said = " ".join(capsys.readouterr().out.split())
    assert "The run is finished, at epoch 2, step 4, and there is nothing to do. A finished run goes on with a " in said


def test_a_run_that_time_ends_before_a_validation_says_what_is_left_to_do(run, capsys):
    limits = ["--trainer.max_epochs=null", "--data.mixup.no_mixup_epochs=0", "--trainer.max_time=00:00:00:00"]
    run("fit", *limits, "--model.schedule=constant")
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was evaluated: training stopped at epoch 0, step 0. " in said
    assert "higher --trainer.max_epochs, max_steps or max_time; 'validate' in the place of 'fit' evaluates its" in said


def test_a_command_that_evaluates_no_batch_says_so(run, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "quickstart")
    run("test", "--trainer.limit_test_batches=0")
    assert "Nothing was evaluated.\n" in capsys.readouterr().out


def test_a_saved_config_writes_to_the_same_folder_and_previews(
    finished, tmp_path, in_repository, no_report, monkeypatch
):
    config = str(finished / "config.yaml")
    cli = cli_main(["fit", "--config", config, "--runs", str(tmp_path), "--trainer.max_epochs=2"])
    assert cli.run_dir == tmp_path / "quickstart"
    same = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    assert same == pytest.approx(json.loads((finished / "metrics.json").read_text()))
    command = ["tools/preview.py", "--config", config, "--output", str(tmp_path / "previews")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(command[0], run_name="__main__")
    assert (tmp_path / "previews" / "samples.png").exists()


def test_a_cpu_run_stays_in_float32_on_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    assert [best_precision(name) for name in ("cpu", "auto", "cuda", None)] == ["32-true"] + 3 * ["bf16-mixed"]
