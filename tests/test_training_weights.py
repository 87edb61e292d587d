import argparse
import pickle
import re
import zipfile
from collections import Counter
from pickle import UnpicklingError

import pytest
import torch
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

from detmix.training.checkpoints import read_checkpoint
from detmix.training.models import detector_names, untrained_detector
from detmix.training.safe_load import load_plain
from detmix.training.weights import count_classes, detectors_with, lasting_shapes, read_state, read_weights

from .factories import make_assembled
from .hostile import beyond_zipfile, compress, exchange, listed_twice, listed_twice_and_large

SMALL = "fasterrcnn_resnet18_small"
MOBILE = ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn"]


@pytest.fixture(scope="module")
def model():
    return untrained_detector(SMALL, 4)


@pytest.fixture
def read(tmp_path, model):
    """Save anything, and read it as the weights of a detector, by default the small one of four classes."""

    def call(content, detector=model, num_classes=4):
        torch.save(content, tmp_path / "weights.pt")
        return read_weights(tmp_path / "weights.pt", detector, num_classes)

    return call


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": prefixed(state, "detector."), "epoch": 3},
        lambda state: {"model": state, "optimizer": {}, "args": argparse.Namespace(lr=0.02), "epoch": 25},
        lambda state: {"model": prefixed(state, "module.")},
    ],
    ids=["model.pt", "checkpoint", "torchvision's checkpoint", "parallel"],
)
def test_weights_are_found_in_what_training_scripts_write(read, model, wrap):
    state = read(wrap(model.state_dict()))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    model.load_state_dict(state)


def test_frozen_batch_norms_and_others_take_each_others_weights(read):
    norms = (FrozenBatchNorm2d, nn.BatchNorm2d)  # only the second count their batches
    frozen, plain = (
        FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm), 4) for norm in norms
    )
    assert len(frozen.state_dict()) < len(plain.state_dict())
    plain.load_state_dict(read(frozen.state_dict(), plain))
    frozen.load_state_dict(read(plain.state_dict(), frozen))


@pytest.mark.parametrize("name", detector_names())
def test_the_number_of_classes_is_read_off_the_weights(name):
    with torch.device("meta"):
        of_five, of_two = (lasting_shapes(untrained_detector(name, classes).state_dict()) for classes in (5, 2))
    assert count_classes(of_five, of_two, 2) == 5
    assert count_classes(of_two, of_five, 5) == count_classes(of_two, of_two, 2) == 2


def test_detectors_are_known_by_their_weights():
    for name in ("maskrcnn_resnet50_fpn", SMALL, MOBILE[1]):
        with torch.device("meta"):
            shapes = lasting_shapes(untrained_detector(name, 7).state_dict())
        assert detectors_with(shapes) == (MOBILE if name in MOBILE else [name])
    assert detectors_with(lasting_shapes(make_assembled("FCOS").state_dict())) == []


def test_weights_for_other_classes_are_refused_with_both_numbers(read):
    other = untrained_detector(SMALL, 7).state_dict()
    with pytest.raises(ValueError, match=r"weights\.pt: wanted weights for 4 classes, background included, .* for 7"):
        read(other)


def test_weights_of_another_detector_are_refused_with_both_names(read):
    other = untrained_detector(MOBILE[0], 4).state_dict()
    with pytest.raises(ValueError, match=f"wanted weights of {SMALL}, got those of {' or '.join(MOBILE)}"):
        read(other)


