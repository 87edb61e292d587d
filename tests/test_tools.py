import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from detmix.training.trained import open_run
from tests.conftest import ROOT
from tests.scored_files import draw_scene, write_coco, write_kit, write_results, write_voc
from tests.stand_in import wait_until

TINY = ["--data.shapes.train=4", "--data.shapes.val=2", "--samples=3"]


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(in_repository, monkeypatch, capsys):
    """Run a tool as its command does, but in this process, which has its libraries already."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        code = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # those of libraries, which a program does not show
                runpy.run_path(tool, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        return Result(code, *capsys.readouterr())

    return run


def test_a_tool_is_a_program(in_repository):
    result = subprocess.run(
        [sys.executable, "tools/benchmark.py", "speed"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 2
    assert "speed" in result.stderr


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("train --help", "validate"),
        ("train --help", "\npython tools/train.py fit --config configs/bccd.yaml --resume  "),
        ("train fit --help", "\npython tools/train.py fit --config configs/quickstart.yaml\npython"),
        ("train fit --help", "Number from which all that is drawn follows. Under false nothing seeds torch, and"),
        ("train test --help", "python tools/train.py test --config configs/bccd.yaml --ckpt_path best"),
        ("train test --help", "--weights_only {true,false,null} false: read a checkpoint that holds more than"),
        ("train fit --help", "--data.mixup.help"),
        ("train validate --help", "Where nothing is mixed, _nomix is added to either."),
        ("train test --help", "whose weights are measured; by default the run's last one"),
        ("train fit --data.mixup.help", "probability that a sample is mixed at all"),
        ("preview --help", "\npython tools/preview.py --config configs/bccd.yaml --data.mixup.mix cutmix"),
        ("preview --help", "known subclasses: torchvision.transforms.v2."),
        ("benchmark --help", "python tools/benchmark.py step --device cuda"),
        ("analyze --help", "--model mixup=runs/quickstart/model.pt"),
        ("analyze visibility --help", "pairs of images, drawn at random"),
        ("sweep --help", "python tools/sweep.py --config configs/bccd.yaml --arms arms.yaml --baseline plain"),
        ("evaluate --help", "python tools/evaluate.py voc --root data/bccd --image-set val"),
        ("evaluate coco --help", "take all classes for one, for proposals say"),
        ("report --help", "--json runs/quickstart/visibility.json && python tools/report.py runs/quickstart"),
        ("predict --help", "--detector fasterrcnn_resnet50_fpn --weights COCO_V1"),
    ],
)
def test_help_teaches(command, wanted, call):
    tool, *arguments = command.split()
    result = call(f"tools/{tool}.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert wanted in result.stdout or wanted in " ".join(result.stdout.split())


@pytest.mark.parametrize("tool", ["analyze", "evaluate", "predict", "preview", "report", "results", "sweep", "train"])
def test_an_argument_that_is_no_text_is_refused(tool, call):
    result = call(f"tools/{tool}.py", "d\udcff")
    assert result.returncode == 2
    assert "error: arguments must be text in UTF-8, got 'd\\udcff'" in result.stderr


def test_preview_writes_the_samples_the_ratios_and_the_kinds_of_mixing_of_a_config(call, tmp_path):
    result = call("tools/preview.py", "--config", "configs/shapes_manifold.yaml", f"--output={tmp_path}", *TINY)
    assert result.returncode == 0, result.stderr
    names = ("samples.png", "lambda.png", "kinds.png")
    *files, note = result.stdout.splitlines()
    assert files == [str(tmp_path / name) for name in names]
    assert "mixes features too, at input or backbone.body.layer2 or roi: no picture shows that" in note
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_preview_names_what_is_wrong(call):
    result = call("tools/preview.py", "--config", "configs/quickstart.yaml", *TINY, "--data.mixup.alpha=-2")
    assert result.returncode == 2
    assert "alpha must be a finite number of 0 or more, got -2" in result.stderr


@pytest.mark.parametrize("setting", ["--repeats=0", "--objects=-1", "--threads=0"])
def test_a_benchmark_without_a_count_is_refused(call, setting):
    option, _, count = setting.partition("=")
    result = call("tools/benchmark.py", "blend", setting)
    assert result.returncode == 2
    assert f"{option} must be 1 or more, got {count}" in result.stderr


@pytest.mark.parametrize(
    ("part", "setting", "wanted"),
    [("evaluate", "--images=10", "images must be 20 or more"), ("dataset", "--images=9", "images must be 10 or more")],
)
def test_a_benchmark_of_too_little_is_refused(call, part, setting, wanted):
    result = call("tools/benchmark.py", part, setting)
    assert result.returncode == 2
    assert f"{wanted}, " in result.stderr
    assert "Traceback" not in result.stderr


def test_benchmark_prints_ratios_and_writes_them(call, tmp_path):
    step = ["--size=64", "--batch_size=1", "--detector=fasterrcnn_mobilenet_v3_large_320_fpn"]
    result = call("tools/benchmark.py", "step", "--repeats=2", *step, f"--json={tmp_path / 'step.json'}")
    assert result.returncode == 0, result.stderr
    assert "torchvision" in result.stdout
    written = json.loads((tmp_path / "step.json").read_text())
    assert {"processor", "torch"} <= set(written["machine"])
    weighted, memory, operations = written["rows"][:3]
    assert (weighted["what"], weighted["against"], weighted["unit"]) == ("weighted", "torchvision", "ms")
    assert memory["unit"] == "MiB"
    assert (operations["what"], operations["unit"]) == ("weighted, operations", "ops")
    assert 1 < operations["ratio"][1] < 1.5


QUICKSTART = "--config=configs/quickstart.yaml"
SMALL_SCENES = ["--data.shapes.train=2", "--data.shapes.val=3", "--data.shapes.size=64", "--data.shapes.max_extent=32"]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The weights of the quickstart's detector before any training."""
    _, detector = open_run(ROOT / "configs/quickstart.yaml", SMALL_SCENES)
    file = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(detector.state_dict(), file)
    return file


