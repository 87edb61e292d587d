"""The learning rate grows in the warm-up, and goes by the schedule after it; frozen parameters are left out."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix.training import DetectionModule
from detmix.training.optimization import lr_factor, make_optimizer

SCHEDULES = ["cosine", "multistep", "constant"]


@pytest.mark.parametrize(
    ("schedule", "step", "wanted"),
    [
        ("cosine", 0, 1.0),
        ("cosine", 50, 0.5),
        ("cosine", 75, 0.5 * (1 - math.sqrt(0.5))),
        ("cosine", 100, 0.0),
        ("cosine", 120, 0.0),  # it does not grow again
        ("multistep", 66, 1.0),
        ("multistep", 67, 0.1),
        ("multistep", 91, 0.1),
        ("multistep", 92, 0.01),
        ("constant", 99, 1.0),
    ],
)
def test_schedules_by_hand(schedule, step, wanted):
    assert lr_factor(schedule, step, 100, milestones=(0.67, 0.92)) == pytest.approx(wanted, abs=1e-12)


@given(st.sampled_from(SCHEDULES), st.integers(0, 300), st.integers(1, 300), st.integers(0, 50))
def test_the_warm_up_is_a_straight_line_times_the_schedule(schedule, step, steps, warmup_steps):
    factor, bare = (lr_factor(schedule, step, steps, warmup_steps=w, milestones=(0.5,)) for w in (warmup_steps, 0))
    assert factor == pytest.approx(bare * min(1, (step + 1) / (warmup_steps + 1)))
    assert 0 <= factor <= 1


def test_a_training_without_end_has_a_constant_rate():
    assert lr_factor("constant", 10**6, math.inf) == 1


@pytest.fixture
def said(caplog):
    """What a module says of its schedule."""

    def call(steps, **settings):
        module = DetectionModule(**settings)
        module.detector = torch.nn.Linear(1, 1)
        trainer = SimpleNamespace(estimated_stepping_batches=steps)
        module.trainer = trainer
        with caplog.at_level("INFO"):
            module.configure_optimizers()
        return caplog.text

    return call


def test_a_warm_up_of_more_than_a_fifth_of_the_training_is_told(said):
    text = said(200)
    highest = max((k + 1) / 501 * 0.5 * (1 + math.cos(math.pi * k / 200)) for k in range(200))
    assert f"warmup_steps is 500 and the training has 200 steps: its learning rate reaches {highest:.3g} of" in text
    assert "Set it to 40 or less" in text


@pytest.mark.parametrize(("warmup_steps", "steps"), [(40, 200), (0, 1), (500, math.inf)])
def test_a_short_warm_up_is_not(warmup_steps, steps, said):
    assert not said(steps, warmup_steps=warmup_steps, schedule="constant")


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_an_optimizer_has_its_settings_and_the_parameters_that_are_trained(name, kind):
    layers = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1).requires_grad_(False)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer = make_optimizer(name, parameters, lr=0.3, momentum=0.7, weight_decay=0.02)
    assert type(optimizer) is kind
    [group] = optimizer.param_groups
    assert [p.shape for p in group["params"]] == [(2, 3), (2,)]
    assert (group["lr"], group["weight_decay"], group.get("momentum")) == (0.3, 0.02, 0.7 if name == "sgd" else None)