def test_of_other_weights_the_first_tensor_that_differs_is_named(read, model):
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"1 of \d+ tensors differ, rpn.head.cls_logits.bias first: .*got shape \(1"):
        read({**state, "rpn.head.cls_logits.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 of \d+ tensors differ, extra first: wanted none, got shape \(2,\)"):
        read({**state, "extra": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"rpn.head.cls_logits.bias first: wanted shape \(3,\), got none"):
        read({name: value for name, value in state.items() if name != "rpn.head.cls_logits.bias"})


class Hostile:
    """Pickled, it writes a file when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_a_hostile_file_is_refused_and_runs_nothing(read, model, tmp_path):
    for content in (Hostile(tmp_path / "owned"), {**model.state_dict(), "evil": Hostile(tmp_path / "owned")}, model):
        with pytest.raises(ValueError, match=r"weights\.pt: not a file of weights.*could run code"):
            read(content)
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "owned"), protocol=2))
    with pytest.raises(ValueError, match=r"weights\.pkl: not a file of weights"):
        read_weights(tmp_path / "weights.pkl", model, 4)
    assert not (tmp_path / "owned").exists()


def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path, model):
    file = tmp_path / "small.pt"
    torch.save({"a": torch.zeros(1 << 20)}, file)
    compress(file)
    assert file.stat().st_size < 1 << 16
    with pytest.raises(ValueError, match=r"small\.pt: .*: it has \d+ bytes and claims to hold 4\d{6}, and torch"):
        read_weights(file, model, 4)


@pytest.mark.parametrize("hide", [beyond_zipfile, listed_twice, listed_twice_and_large])
def test_no_directory_hides_that_a_file_grows(tmp_path, hide):
    file = tmp_path / "small.pt"
    torch.save({"a": torch.zeros(1 << 20)}, file)
    compress(file)
    file.write_bytes(hide(file.read_bytes()))
    assert file.stat().st_size < 1 << 16
    for read in (read_state, read_checkpoint):
        with pytest.raises(
            ValueError, match=r"small\.pt: .*its archive is (damaged|compressed or lists its parts twice)"
        ):
            read(file)


def test_a_checkpoint_cut_short_is_not_said_to_hold_code(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.ckpt: truncated, or no checkpoint: its archive is damaged"):
        read_checkpoint(tmp_path / "cut.ckpt")


def test_a_part_that_grows_when_torch_opens_the_file_is_refused_before(tmp_path, monkeypatch):
    file = tmp_path / "small.pt"
    torch.save({}, file)
    exchange(file, "version", b"3" + bytes(1 << 20))
    compress(file)
    monkeypatch.setattr(torch._C, "PyTorchFileReader", None)
    with pytest.raises(UnpicklingError, match=r"it has \d+ bytes and claims to hold \d{7}"):
        load_plain(file)


@pytest.mark.parametrize("key", [b"X\1\0\0\0A", b"X\3\0\0\x000\0b", b"K\0"])  # torch finds a, 0 and 0 for them
def test_a_part_that_may_be_read_again_under_another_key_is_refused(tmp_path, key):
    file = tmp_path / "many.pt"
    torch.save({"a": torch.ones(3)}, file)
    with zipfile.ZipFile(file) as archive:
        pickled = archive.read("many/data.pkl")
    exchange(file, "data.pkl", pickled)
    assert torch.equal(read_state(file)["a"], torch.ones(3))
    exchange(file, "data.pkl", pickled.replace(b"X\1\0\0\x000", key, 1))
    with pytest.raises(ValueError, match=r"many\.pt: .* another key than torch writes"):
        read_state(file)


@pytest.mark.parametrize("new_format", [True, False])
def test_parts_that_training_scripts_share_are_read(tmp_path, new_format):
    ones, settings, twice = torch.ones(3), (0.9, 0.999), ["a"]
    shared = {"best": ones, "score": ones, "groups": [{"betas": settings}, {"betas": settings}]}
    milestones, numbers = Counter([16, 22]), {2**63 - 1: 2**128, -(2**63): 0, 0.5: None, None: True, False: ""}
    torch.save(
        {**shared, "milestones": milestones, "numbers": numbers},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=new_format,
    )
    content = load_plain(tmp_path / "a.pt")
    assert torch.equal(content["score"], ones)
    assert (content["groups"][1]["betas"], content["milestones"]) == (settings, milestones)
    assert content["numbers"] == numbers
    torch.save([twice, twice], tmp_path / "b.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UnpicklingError, match="it holds a list or dict at two places"):
        load_plain(tmp_path / "b.pt")


def named(module, name):
    return f"c{module}\n{name}\n".encode()


MANY = b"J\0\0\0\x70"  # 1.9 thousand million
TEXT = b"X\1\0\0\0a"
ALIKE = [k * (2**61 - 1) for k in range(100, 110)]
# what torch reads under weights_only=True, in a pickle of a few bytes, and takes memory or time beyond all measure for
BOMBS = {
    "zeros": named("__builtin__", "bytearray") + MANY + b"\x85R",
    "zeros in a list": b"](" + named("__builtin__", "bytearray") + MANY + b"\x85Re",
    "twice as long each time": named("_codecs", "encode") + TEXT + b"X\3\0\0\0hex\x86R",
    "a tensor by its length": named("torch", "FloatTensor") + MANY + b"\x85R",
    "a storage by its length": named("torch.storage", "UntypedStorage") + MANY + b"\x85R",
    "a copy of a dict": named("collections", "OrderedDict") + b"}\x85R",
    "a copy of a dict, in another way": named("collections", "OrderedDict") + b"(}tR",
    "a text that is counted": named("collections", "Counter") + TEXT + b"\x85R",
    "a key that is hashed without end": b"}))\x86q\1h\1\x86q\2h\2\x86q\3h\3\x86K\1s",
    "a list in itself": b"]q\1h\1a",
    "keys of one hash": b"}(" + b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in ALIKE) + b"u",
    "keys of pairs, which may have one hash": b"}K\1K\2\x86K\1s",
    "a key that nests deep enough to crash": b"})" + b"\x85" * 1000 + b"K\1s",
    "lists that nest": b"]" * 100 + b"a" * 99,
}


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_take_all_memory_or_time_is_refused(tmp_path, bomb, new_format):
    file = tmp_path / "bomb.pt"
    torch.save([], file, _use_new_zipfile_serialization=new_format)
    empty, pickled = b"\x80\2]q\0.", b"\x80\2" + BOMBS[bomb] + b"."
    if new_format:
        exchange(file, "data.pkl", pickled)
    else:
        file.write_bytes(file.read_bytes().replace(empty, pickled, 1))
    with pytest.raises(
        UnpicklingError, match=r"not among what|is called as|at two places|more than 50 deep|a key of a dict"
    ):
        load_plain(file)
    for read in (read_state, read_checkpoint):
        with pytest.raises(ValueError, match=r"bomb\.pt: .*all memory"):
            read(file)


def test_a_tensor_of_more_elements_than_there_are_numbers_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"wide\.pt: .* a tensor has more elements than the file has numbers for it"):
        read_state(tmp_path / "wide.pt")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short", b"\x80\x02(cos\nsystem"])
def test_a_damaged_file_is_named(tmp_path, model, content):
    file = tmp_path / "damaged.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{file}: not a file of weights")):
        read_weights(file, model, 4)


@pytest.mark.parametrize(
    ("content", "got"),
    [({"epoch": 3, "loss": torch.ones(1)}, "a dict of epoch, loss"), (torch.ones(2), "Tensor"), ({}, "dict")],
)
def test_what_is_no_state_dict_is_described(read, content, got):
    with pytest.raises(ValueError, match=f"weights.pt: not a file of weights: wanted a state_dict, got .*{got}"):
        read(content)


def test_a_missing_file_is_named(tmp_path, model):
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file of weights"):
        read_weights(tmp_path / "none.pt", model, 4)