@pytest.fixture
def analyze(in_repository, monkeypatch, capsys):
    """Run tools/analyze.py in this process, which has its libraries already; give what it prints."""

    def run(part, *arguments):
        command = [part, QUICKSTART, "--device=cpu", *SMALL_SCENES, *arguments]
        monkeypatch.setattr(sys, "argv", ["tools/analyze.py", *command])
        runpy.run_path("tools/analyze.py", run_name="__main__")
        return capsys.readouterr().out

    return run


def test_analyze_visibility_prints_writes_and_draws_a_curve_for_each_model(analyze, tmp_path, untrained):
    files = [f"--json={tmp_path}/deep/rates.json", f"--plot={tmp_path}/rates.png"]
    models = [f"--model=one={untrained}", f"--model=two[b]={untrained}"]
    printed = analyze("visibility", *models, "--visibilities", "0.5", "1", "--score-threshold=0", *files)
    assert "IoU 0.5" in printed
    assert "two[b]" in printed
    rates = json.loads((tmp_path / "deep/rates.json").read_text())
    assert rates["one"] == rates["two[b]"]
    assert rates["one"]["visibilities"] == [0.5, 1.0]
    assert rates["one"]["num_pairs"] == 3
    assert sum(rates["one"]["counts"]) > 0
    with Image.open(tmp_path / "rates.png") as picture:
        assert min(picture.size) > 200


def test_analyze_entanglement_prints_writes_and_draws_the_layers(analyze, tmp_path, untrained):
    files = [f"--json={tmp_path}/layers.json", f"--plot={tmp_path}/layers.svg"]
    layers = ["--layers", "backbone.body.layer2", "backbone.fpn", "roi"]
    printed = analyze("entanglement", f"--model={untrained}", *layers, "--temperature=median", *files)
    assert "Soft nearest neighbour loss" in printed
    content = json.loads((tmp_path / "layers.json").read_text())
    wanted = ["backbone.body.layer2", "backbone.fpn:0", "backbone.fpn:1", "backbone.fpn:pool", "roi"]
    assert content["layers"] == wanted
    assert "<svg" in (tmp_path / "layers.svg").read_text()


@pytest.mark.parametrize(
    ("part", "model"), [("visibility", "a={file}"), ("entanglement", "{file}")], ids=["visibility", "entanglement"]
)
def test_analyze_refuses_a_model_of_the_same_classes_in_another_order(
    analyze, capsys, tmp_path, untrained, part, model
):
    (tmp_path / "config.yaml").touch()
    stated = [{"id": number, "name": name} for number, name in enumerate(("square", "circle", "triangle"))]
    (tmp_path / "classes.json").write_text(json.dumps(stated))
    file = tmp_path / "checkpoints" / "model.pt"
    file.parent.mkdir()
    file.hardlink_to(untrained)
    layers = [] if part == "visibility" else ["--layers", "roi"]
    with pytest.raises(SystemExit):
        analyze(part, f"--model={model.format(file=file)}", *layers)
    said = " ".join(capsys.readouterr().err.split())
    assert "model.pt: trained on other classes: label 1 is 'square' there and 'circle' in this data" in said


