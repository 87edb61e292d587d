"""Which layers ManifoldMixup takes by name, and which parts of their output become mixtures."""

from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from detmix import weight_losses
from detmix.analysis import entanglement
from detmix.layers import map_tensors, tensors_of
from detmix.manifold import ManifoldMixup

from .factories import ListDataset, TinyBackbone, make_batch, make_detector, make_sample
from .test_manifold import HALF, layers_of, make_model, mixed_losses, outputs_of, partners_of

LEVELS = ("0", "1", "pool")
Pair = namedtuple("Pair", ["first", "second"])


@pytest.fixture(scope="module")
def pyramid():
    """A detector whose backbone returns a dict of levels."""
    return weight_losses(make_detector("fasterrcnn_mobilenet_v3_large_320_fpn"))


def assert_mixed(before, after, lam, partners):
    expected = lam * before.double() + (1 - lam) * before.double()[partners]
    torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [("0",), ("pool",), ("1", "0"), ("0", "1", "pool")])
@pytest.mark.parametrize("module", ["backbone.fpn", "backbone"])
def test_the_levels_that_are_named_become_mixtures_and_the_others_stay(pyramid, module, keys):
    mixer = ManifoldMixup(pyramid, [f"{module}:{','.join(keys)}"], alpha=1.0, pairing="shuffle", seed=5)
    before, after, losses = outputs_of(mixer, module, make_batch((1, 2, 0)))
    assert (*before,) == (*after,) == LEVELS
    for key in LEVELS:
        if key in keys:
            assert_mixed(before[key], after[key], mixer.lam, partners_of(3, "shuffle", seed=5))
        else:
            assert torch.equal(before[key], after[key])
    assert all(loss.isfinite() for loss in losses.values())


def test_all_levels_by_name_are_the_module_itself(pyramid):
    names = ["backbone.fpn", "backbone.fpn:0,1,pool"]
    whole, levels = (mixed_losses(ManifoldMixup(pyramid, [name], alpha=HALF), make_batch((2, 1))) for name in names)
    assert whole[0] == levels[0]


def test_the_names_that_the_analysis_gives_are_layers_to_measure_again_and_to_mix(pyramid):
    dataset = ListDataset([make_sample(4, seed=n) for n in range(2)])
    result = entanglement(pyramid, dataset, ["backbone.fpn", "backbone.body.4"], class_names=("cat", "dog", "bird"))
    assert len(result.layers) == 4
    again = entanglement(pyramid, dataset, result.layers, class_names=("cat", "dog", "bird"))
    assert again.to_json() == result.to_json()
    for name in result.layers:
        mixer = ManifoldMixup(pyramid, [name])
        mixer(*make_batch((1, 2)))
        assert mixer.mixed


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (
            "backbone.fpn:2",
            "'backbone.fpn:2' has no key '2': what 'backbone.fpn' returns has the keys '0', '1', 'pool'",
        ),
        ("backbone.fpn:0,poll", "has no key 'poll'"),
        ("backbone.body.4:0", r"has no key '0': what 'backbone\.body\.4' returns has none"),
    ],
)
def test_a_key_that_the_output_lacks_is_an_error_in_the_first_step_whatever_it_draws(pyramid, layer, wanted):
    for seed in range(4):
        mixer = ManifoldMixup(pyramid, ["input", "roi", layer], seed=seed)
        with pytest.raises(ValueError, match=wanted):
            mixer(*make_batch((1, 2)))
    assert not any(module._forward_hooks for module in pyramid.modules())


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        ("backbone.fpm:0", "no layer 'backbone.fpm:0'. Did you mean 'backbone.fpn'"),
        ("input:0", "no layer 'input:0'"),
        ("rpn:0", "no layer 'rpn:0'"),
        ("backbone.fpn:", "keys of a layer must be one or more, each once, .* got 'backbone.fpn:'"),
        ("backbone.fpn:0,", "each once"),
        ("backbone.fpn:0,1,0", "each once"),
        ("backbone.fpn.layer_blocks", "is a ModuleList, which is never called"),
        ("backbone.fpn.layer_blocks:0", "is a ModuleList, which is never called"),
    ],
)
def test_names_that_can_be_no_layer_are_refused_at_once(pyramid, layer, wanted):
    with pytest.raises(ValueError, match=wanted):
        ManifoldMixup(pyramid, ["input", layer])


def test_dicts_of_modules_are_refused_unless_they_can_be_called(pyramid):
    model = make_model()
    model.backbone.heads = nn.ModuleDict({"a": nn.Identity()})
    with pytest.raises(ValueError, match="'backbone.heads' is a ModuleDict, which is never called"):
        ManifoldMixup(model, ["backbone.heads"])
    assert isinstance(pyramid.backbone.body, nn.ModuleDict)
    mixer = ManifoldMixup(pyramid, ["backbone.body"])
    mixer(*make_batch((1, 2)))
    assert mixer.mixed


