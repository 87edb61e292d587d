"""Settings that the trainer refuses, and what it says."""

import pytest
import torch

from detmix.training import DetectionData, cli_main


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("--data.mixup.alhpa=1", "error: data.mixup: Option 'alhpa' is not accepted; there are alpha, p, mix,"),
        ("--data.shapes={sise: 1}", "error: data.shapes: Option 'sise' is not accepted; there are train, val, test,"),
        ("--data.mixup.class_path=no_such.Thing", "error: data.mixup: "),
        ("--data.mixup.partner=dog", "error: Parser key \"data.mixup.partner\":\n  Expected a typing.Literal['any', "),
        ("--model.manifold={layers: [roi], alpha: x}", 'error: Parser key "model.manifold.alpha":\n  Expected a <cl'),
        ("--data.batch_size=0", "data.batch_size must be 1 or more, got 0"),
        ("--data.num_workers=-1", "data.num_workers must be 0 or more, got -1"),
        ("--model.lr=0", "model.lr must be a finite number above 0, got 0"),
        ("--model.lr=.nan", "model.lr must be a finite number above 0, got nan"),
        ("--model.momentum=-0.1", "model.momentum must be a finite number of 0 or more, got -0.1"),
        ("--model.lr=.inf", "model.lr must be a finite number above 0, got inf"),
        ("--model.mixup=3", "unrecognized arguments: --model.mixup=3; did you mean data.mixup?\n"),
        (
            "--data.mixup=cutmix",
            "data.mixup: wanted null, a file or settings by their names, alpha, p, mix,",
        ),
        (
            "--data.mixup=cut mix",
            "data.mixup: wanted null, a file or settings by their names, alpha,",
        ),
        ("--data.lr=3", "did you mean model.lr?"),
        ("--data.cache=5", "unrecognized arguments: --data.cache=5; did you mean data.mixup.cache?"),
        ("--data.batch-size=4", "unrecognized arguments: --data.batch-size=4; did you mean data.batch_size?"),
        ("--data.mixup.alpha=-1", "alpha must be a finite number of 0 or more, got -1"),
        ("--data.format=yolo", "yolo"),
        ("--model.objective=heavy", "heavy"),
        ("--data.shapes.train=0", "data.shapes.train must be 1 or more, got 0"),
        ("--data.shapes.val=0", "data.shapes.val must be 1 or more, got 0"),
        ("--data.root=own", "data.root: made-up shapes have no files. Pass data.format, coco or voc"),
        ("--data.train=[train,more]", "data.train: made-up shapes have no files"),
        ("--data.class_names=[hat]", "data.class_names: made-up shapes have no files"),
        ("--data.on_error=skip", "data.on_error: made-up shapes have no files"),
        ("--data.reduce_to=800", "data.reduce_to: made-up shapes have no files"),
        ("--data.empty_images=false", "data.empty_images: made-up shapes have no files"),
        ("--data.oks_sigmas=[1]", "data.oks_sigmas are of keypoints, and data.keypoints is false"),
        ("--data.shapes.train=1", "single image: mixing needs a partner"),
        (
            "--model.detector=maskrcnn_resnet18_small",
            "maskrcnn_resnet18_small learns from masks, and the data has none: pass --data.masks true",
        ),
    ],
)
def test_a_wrong_setting_is_named(run, capsys, argument, wanted):
    with pytest.raises(SystemExit):
        run("fit", argument)
    told = capsys.readouterr().err
    assert wanted in told
    assert "NoneType" not in told


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data: {format: shapes, batchsize: 4}", "'data.batchsize'; did you mean data.batch_size?"),
        ("trainer: {max_epoch: 4}", "'trainer.max_epoch'; did you mean trainer.max_epochs?"),
        ("models: {lr: 0.1}", "'models.lr'; did you mean model.lr?"),
        ("something: 4", "'something'\n"),
    ],
)
def test_a_misspelt_key_in_a_config_is_named(run, capsys, tmp_path, text, wanted):
    config = tmp_path / "typo.yaml"
    config.write_text(f"{text}\n")
    with pytest.raises(SystemExit):
        run("fit", config=str(config))
    assert f"does not accept option {wanted}" in capsys.readouterr().err


def test_an_error_stands_alone_with_the_way_to_the_settings(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("fit", "--model.lrr=1")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    tip, error = told.splitlines()[-2:]
    assert "usage" not in told
    assert tip.startswith("tip: For details of accepted options run: ")
    assert tip.endswith(" fit --help")
    assert error == "error: unrecognized arguments: --model.lrr=1; did you mean model.lr?"


def test_a_setting_before_the_subcommand_is_told_to_stand_behind_it(capsys):
    with pytest.raises(SystemExit):
        cli_main(["--resume", "fit"])
    assert "unrecognized arguments: --resume; it belongs behind the subcommand\n" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("- a\n", "list"), ("quickstart\n", "str")])