def test_analyze_reads_weights_without_running_code_from_them(analyze, capsys, tmp_path, untrained):
    torch.save(open_run(ROOT / "configs/quickstart.yaml", SMALL_SCENES)[1], tmp_path / "pickle.pt")
    with pytest.raises(SystemExit):
        analyze("visibility", f"--model=a={tmp_path}/pickle.pt")
    assert "pickle.pt: not a file of weights" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        (
            "visibility",
            ["--model=mixup="],
            "--model must be PATH or NAME=PATH, each with a name of its own, got mixup=",
        ),
        ("visibility", ["--model={weights}", "--model={weights}"], "each with a name of its own, got /"),
        ("visibility", ["--model=lr=0.1/model.pt"], "0.1/model.pt: no such file of weights"),
        ("visibility", ["--model=a={weights}", "--model=a={weights}"], "with a name of its own, got a="),
        ("visibility", ["--model=a=nowhere/model.pt"], "nowhere/model.pt: no such file of weights"),
        ("visibility", ["--model=a={weights}", "--data.shapes.sice=3"], "sice"),
        ("visibility", ["--model=a={weights}", "--plot=rates.docx"], "must end in one of"),
        ("entanglement", ["--model={weights}", "--layers", "backbone.body.layer9"], "mean 'backbone.body.layer"),
        (
            "entanglement",
            ["--model={weights}", "--layers", "roi", "--temperature=warm"],
            "median or optimised, got warm",
        ),
    ],
)
def test_analyze_names_what_is_wrong(part, arguments, message, analyze, capsys, untrained):
    with pytest.raises(SystemExit) as ended:
        analyze(part, *(argument.format(weights=untrained) for argument in arguments))
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("more", [["--trainer.max_epochs=3"], ["--trainer.callbacks=null"]])
def test_preview_takes_the_settings_of_a_trainer_too(call, tmp_path, more):
    result = call("tools/preview.py", "--config", "configs/shapes_batch.yaml", f"--output={tmp_path}", *TINY, *more)
    assert result.returncode == 0, result.stderr