def trees():
    leaves = st.one_of(st.none(), st.integers(0, 9).map(lambda n: torch.full((2,), n)))
    return st.recursive(
        leaves,
        lambda parts: st.one_of(
            st.lists(parts, max_size=3),
            st.lists(parts, max_size=3).map(tuple),
            st.tuples(parts, parts).map(lambda pair: Pair(*pair)),
            st.dictionaries(st.sampled_from("abc"), parts, max_size=3),
        ),
        max_leaves=8,
    ).filter(lambda tree: tree is not None)


def written_out(tree):
    """The same tree of lists and dicts, each list with the name of its kind."""
    if isinstance(tree, dict):
        return {key: written_out(part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [type(tree).__name__, *map(written_out, tree)]
    return tree if tree is None else tree.tolist()


def at(tree, key):
    for step in filter(None, key.split(":")):
        tree = tree[step if isinstance(tree, dict) else int(step)]
    return tree


@given(trees())
def test_keys_lead_to_the_tensors_and_containers_keep_their_kind(tree):
    assert written_out(map_tensors(tree, lambda key, tensor: tensor)) == written_out(tree)
    negated = map_tensors(tree, lambda key, tensor: -tensor)
    assert tensors_of(tree).keys() == tensors_of(negated).keys()
    for key, tensor in tensors_of(tree).items():
        assert at(tree, key) is tensor
        assert torch.equal(at(negated, key), -tensor)


class Split(nn.Module):
    def forward(self, x):
        return Pair(x, {"square": x * x, "nothing": None})


class SplitBackbone(nn.Module):
    out_channels = 32

    def __init__(self):
        super().__init__()
        self.body, self.split = TinyBackbone(), Split()

    def forward(self, x):
        first, second = self.split(self.body(x))
        return first + second["square"]


@pytest.mark.parametrize(
    ("keys", "changed"), [("", {"0", "1:square"}), (":0", {"0"}), (":1:square", {"1:square"}), (":1:square,0", None)]
)
def test_named_tuples_and_parts_that_are_none_come_back_as_they_are(keys, changed):
    model = make_model()
    model.backbone = SplitBackbone()
    mixer = ManifoldMixup(model, [f"backbone.split{keys}"], alpha=1.0)
    before, after, _ = outputs_of(mixer, "backbone.split", make_batch((1, 2)))
    assert isinstance(after, Pair)
    assert after.second["nothing"] is None
    for key, tensor in tensors_of(before).items():
        if changed is None or key in changed:
            assert_mixed(tensor, tensors_of(after)[key], mixer.lam, [1, 0])
        else:
            assert torch.equal(tensor, tensors_of(after)[key])


def test_a_part_that_is_none_is_no_key():
    model = make_model()
    model.backbone = SplitBackbone()
    with pytest.raises(ValueError, match="no key '1:nothing': .* has the keys '0', '1:square'"):
        ManifoldMixup(model, ["backbone.split:1:nothing"])(*make_batch((1, 2)))


@pytest.mark.parametrize("layer", layers_of("FasterRCNN"))
def test_mixed_tells_whether_the_latest_step_mixed_anything(layer):
    mixer = ManifoldMixup(make_model(), [layer])
    assert not mixer.mixed
    mixer(*make_batch((1, 2)))
    assert mixer.mixed
    mixer(*make_batch((2,)))
    assert (mixer.mixed, mixer.lam < 1) == (layer == "roi", True)
    with mixer:
        assert not mixer.mixed
        mixer.model(*make_batch((1, 2)))
        assert mixer.mixed
    mixer.model.eval()
    mixer(*make_batch((1, 2)))
    assert (mixer.mixed, mixer.lam < 1) == (False, True)
    mixer.model.train()
    never = ManifoldMixup(mixer.model, [layer], p=0.0)
    never(*make_batch((1, 2)))
    assert not never.mixed


@pytest.mark.parametrize("trained", ["layer1", "layer2"])
def test_stages_that_a_layer_comes_behind_are_those_that_it_does_not_reach(trained, caplog):
    """By the features themselves: those of a stage stay what they were when the layer gives nothing."""
    returned = {f"layer{number}": str(number) for number in range(int(trained[-1]), 5)}
    backbone = BackboneWithFPN(resnet18(weights=None), returned, [64 * 2 ** (int(n) - 1) for n in returned.values()], 8)
    model = weight_losses(FasterRCNN(backbone, 4))
    body, images = model.backbone.body.eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = body(images)
        for layer in ("conv1", "layer1", "layer1.0", "layer2", "layer2.1.conv1", "layer3", "layer4"):
            handle = body.get_submodule(layer).register_forward_hook(lambda module, given, output: output * 2)
            same = [name for name, key in returned.items() if torch.equal(body(images)[key], whole[key])]
            handle.remove()
            caplog.clear()
            ManifoldMixup(model, [f"backbone.body.{layer}"])
            told = [record.getMessage() for record in caplog.records]
            assert len(told) == bool(same)
            assert all(
                f"the features of {', '.join(same)}, which come before it, stay unmixed" in text for text in told
            )


def test_other_layers_are_not_warned_about(caplog):
    model = weight_losses(make_detector("fasterrcnn_resnet50_fpn"))
    ManifoldMixup(model, ["input", "backbone", "backbone.fpn", "backbone.fpn:0", "backbone.body", "roi"])
    assert not caplog.records
