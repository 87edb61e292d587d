"""tools/sweep.py, with a stand-in for the trainer and with the trainer itself."""

import runpy
import shutil
import signal
import subprocess
import sys

import pytest

from detmix.sweep import Interrupted

from .stand_in import GRID, STAND_IN, rows


def test_the_tool_prints_what_came_out_and_fails_if_a_run_has(in_repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    (tmp_path / "fault").write_text("FloatingPointError")
    (tmp_path / "train.py").write_text(STAND_IN)
    tool = shutil.copy("tools/sweep.py", tmp_path)
    command = [tool, "--config=configs/quickstart.yaml", "--set", *GRID, "--seeds=1", f"--output={tmp_path / 'sweep'}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(
        SystemExit, match=r"1 of 3 runs failed; .*sweep\.html has their last lines, --retry repeats them"
    ):
        runpy.run_path(tool, run_name="__main__")
    assert "objective=unweighted has 0 of 1 seeds, 1 diverged" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "fault").unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--retry", "--measures", "segm/AP", "AP50"])
    runpy.run_path(tool, run_name="__main__")
    told = " ".join(capsys.readouterr().out.split())
    assert "segm/AP in percent, by arm" in told
    assert told.index("in segm/AP") < told.index("in AP50")


def test_a_sweep_that_is_told_to_stop_ends_with_the_code_of_its_signal(in_repository, monkeypatch, capsys):
    def stop(*_, command, **__):
        raise Interrupted(f"Stopped. The same command goes on:\n{command}", signal.SIGTERM)

    monkeypatch.setattr("detmix.sweep.run_sweep", stop)
    monkeypatch.setattr(sys, "argv", ["elsewhere/sweep.py", "--config=configs/quickstart.yaml", "--set", *GRID])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("tools/sweep.py", run_name="__main__")
    assert ended.value.code == 143
    assert "goes on:\npython tools/sweep.py --config=configs/quickstart.yaml --set" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_fewer_than_one_run_at_a_time_are_refused_before_anything_is_tried(jobs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--config=no.yaml", f"--jobs={jobs}", "--dry-run"])
    with pytest.raises(SystemExit):
        runpy.run_path("tools/sweep.py", run_name="__main__")
    assert f"--jobs must be 1 or more, got {jobs}" in capsys.readouterr().err


def test_the_tool_trains_shapes_and_says_what_came_out(in_repository, tmp_path):
    scenes = [
        f"--data.shapes.{setting}" for setting in ("train=4", "val=2", "size=32", "min_extent=8", "max_extent=16")
    ]
    fast = ["--data.batch_size=2", "--data.mixup.no_mixup_epochs=0", "--model.options={min_size: 32, max_size: 32}"]
    fast += ["--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0", "--trainer.check_val_every_n_epoch=1"]
    command = ["tools/sweep.py", "--config", "configs/quickstart.yaml", "--set", "data.mixup=null,{alpha: 1.5}"]
    command += ["--seeds=1", "--output", str(tmp_path / "sweep"), *scenes, *fast]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    assert "on one seed, which says nothing" in " ".join(result.stdout.split())
    assert [row["state"] for row in rows(tmp_path / "sweep")] == ["finished", "finished"]
    runs = sorted(path.name for path in (tmp_path / "sweep/runs").iterdir())
    assert runs == ["00-mixup=null-seed0_nomix", "01-mixup=_alpha_1.5-seed0"]
    assert (tmp_path / "sweep/runs" / runs[1] / "report.html").exists()
