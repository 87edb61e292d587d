"""How long a run would take, told from its first batches."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from detmix.sweep import estimate, estimate_run, look_into, make_plan, plan_table

GRID = ["data.mixup.alpha=0,1.5"]


@pytest.fixture
def plan(in_repository):
    return make_plan(Path("configs/quickstart.yaml"), grid=GRID, seeds=3)


def watched(tmp_path, monkeypatch, *, batches, **of_trainer):
    """What the stopwatch writes of batches that take these seconds, after a look at two batches of 9 and 1 s."""
    now = [100.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    of_trainer.setdefault("val_check_batch", of_trainer["num_training_batches"])
    trainer = SimpleNamespace(accumulate_grad_batches=1, is_global_zero=True, num_val_batches=[20], **of_trainer)
    watch = estimate.Stopwatch(str(tmp_path / "times.json"))
    for seconds in (9, 1):  # the first is cold
        watch.on_validation_batch_start(trainer)
        now[0] += seconds
        watch.on_validation_batch_end(trainer)
    now[0] += 50
    watch.on_train_start(trainer, None)

    def train():
        for seconds in batches:
            now[0] += seconds
            watch.on_train_batch_end(trainer)

    with pytest.raises(SystemExit, match="^0$"):
        train()
    return json.loads((tmp_path / "times.json").read_text())


def test_all_batches_of_training_and_validation_are_counted(tmp_path, monkeypatch):
    batches = [30, 7, 2, 2, 2, 5, 5, 5, 1000]  # it ends after eight; the first two are cold
    ten_epochs = {"num_training_batches": 40, "estimated_stepping_batches": 400, "check_val_every_n_epoch": 5}
    told = watched(tmp_path, monkeypatch, batches=batches, **ten_epochs)
    assert told == {"tried": 58, "whole": 400 * 3.5 + 2 * 20 * 1}


@pytest.mark.parametrize(
    ("every", "interval", "validations"),
    [(1, 10, 40), (5, 10, 8), (5, 40, 2), (20, 40, 1), (None, 100, 4), (None, 1000, 1), (1, float("inf"), 10)],
)
def test_each_validation_is_counted(tmp_path, monkeypatch, every, interval, validations):
    ten_epochs = {"num_training_batches": 40, "estimated_stepping_batches": 400}
    settings = ten_epochs | {"check_val_every_n_epoch": every, "val_check_batch": interval}
    told = watched(tmp_path, monkeypatch, batches=[2] * 9, **settings)
    assert told["whole"] == 400 * 2 + validations * 20 * 1


@pytest.mark.parametrize(("steps", "every", "validations"), [(20, 1, 4), (60, 1, 12), (60, 2, 4), (100, 2, 8)])
def test_validations_of_an_epoch_that_ends_early_are_counted(tmp_path, monkeypatch, steps, every, validations):
    settings = {"num_training_batches": 40, "estimated_stepping_batches": steps, "val_check_batch": 5}
    told = watched(tmp_path, monkeypatch, batches=[2] * 9, check_val_every_n_epoch=every, **settings)
    assert told["whole"] == steps * 2 + validations * 20 * 1


def test_an_epoch_of_fewer_batches_is_enough(tmp_path, monkeypatch):
    short = {"num_training_batches": 2, "estimated_stepping_batches": 6, "check_val_every_n_epoch": 1}
    assert watched(tmp_path, monkeypatch, batches=[4, 3], **short) == {"tried": 7, "whole": 6 * 3.5 + 3 * 20 * 1}


def test_a_training_without_an_end_takes_nobody_knows_how_long(tmp_path, monkeypatch):
    endless = {"num_training_batches": 9, "estimated_stepping_batches": float("inf"), "check_val_every_n_epoch": 1}
    assert watched(tmp_path, monkeypatch, batches=[1] * 8, **endless)["whole"] is None


def test_a_dry_run_tries_the_last_arm_and_keeps_nothing(plan, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "sweep"
    arguments = ["--config", str(plan.config), "--set", *GRID, "--output", str(folder), "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
    tool = runpy.run_path("tools/sweep.py")
    kept = []
    tool["main"].__globals__["estimate_run"] = lambda *given: kept.append(estimate_run(*given)) or kept[0]
    tool["main"]()
    [tried] = kept
    shown = " ".join(capsys.readouterr().out.split())
    assert (tried.arm, tried.lines) == ("alpha=1.5", [])
    assert tried.seconds > 0
    assert "left, one at a time: the first batches of alpha=1.5 were tried" in shown
    assert not folder.exists()


def test_an_estimate_that_fails_is_told_by_its_last_lines(plan, tmp_path):
    (tmp_path / "trainer.py").write_text("import sys; print('so far so good'); sys.exit('no such folder')")
    tried = estimate_run(plan, "alpha=0", [sys.executable, str(tmp_path / "trainer.py")])
    assert tried == estimate.Estimate("alpha=0", None, ["so far so good", "no such folder"])
    assert "unknown" in plan_table(plan, look_into(tmp_path / "sweep", plan), 1, tried).caption