def test_a_config_without_settings_is_named(run, capsys, tmp_path, text, found):
    config = tmp_path / "own.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit):
        run("fit", config=str(config))
    assert f"own.yaml: a config has settings by their names, and this file has {found}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("--model.num_classes=3", "num_classes is 3, but the data has 3 classes and background, 4 in all"),
        ("--model.detector=yolo", "there is no detector 'yolo'"),
        ("--model.detector=maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn learns from masks"),
        ("--model.detector=ssd300_vgg16", "model.options has no max_size, min_size: ssd300_vgg16 resizes every image"),
        ("--model.options.min_sizee=64", "model.options has no min_sizee"),
        ("--model.options.min_size=-5", "model.options.min_size must be in pixels, 1 or more, got -5"),
        ("--model.options.min_size=[64, 0]", "model.options.min_size must be in pixels, 1 or more, got [64, 0]"),
        ("--data.batch_size=0", "data.batch_size must be 1 or more, got 0"),
        ("--model.lr=-1", "model.lr must be a finite number above 0, got -1"),
        ("--data.mixup.no_mixup_epochs=4", "must lie in 0 ... 3, below trainer.max_epochs=4, or be a share of"),
        ("--data.mixup.no_mixup_epochs=-1", "must lie in 0 ... 3"),
        ("--data.mixup.no_mixup_epochs=1.5", "must lie in 0 ... 3, below trainer.max_epochs=4, or be a share"),
        ("--trainer.enable_checkpointing=false", "enable_checkpointing=False"),
        ("--ckpt_path=nothing.ckpt", "nothing.ckpt: no such checkpoint"),
        (
            "--trainer.precision=bf16-true",
            "trainer.precision must be one of 32-true, 32, 16-mixed, 16, bf16-mixed, bf16",
        ),
        ("--trainer.precision=64", "weights and boxes in float32, got 64"),
        ("--trainer.strategy=ddp_spawn", "trainer.strategy starts processes that keep their results to themselves"),
        ("--trainer.strategy=ddp_fork_find_unused_parameters_true", "use 'ddp'"),
        ("--trainer.devices=3x", "`devices` selected with `CPUAccelerator` should be an int > 0"),
        ("--seed_everything=true", "--seed_everything must be a number, or false for none"),
    ],
)
def test_a_setting_that_cannot_work_is_named_before_an_earlier_run_is_moved(run, capsys, tmp_path, argument, wanted):
    earlier = tmp_path / "quickstart" / "model.pt"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    with pytest.raises(SystemExit):
        run("fit", "--trainer.max_epochs=4", argument)
    assert wanted in capsys.readouterr().err
    assert earlier.read_text() == "precious"


@pytest.mark.parametrize(
    ("processes", "on_each", "arguments", "wanted"),
    [
        (2, 2, [], "is 2, and the trainer expects 1: pass --trainer.devices 2 --trainer.strategy ddp\n"),
        (2, 2, ["--trainer.strategy=ddp"], "expects 1: pass --trainer.devices 2 --trainer.strategy ddp\n"),
        (1, 1, ["--trainer.devices=2"], "is 1, and the trainer expects 2: pass --trainer.devices 1 --trainer"),
        (8, 4, ["--trainer.devices=4"], "expects 4: pass --trainer.devices 4 --trainer.num_nodes 2 --trainer.strategy"),
    ],
)
def test_other_processes_than_torchrun_has_started_are_refused_before_an_earlier_run_is_moved(
    processes, on_each, arguments, wanted, run, capsys, tmp_path, monkeypatch
):
    earlier = tmp_path / "quickstart" / "model.pt"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    variables = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": on_each, "RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0}
    for name, value in (variables | {"TORCHELASTIC_RUN_ID": "1"}).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit) as ended:
        run("fit", *arguments)
    assert ended.value.code == 2
    assert wanted in capsys.readouterr().err
    assert earlier.read_text() == "precious"


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_told_with_the_way_without_one(run, capsys, monkeypatch, accelerator):
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("fit", f"--trainer.accelerator={accelerator}")
    wanted = f"{accelerator}, and torch finds none: --trainer.accelerator cpu does without one\n"
    assert capsys.readouterr().err.endswith(f"error: trainer.accelerator is {wanted}")


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["test"], "last.ckpt"),
        (["validate", "--ckpt_path=last"], "last.ckpt"),
        (["test", "--ckpt_path=best"], "best.ckpt"),
        (["fit", "--ckpt_path=best"], "best.ckpt"),
    ],
)
def test_without_a_checkpoint_it_says_what_to_do(run, capsys, tmp_path, command, file):
    with pytest.raises(SystemExit):
        run(*command)
    wanted = f"there is no {tmp_path}/quickstart/checkpoints/{file}: run 'fit' first, or pass --ckpt_path with a file"
    assert wanted in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "../a", "/a"])
def test_a_name_leads_to_a_folder_below_that_of_all_runs(run, capsys, tmp_path, name):
    other = tmp_path / "other" / "model.pt"
    other.parent.mkdir()
    other.write_text("precious")
    with pytest.raises(SystemExit):
        run("fit", "--trainer.max_epochs=2", f"--name={name}")
    assert f"--name must name a folder below --runs, got {name!r}" in capsys.readouterr().err
    assert other.read_text() == "precious"


@pytest.mark.parametrize(
    ("settings", "error", "wanted"),
    [
        ({"format": "yolo"}, ValueError, r"data\.format must be one of coco, voc, shapes, got 'yolo'"),
        ({"batch_size": "2"}, TypeError, r"data\.batch_size must be an integer, got '2'"),
        ({"num_workers": 1.5}, TypeError, r"data\.num_workers must be an integer, got 1\.5"),
        ({"seed": "a"}, TypeError, r"data\.seed must be an integer, got 'a'"),
        ({"run_seed": 0.5}, TypeError, r"data\.run_seed must be an integer, got 0\.5"),
    ],
)
def test_wrong_settings_in_python_are_named_as_in_a_config(settings, error, wanted):
    with pytest.raises(error, match=wanted):
        DetectionData(**settings)


def test_what_the_scheduler_was_told_wrong_is_said_without_a_traceback(run, capsys, monkeypatch):
    for name, value in {"NTASKS": "2", "JOB_ID": "1", "JOB_NAME": "x", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(SystemExit):
        run("fit")
    assert "Use `--ntasks-per-node=2` instead" in capsys.readouterr().err
