import numpy as np

from detmix import machine as module
from detmix.machine import describe, machine, versions


def test_versions_are_those_in_use_and_what_is_not_installed_is_left_out(monkeypatch):
    assert {"detmix", "torch", "numpy"} <= versions().keys()
    monkeypatch.setattr(module, "_PACKAGES", ("numpy", "no-such-package"))
    assert versions() == {"numpy": np.__version__}


def test_the_machine_is_told_in_a_line():
    facts = machine()
    assert facts["processor"].endswith(" cores")
    assert describe({"processor": "Z80, 1 cores", "gpu": "none", "torch": "9"}) == "Z80, 1 cores, none, torch 9"
    assert f", python {facts['python']}, " in describe(facts)
