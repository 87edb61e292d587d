from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def in_repository(monkeypatch):
    """Run a test where the README's commands are typed, whose paths are relative."""
    monkeypatch.chdir(ROOT)
    return ROOT