def test_preview_names_the_callback_with_a_misspelt_setting(call, in_repository, tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text((in_repository / "configs" / "shapes_batch.yaml").read_text().replace("pairing", "paring"))
    result = call("tools/preview.py", "--config", str(config), *TINY)
    assert result.returncode == 2
    assert "paring" in result.stderr


@pytest.fixture
def predict(in_repository, monkeypatch, capsys, tmp_path):
    """Run tools/predict.py on the pictures of the docs in this process; give what it prints."""

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["tools/predict.py", "docs/images/*.png", f"--output={tmp_path}/out", *arguments]
        )
        runpy.run_path("tools/predict.py", run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_predict_that_is_stopped_with_its_workers_leaves_nothing_half_written(
    in_repository, untrained, tmp_path, number
):
    (tmp_path / "photos").mkdir()
    for name in range(2000):  # more than it draws before the signal comes
        (tmp_path / f"photos/{name}.png").symlink_to(in_repository / "docs/images/pair.png")
    command = [sys.executable, "tools/predict.py", str(tmp_path / "photos"), f"--weights={untrained}", QUICKSTART]
    command += [f"--output={tmp_path}/out", "--num-workers=2", "--device=cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: list(tmp_path.glob(".out.*/pictures/*.jpg")) or process.poll() is not None)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + number, said
    assert said.count("stopping") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_predict_draws_writes_and_prints_what_a_run_finds(predict, tmp_path, untrained):
    printed = predict(
        f"--weights={untrained}", "--config=configs/quickstart.yaml", "--score-threshold=0", "--device=cpu"
    )
    assert "triangle" in printed
    assert f"See {tmp_path}/out" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json", "images.json", "pictures"}
    assert {path.stem for path in (tmp_path / "out/pictures").iterdir()} >= {"kinds", "pair"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=nowhere.pt", QUICKSTART], "nowhere.pt: no such file of weights"),
        (["--weights={weights}", "--detector=fasterrcnn_resnet18_small"], "pass --classes with 3 names"),
        (["--weights={weights}", "--options=3"], 'must be a JSON object such as {"min_size": 400}, got 3'),
        (
            ["--weights={weights}", QUICKSTART, "--score-threshold=2"],
            "must lie in [0, 1], got 2",
        ),
    ],
)
def test_predict_names_what_is_wrong(predict, capsys, untrained, arguments, message):
    with pytest.raises(SystemExit) as ended:
        predict(*(argument.replace("{weights}", str(untrained)) for argument in arguments))
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def evaluate(in_repository, monkeypatch, capsys, tmp_path):
    """Run tools/evaluate.py on a small scene in this process; give what it prints."""
    objects, detections = draw_scene()
    write_coco(tmp_path / "truth.json", objects)
    write_voc(tmp_path / "VOC", objects)
    write_results(tmp_path / "results.json", detections)
    write_kit(tmp_path / "kit", detections[::2])

    def run(command):
        monkeypatch.setattr(sys, "argv", ["tools/evaluate.py", *command.format(tmp_path).split()])
        runpy.run_path("tools/evaluate.py", run_name="__main__")
        return capsys.readouterr().out

    return run


COCO = "coco --annotations {0}/truth.json --predictions {0}/results.json "
VOC = "voc --root {0}/VOC --image-set val --predictions {0}/kit "


@pytest.mark.parametrize(
    ("command", "rules", "wanted"),
    [
        (COCO, "COCO, boxes", "AP75"),
        (COCO + "--backend faster-coco-eval --class-agnostic --max-detections 100 20", "COCO, boxes", "AR20"),
        (COCO + "--iou-type keypoints --sigmas 0.1 0.2", "COCO, keypoints", "at OKS 0.50"),
        (COCO + "--iou-type keypoints", "COCO, keypoints", "0.05 for each of the 2 keypoints"),
        (COCO + "--rules voc --iou 0.6", "the VOC development kit", "at IoU 0.6, area below"),
        (VOC + "--use_07_metric", "the VOC development kit", "eleven recalls (2007)"),
        (VOC + "--classes cat dog --rules coco --min-score 0.8", "COCO, boxes", "score 0.8 or more"),
        (VOC + "--zero-based", "the VOC development kit", "at IoU 0.5, area below"),
        (VOC + "--compare {0}/results.json --resamples 40", "the VOC development kit", "40 draws of the 5 images"),
    ],
)
def test_evaluate_prints_and_writes_what_it_measures(evaluate, tmp_path, command, rules, wanted):
    printed = " ".join(evaluate(command + " --json {0}/numbers.json --plots {0}/plots").split())
    assert f"By the rules of {rules}" in printed
    assert printed.endswith(f" See {tmp_path}/plots")
    assert wanted in printed
    content = json.loads((tmp_path / "numbers.json").read_text())
    assert f"AP {content['metrics']['AP']:.3f}" in printed
    assert {"precision_recall.png", "average_precision.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    assert (content["options"]["rules"] == "voc") == ("VOC" in rules)
    assert content["ground_truth"].get("one_based", True) == ("--zero-based" not in command)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "the following arguments are required: coco | voc"),
        (COCO.replace("results", "nothing"), "nothing.json: no such file; predictions are COCO results"),
        (COCO.replace("truth", "nothing"), "no such COCO annotation file; there are ['results.json', 'truth.json']"),
        (COCO.replace("results", "truth"), "truth.json: Expected `array`, got `object`"),
        (VOC.replace(" val ", " test "), "test.txt: no such image set; there are ['val']"),
        (VOC + "--iou-type segm", "unrecognized arguments: --iou-type segm"),
        (COCO + "--iou-type keypoints --sigmas 0.1", "sigmas must be one for each of 2 keypoints, got 1"),
        (COCO + "--iou-type keypoints --class-agnostic", "does not go together with --iou-type keypoints"),
        (COCO + "--iou 0.7", "--iou belongs to the rules of VOC, and --rules is coco"),
    ],
)
def test_evaluate_names_what_is_wrong_and_writes_nothing(evaluate, capsys, tmp_path, command, message):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        evaluate(command + (" --json {0}/new/numbers.json --plots {0}/plots" if command else ""))
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_prints_what_it_measures_where_names_cannot_be_printed(evaluate, tmp_path):
    sys.stdout.reconfigure(encoding="ascii")
    truth = tmp_path / "truth.json"
    truth.write_text(truth.read_text().replace('"cat"', '"\u732b"'), "utf-8")
    printed = evaluate(COCO + "--json {0}/numbers.json")
    assert "\n ? " in printed
    assert "AP75" in printed
    assert "\u732b" in str(json.loads((tmp_path / "numbers.json").read_text("utf-8")))


def test_preview_names_its_files_where_their_folder_cannot_be_printed(call, tmp_path):
    sys.stdout.reconfigure(encoding="ascii")
    result = call("tools/preview.py", "--config=configs/quickstart.yaml", f"--output={tmp_path}/\xe9", *TINY)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/?/samples.png\n" in result.stdout


def test_report_names_what_is_missing(call, tmp_path):
    result = call("tools/report.py", str(tmp_path))
    assert result.returncode == 2
    assert f"{tmp_path}/run.json: no such file" in result.stderr
