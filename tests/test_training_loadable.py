"""A checkpoint is refused by name before anything is written, or everything in it loads as Lightning loads it."""

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.utilities.migration import migrate_checkpoint

from detmix.training import DetectionData, DetectionModule, MixBatches, ShapesOptions
from detmix.training.checkpoints import CheckpointFiles, read_checkpoint
from detmix.training.random_state import random_state, require_random_state, set_random_state
from detmix.training.skipped import SkippedImages

from .hostile import changed, read_or_refused
from .test_training_resume import differences

CPU = torch.device("cpu")
PLACE = {
    "epoch": 0,
    "batches": 2,
    "order": {"seed": 0, "images": 5, "batch size": 2, "processes": 1, "aspect ratio grouping": True},
    "threads": 2,
    "random": [],
    "ended_early": [3.0, 9.0],
}


class Run:
    """A module of two parameters, the trainer of its run, and a checkpoint after one step."""

    def __init__(self, kind):
        self.kind = kind
        self.module = DetectionModule(optimizer=kind)
        self.module.detector = torch.nn.Linear(3, 2)
        self.module.class_names = ("red cell", "platelet")
        callbacks = [SkippedImages(Path("run")), MixBatches(), EMAWeightAveraging()]
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        self.trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, logger=False, max_epochs=3, **quiet)
        self.path = Path("last.ckpt")

    def optimizer(self):
        optimizer = self.module._optimizer()
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    def step(self, optimizer, scheduler):
        self.module.detector(torch.ones(3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    def checkpoint(self):
        optimizer, scheduler = self.optimizer()
        self.step(optimizer, scheduler)
        weights = dict(self.module.state_dict())
        return {
            "epoch": 0,
            "global_step": 1,
            "pytorch-lightning_version": L.__version__,
            "state_dict": weights,
            "loops": {"fit_loop": self.trainer.fit_loop.state_dict()},
            "callbacks": {callback.state_key: callback.state_dict() for callback in self.trainer.callbacks},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [scheduler.state_dict()],
            "current_model_state": dict(weights),
            "averaging_state": {"n_averaged": torch.tensor(1)},
            "optimizer": self.kind,
            "class_names": ["red cell", "platelet"],
            "detmix": PLACE,
        }

    def read(self, content):
        """What is read of a checkpoint on disk, if it is this run's own."""
        torch.save(content, self.path)
        checkpoint = read_checkpoint(self.path)
        self.module.require_own(checkpoint, self.path, self.trainer, "fit")
        return checkpoint

    def load(self, checkpoint):
        """As Lightning does, and train on."""
        migrate_checkpoint(checkpoint)
        self.module.load_state_dict(checkpoint["state_dict"])
        for callback in self.trainer.callbacks:
            if checkpoint.get("callbacks", {}).get(callback.state_key):
                callback.load_state_dict(copy.deepcopy(checkpoint["callbacks"][callback.state_key]))
        self.trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
        optimizer, scheduler = self.optimizer()
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
        self.step(optimizer, scheduler)
        if checkpoint.get("detmix") is not None:
            take_place(**checkpoint["detmix"])


def take_place(random, ended_early=None, **place):
    for state in random:
        set_random_state(state, CPU)
    assert not ended_early or len([3 <= limit for limit in ended_early]) == 2
    data, threads = DetectionData(shapes=ShapesOptions(train=5)), torch.get_num_threads()
    data.go_on(**place)
    torch.set_num_threads(threads)
    _, behind = data._order._visited
    assert behind < len(data._order) or place["order"] != data.order()


@pytest.fixture(params=["sgd", "adamw"])
def kind(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.fixture
def run(kind):
    return Run(kind)


def test_a_checkpoint_of_the_run_itself_is_taken(run):
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    checkpoint = run.checkpoint()
    run.module.load_state_dict(before)
    taken = run.read(checkpoint)
    assert all(torch.equal(value, before[name]) for name, value in run.module.state_dict().items())  # only tried
    run.load(taken)
    run.read({name: value for name, value in checkpoint.items() if name not in ("callbacks", "detmix")})


@pytest.mark.parametrize(
    ("kind", "group", "state"),
    [
        ("sgd", {"weight_decay": 1e308}, {}),
        ("sgd", {"dampening": -1e300}, {}),
        ("sgd", {"lr": 1e40}, {}),
        ("adamw", {}, {"step": torch.tensor(-1.0)}),
    ],
    indirect=["kind"],
)
def test_numbers_with_which_no_step_can_be_taken_are_refused(run, group, state):
    content = run.checkpoint()
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    [kept] = content["optimizer_states"]
    kept["param_groups"][0] |= group
    kept["state"][1] |= state
    with pytest.raises(ValueError, match=r"last\.ckpt: no checkpoint to go on from: .*(overflow|division)"):
        run.read(content)
    assert all(torch.equal(value, before[name]) for name, value in run.module.state_dict().items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_checkpoint_with_other_values_is_refused_or_loads(kind, data):
    run = Run(kind)
    content = data.draw(changed(run.checkpoint()))
    checkpoint = read_or_refused(lambda: run.read(content), "last.ckpt")
    if checkpoint is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.load(checkpoint)
        run.checkpoint()  # the next one


class Best(L.Callback):
    """A user's own, whose state changes its kind, and that has none before its run begins."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return {"best": self.state["best"], "path": None}

    def load_state_dict(self, state_dict):
        self.state = state_dict


def test_what_callbacks_of_others_keep_is_their_own_affair(run):
    clock = Timer(duration="00:01:00:00")
    early = EarlyStopping("val/loss")
    run.trainer.callbacks += [clock, early, Best({"best": -3.5})]
    clock.load_state_dict({"time_elapsed": {stage: 0.5 for stage in clock.state_dict()["time_elapsed"]}})
    checkpoint = run.checkpoint()
    del checkpoint["callbacks"][early.state_key]["patience"]
    run.trainer.callbacks[-1] = Best()
    assert run.read(checkpoint)["callbacks"]["Best"] == {"best": -3.5, "path": None}
    run.trainer.callbacks += [Stateless()]  # of which the checkpoint has nothing
    run.read(checkpoint)


class Stateless(Best):
    """One that cannot tell a state yet."""


WRONG = {
    "no weights": ({"state_dict": []}, "its state_dict is none"),
    "weights by number": ({"state_dict": {1: torch.ones(1)}}, "its state_dict is none"),
    "a step in words": ({"global_step": "x"}, "its global_step is no number"),
    "an epoch below none": ({"epoch": -1}, "its epoch is no number"),
    "weights alone": ({"optimizer_states": None, "lr_schedulers": None}, "optimizer_states is not as such a run"),
    "no schedule": ({"lr_schedulers": []}, "lr_schedulers has 0 parts in place of 1"),
    "no loops": ({"loops": None}, "it has no loops"),
    "callbacks in a list": ({"callbacks": []}, "callbacks is no dict"),
    "a version in words": ({"pytorch-lightning_version": "new"}, "new"),
    "a place in words": ({"detmix": {"epoch": "first"}}, "detmix has not the parts of such a run: epoch, batches"),
    "no threads": ({"detmix": {**PLACE, "threads": 0}}, "detmix.threads is not as such a run has it"),
    "an order of nothing": ({"detmix": {**PLACE, "order": {}}}, "detmix.order has not the parts of such a run: seed"),
    "no batches left": ({"detmix": {**PLACE, "batches": 3}}, "as many batches behind it as an epoch of 5 images has"),
    "batches without end": ({"detmix": {**PLACE, "batches": 10**9}}, "as many batches behind it as an epoch"),
    "loops by number": ({"loops": 3}, "loops is no dict"),
    "half precision in words": ({"MixedPrecision": "half"}, "MixedPrecision is no dict"),
    "averages of nothing": ({"averaging_state": []}, "averaging_state is no dict"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(run, case):
    parts, message = WRONG[case]
    with pytest.raises(ValueError, match=rf"last\.ckpt: .*{message}"):
        run.read({**run.checkpoint(), **parts})


def test_a_checkpoint_of_more_epochs_than_the_run_is_to_have_is_refused(run):
    checkpoint = run.checkpoint()
    checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 4
    with pytest.raises(ValueError, match=r"4 epochs behind it, and --trainer.max_epochs is 3"):
        run.read(checkpoint)
    run.trainer.callbacks += [StochasticWeightAveraging(swa_lrs=0.1)]  # which adds one, for batch normalisation
    run.read(checkpoint)
    checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 5
    with pytest.raises(ValueError, match=r"5 epochs behind it, and --trainer.max_epochs is 3"):
        run.read(checkpoint)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["platelet", "red cell"], "label 1 is 'platelet' there and 'red cell' in this data. If the data has those "),
        (["red cell", "owl"], "label 2 is 'owl' there and 'platelet' .* --data.class_names '.\"red cell\", \"owl\".'$"),
        (["red cell"], "label 2 is no class there and 'platelet' in this data"),
        (["red cell", "platelet", "owl"], "label 3 is 'owl' there and no class in this data"),
        ("red cell", "its class_names are no list of names"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_checkpoint_of_other_classes_is_refused(run, stage, names, message):
    checkpoint = {**run.checkpoint(), "class_names": names}
    with pytest.raises(ValueError, match=rf"^last\.ckpt: .*{message}"):
        run.module.require_own(checkpoint, run.path, run.trainer, stage)
    with pytest.raises(ValueError, match=rf"^the checkpoint: .*{message}"):
        run.module.on_load_checkpoint(checkpoint)  # of a trainer that the command line has not made


def test_a_checkpoint_that_states_no_classes_is_taken(run):
    """As those of earlier versions."""
    checkpoint = run.checkpoint()
    del checkpoint["class_names"]
    run.module.on_load_checkpoint(run.read(checkpoint))


def test_lists_that_callbacks_share_are_written_apart(run):
    checkpoint = run.checkpoint()
    shared = checkpoint["lr_schedulers"][0]
    checkpoint["callbacks"]["Other"] = {"schedule": shared, "rates": (shared["base_lrs"], [shared["_last_lr"]])}
    CheckpointFiles().save_checkpoint(checkpoint, run.path)
    read = read_checkpoint(run.path)
    assert differences(read, checkpoint) == []
    assert read["state_dict"].keys() == run.module.state_dict().keys()


def test_the_state_of_an_optimizer_has_the_shapes_of_the_parameters(run):
    checkpoint = run.checkpoint()
    state = checkpoint["optimizer_states"][0]["state"][0]
    name = {"sgd": "momentum_buffer", "adamw": "exp_avg"}[run.kind]
    state[name] = torch.ones(7)
    with pytest.raises(ValueError, match=rf"{name} in optimizer_states is no tensor of shape \(2, 3\)"):
        run.read(checkpoint)


def go_on(run, caplog, *, kind=DetectionModule, restored=True, callbacks=(), **settings):
    """The optimizer and the schedule of a run that goes on from a checkpoint with some settings, and what is said."""
    state = run.checkpoint()
    module = kind(optimizer=run.kind, **settings)
    module.detector = run.module.detector
    optimizer = module._optimizer()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 3))
    optimizer.load_state_dict(state["optimizer_states"][0])
    scheduler.load_state_dict(state["lr_schedulers"][0])
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    module.trainer = SimpleNamespace(
        optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)], callbacks=callbacks
    )
    if restored:
        module.on_load_checkpoint(state)
    with caplog.at_level("INFO"):
        module.on_train_start()
    return before, (optimizer.state_dict(), scheduler.state_dict()), caplog.text


def test_a_run_that_goes_on_has_its_own_settings_of_the_optimizer(run, caplog):
    settings = {"lr": 0.004, "weight_decay": 0.05, "momentum": 0.5}
    _, (optimizer, schedule), said = go_on(run, caplog, **settings)
    [group] = optimizer["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.004, 0.05)
    assert group["lr"] == 0.004 * (1 / 4)  # of the second step
    assert schedule["base_lrs"] == [0.004]
    assert group.get("momentum") == {"sgd": 0.5, "adamw": None}[run.kind]
    assert "--model.lr is 0.004 from here on; in the checkpoint it is 0.0025." in said
    assert "--model.weight_decay is 0.05 from here on; in the checkpoint it is 0.0001." in said
    assert ("--model.momentum is 0.5" in said) == (run.kind == "sgd")


class OwnOptimizer(DetectionModule):
    """A user's, with settings of its own for some parameters."""

    def configure_optimizers(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "other",
    [{"restored": False}, {"kind": OwnOptimizer}, {"callbacks": [BackboneFinetuning()]}],
    ids=["a run from its start", "another optimizer", "parameters that come later"],
)
def test_other_optimizers_and_runs_from_their_start_are_left_alone(run, caplog, other):
    before, after, said = go_on(run, caplog, lr=0.004, weight_decay=0.05, **other)
    assert differences(before, after) == []
    assert "from here on" not in said


def test_an_optimizer_that_is_not_known_before_the_run_is_not_tried(run):
    checkpoint = run.checkpoint()
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    groups.append({**groups[0], "params": []})
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        run.read(checkpoint)
    run.trainer.callbacks += [BackboneFinetuning()]
    run.read(checkpoint)


def timed(**limits):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", max_time="00:00:01:00", **quiet, **limits)


@pytest.mark.parametrize("endless", [SimpleNamespace(max_epochs=-1, max_steps=-1), timed()], ids=["no limit", "time"])
def test_a_schedule_over_all_steps_needs_a_last_one(endless):
    DetectionModule(schedule="constant").check_schedule(endless)
    for limit in ("max_epochs", "max_steps"):
        DetectionModule(schedule="cosine").check_schedule(timed(**{limit: 7}))
    DetectionModule(schedule="cosine").check_schedule(SimpleNamespace(max_epochs=-1, max_steps=7))
    with pytest.raises(ValueError, match="--model.schedule cosine .* set --trainer.max_epochs or"):
        DetectionModule(schedule="cosine").check_schedule(endless)


def test_where_they_are_the_same_nothing_changes_but_the_rate_of_another_schedule(run, caplog):
    before, after, said = go_on(run, caplog)
    assert "from here on" not in said
    for one in (*before[0]["param_groups"], *after[0]["param_groups"]):
        one.pop("lr")
    assert differences(before, after) == []


def test_a_state_of_the_random_generators_that_is_none_is_refused():
    state = random_state(CPU)
    require_random_state(state)
    name, keys, place, *rest = state["numpy"]
    beyond = {**state, "numpy": (name, keys, 10**6, *rest)}
    short = {**state, "numpy": (name, keys[:-1], place, *rest)}
    on_gpu = {**state, "cuda": [1, 2]}
    for wrong in (
        None,
        {},
        beyond,
        short,
        on_gpu,
        {**state, "torch": torch.zeros(3)},
        {**state, "random": (3, (1,), None)},
    ):
        with pytest.raises(ValueError, match="no state of the random generators"):
            require_random_state(wrong)
    assert torch.equal(random_state(CPU)["torch"], state["torch"])  # asking sets nothing
