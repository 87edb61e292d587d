"""The tests that are marked ``gpu``, on a simulated one where there is no other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ROOT
from .simulated_gpu import is_possible

HERE = Path(__file__).parent
TAKES_GPU = re.compile(r"^def test_\w+\((\w+, )*gpu\b", re.MULTILINE)
FILES = sorted(path.name for path in HERE.glob("test_*.py") if TAKES_GPU.search(path.read_text()))


@pytest.mark.skipif(not is_possible(), reason="this torch takes no device that is written in Python")
@pytest.mark.skipif(torch.cuda.is_available(), reason="they have run on a real one")
@pytest.mark.parametrize("file", FILES)
def test_what_is_to_hold_on_a_gpu_holds_on_a_simulated_one(file):
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(HERE / file)]
    # torch registers the device for the whole process
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "SIMULATED_GPU": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"\d+ passed", ended.stdout)
