import subprocess
import sys

import pytest
from PIL import Image

TINY = ["--data.shapes.train=4", "--data.shapes.val=2", "--samples=3"]


def call(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("train --help", "validate"),
        ("train fit --help", "--data.mixup.help"),
        ("train fit --data.mixup.help", "probability that a sample is mixed at all"),
        ("preview --help", "one pair of images at"),
        ("benchmark --help", "python tools/benchmark.py step --device cuda"),
    ],
)
def test_help_teaches(command, wanted, in_repository):
    tool, *arguments = command.split()
    result = call(f"tools/{tool}.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert wanted in result.stdout


def test_preview_writes_the_samples_and_the_ratios_of_a_config(in_repository, tmp_path):
    result = call("tools/preview.py", "--config", "configs/quickstart.yaml", f"--output={tmp_path}", *TINY)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / "samples.png"), str(tmp_path / "lambda.png")]
    for name in ("samples.png", "lambda.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_preview_names_what_is_wrong(in_repository, tmp_path):
    result = call("tools/preview.py", "--config", "configs/quickstart.yaml", *TINY, "--data.mixup.alpha=-2")
    assert result.returncode == 2
    assert "alpha must be a finite number of 0 or more, got -2" in result.stderr


def test_benchmark_prints_ratios(in_repository):
    step = ["--size=64", "--batch-size=1", "--detector=fasterrcnn_mobilenet_v3_large_320_fpn"]
    result = call("tools/benchmark.py", "--repeats=2", *step)
    assert result.returncode == 0, result.stderr
    assert "blend / copy" in result.stdout
    assert "detmix / torchvision" in result.stdout
