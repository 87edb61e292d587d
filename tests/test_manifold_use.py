"""ManifoldMixup around models as they are trained: wrapped, compiled, checkpointed; and what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from detmix import unweight_losses, weight_losses
from detmix.detectors import losses_and_detections
from detmix.manifold import ManifoldMixup

from .factories import TinyBackbone, make_assembled, make_batch
from .test_detectors import losses_of
from .test_gpu import count_waits
from .test_manifold import COUNTS, HALF, every_family, layers_of, make_model, mixed_losses, outputs_of


def hooks_of(model):
    kinds = [key for key in vars(model) if key.endswith("hooks")]
    return [len(getattr(module, kind)) for module in model.modules() for kind in kinds]


@every_family
def test_nothing_is_left_on_the_model_after_the_exit(family):
    model = make_model(family)
    before, keys = hooks_of(model), [set(vars(module)) for module in model.modules()]
    mixer = ManifoldMixup(model, layers_of(family))
    for _ in range(3):
        with mixer:
            assert sum(hooks_of(model)) > sum(before)
            model(*make_batch(COUNTS))
        assert hooks_of(model) == before
        assert [set(vars(module)) for module in model.modules()] == keys


@every_family
@pytest.mark.parametrize("layer", ["input", "backbone.1"])
def test_an_exception_passes_through_and_leaves_nothing_behind(family, layer):
    model = make_model(family)
    before, mixer = hooks_of(model), ManifoldMixup(model, [layer])
    images, targets = make_batch((1, 2))
    for bad, error in ((None, AssertionError), ([{"boxes": torch.ones(1, 4)}] * 2, AssertionError)):
        with pytest.raises(error, match="targets|positive"):
            mixer(images, bad)
        assert hooks_of(model) == before
    with pytest.raises(KeyError), mixer:
        raise KeyError
    assert hooks_of(model) == before
    assert mixer(images, targets).keys() == model(images, targets).keys()


@every_family
def test_in_evaluation_nothing_is_mixed(family):
    model, (images, targets) = make_model(family), make_batch((3, 2), weights=((0.5, 1.0, 0.2), (0.7, 0.4)))
    expected = losses_and_detections(model, images, targets)
    for layer in layers_of(family):
        mixer = ManifoldMixup(model.train(), [layer], alpha=HALF)
        with mixer:
            assert_same(losses_and_detections(model, images, targets), expected)
    assert_same(ManifoldMixup(model.eval(), [layer], alpha=HALF)(images, targets), expected[1])


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["input", "backbone.1", "backbone", "roi"])
def test_several_passes_in_one_entry_are_mixed_alike(layer):
    mixer, batches = ManifoldMixup(make_model(), [layer], pairing="shuffle"), [make_batch(COUNTS), make_batch((1, 2))]
    expected = []
    for batch in batches:
        mixer.step = 0
        expected.append(mixed_losses(mixer, batch)[0])
    mixer.step = 0
    with mixer:
        assert [losses_of(mixer.model, batch)[0] for batch in batches] == expected
        detections = mixer.model.eval()(batches[0][0])
    assert_same(mixer.model(batches[0][0]), detections)


@pytest.mark.parametrize("layer", ["input", "backbone.1", "backbone", "roi"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_features_keep_their_dtype_and_losses_are_finite(layer, dtype):
    mixer = ManifoldMixup(make_model(), [layer])
    watched = {"input": "transform", "roi": "roi_heads.box_head"}.get(layer, layer)
    with torch.autocast("cpu", dtype=dtype):
        before, after, losses = outputs_of(mixer, watched, make_batch(COUNTS))
    if layer.startswith("backbone"):
        assert before.dtype == after.dtype != torch.float64
    if layer == "backbone.1":
        assert after.dtype == dtype
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def compiled(model, how):
    torch._dynamo.reset()
    if how == "wrapped":
        model.backbone = torch.compile(model.backbone, backend="aot_eager")
    else:
        model.backbone.compile(backend="aot_eager")
    return model


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's, where a graph breaks
@pytest.mark.parametrize("how", ["wrapped", "in place"])
@pytest.mark.parametrize("first", ["mixed", "unmixed"])
def test_a_compiled_backbone_is_mixed_as_it_is_without(how, first):
    model = without_dropout(make_model())
    twin = compiled(copy.deepcopy(model), how)
    if first == "unmixed":
        losses_of(twin, make_batch(COUNTS))
    layers = ["input", "backbone", "roi"] + (["backbone.1"] if first == "mixed" else [])
    mixers = [ManifoldMixup(each, layers, alpha=1.0) for each in (model, twin)]
    for seed in range(6):
        (expected, expected_gradients), (losses, gradients) = (
            mixed_losses(m, make_batch(COUNTS), seed) for m in mixers
        )
        torch.testing.assert_close(losses, expected)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)
        losses, expected = (losses_of(each, make_batch(COUNTS))[0] for each in (twin, model))
        torch.testing.assert_close(losses, expected)  # and not mixed in between


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_layer_that_was_compiled_without_its_hook_is_an_error_that_tells_how_to_go_on():
    model = compiled(without_dropout(make_model()), "wrapped")
    losses_of(model, make_batch(COUNTS))
    with pytest.raises(RuntimeError, match=r"layer 'backbone\.1' was not mixed: .*skip_nnmodule_hook_guards = False"):
        ManifoldMixup(model, ["backbone.1"])(*make_batch(COUNTS))
    expected, _ = mixed_losses(ManifoldMixup(without_dropout(make_model()), ["backbone.1"]), make_batch(COUNTS))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        losses_of(model, make_batch(COUNTS))
        torch.testing.assert_close(mixed_losses(ManifoldMixup(model, ["backbone.1"]), make_batch(COUNTS))[0], expected)


class Checkpointed(nn.Module):
    out_channels = 32

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(TinyBackbone(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
        self.reentrant = reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant)


def make_checkpointed(reentrant):
    model = make_model()
    model.backbone = Checkpointed(reentrant)
    return without_dropout(model)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", ["input", "backbone.body.1", "backbone.body.2", "backbone", "roi"])
def test_what_checkpointing_runs_again_is_mixed_again(reentrant, layer):
    expected, expected_gradients = mixed_losses(ManifoldMixup(make_checkpointed(None), [layer]), make_batch(COUNTS))
    losses, gradients = mixed_losses(ManifoldMixup(make_checkpointed(reentrant), [layer]), make_batch(COUNTS))
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_a_backward_pass_that_would_run_a_layer_again_unmixed_is_an_error():
    with pytest.raises(RuntimeError, match=r"'backbone\.body\.1' runs again .* call backward inside the context"):
        ManifoldMixup(make_checkpointed(True), ["backbone.body.1"])(*make_batch(COUNTS))
    losses = ManifoldMixup(make_checkpointed(False), ["backbone.body.1"])(*make_batch(COUNTS))
    with pytest.raises(CheckpointError):
        sum(losses.values()).backward()


def test_what_is_no_adapted_detector_is_refused():
    for model in (make_assembled("FasterRCNN"), make_assembled("FCOS"), nn.Linear(1, 1), nn.Sequential(make_model())):
        with pytest.raises(ValueError, match=f"detmix.weight_losses has adapted.* got {type(model).__name__}"):
            ManifoldMixup(model)
    model = make_model()
    mixer = ManifoldMixup(model)
    unweight_losses(model)
    with pytest.raises(ValueError, match="detmix.weight_losses has adapted"):
        mixer(*make_batch((1, 1)))


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        ("backbone.00", "Did you mean 'backbone.0'"),
        ("imput", "Did you mean 'input'"),
        ("rio", r"Did you mean 'roi'\?"),
        ("backbone.1.", "Did you mean 'backbone.1'"),
        ("rpn.head", r"no layer 'rpn.head'\. Layers are 'input', 'roi', 'backbone'"),
        ("", r"no layer ''\. .*modules in it by their dotted names, such as 'backbone"),
        ("transform", "no layer 'transform'"),
        ("backbone_", "Did you mean 'backbone'"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_with_its_near_matches(layer, hint):
    for model in (make_model(), compiled(make_model(), "wrapped")):
        with pytest.raises(ValueError, match=hint):
            ManifoldMixup(model, ["input", layer])


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "SSD"])
def test_roi_is_refused_by_name_for_one_stage_detectors(family):
    with pytest.raises(ValueError, match=f"'roi' is for two-stage detectors: Weighted{family} has no box head"):
        ManifoldMixup(make_model(family), ["input", "roi"])


def test_roi_is_refused_where_weights_are_ignored():
    with pytest.raises(ValueError, match="'roi' needs the objective 'weighted' or 'pair', got 'unweighted'"):
        ManifoldMixup(make_model(objective="unweighted"), ["roi"])


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"layers": "input"}, TypeError, "layers must be a list of names, got 'input'"),
        ({"layers": None}, TypeError, "layers must be a list of names, got None"),
        ({"layers": ["input", 0]}, TypeError, r"layers must be a list of names, got \['input', 0\]"),
        ({"layers": []}, ValueError, r"one or more names, each once, got \[\]"),
        ({"layers": ["input", "input"]}, ValueError, "each once"),
        ({"alpha": -1}, ValueError, "alpha must be .* got -1"),
        ({"p": 1.5}, ValueError, r"p must lie in \[0, 1\], got 1.5"),
        ({"pairing": "random"}, ValueError, "pairing must be one of roll, shuffle, got 'random'"),
        ({"seed": 0.5}, TypeError, "integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, error, wanted):
    with pytest.raises(error, match=wanted):
        ManifoldMixup(make_model(), **options)


def test_a_model_is_mixed_by_one_mixer_at_a_time():
    model = make_model().eval()
    first, second = ManifoldMixup(model), ManifoldMixup(model)
    for other in (first, second):
        with first:
            with pytest.raises(RuntimeError, match="being mixed already"):
                other.__enter__()
            with ManifoldMixup(make_model().eval()):
                pass
    assert (first.step, second.step) == (2, 0)
    with second:
        pass


class Backbone(TinyBackbone):
    """Its ReLU runs twice, its windows are no images, and what is unused never runs."""

    def __init__(self):
        super().__init__()
        self.unused, self.windows, self.text = nn.Identity(), Windows(), Text()

    def forward(self, x):
        x = self[1](self[1](self[0](x)))
        self.windows(x)
        self.text(x)
        return x


class Windows(nn.Module):
    def forward(self, x):
        return torch.cat([x, x])


class Text(nn.Module):
    def forward(self, x):
        return "text"


@pytest.mark.parametrize(
    ("layer", "error", "wanted"),
    [
        ("backbone.1", RuntimeError, r"'backbone\.1' was mixed more than once: it runs 2 times in 1 passes"),
        ("backbone.unused", RuntimeError, r"'backbone\.unused' was not mixed: it did not run"),
        ("backbone.windows", RuntimeError, r"'backbone\.windows' cannot be mixed: it returns 4 rows for 2 images"),
        ("backbone.text", TypeError, r"must return tensors, .* got str"),
    ],
)
def test_layers_that_cannot_be_mixed_are_errors_that_name_them(layer, error, wanted):
    model = make_model()
    model.backbone = Backbone()
    before = hooks_of(model)
    with pytest.raises(error, match=wanted):
        ManifoldMixup(model, [layer])(*make_batch((1, 2)))
    assert hooks_of(model) == before


def test_a_training_step_that_ran_elsewhere_is_an_error():
    model = make_model()
    with pytest.raises(RuntimeError, match="'input' was not mixed: the model did not run inside the context"):
        with ManifoldMixup(model):
            make_model()(*make_batch((1, 2)))


@pytest.mark.parametrize(("images", "targets"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("layer", ["input", "roi"])
def test_as_many_images_as_targets_are_needed(layer, images, targets):
    given = make_batch((1, 2, 1))
    with pytest.raises(ValueError, match=f"as many images as targets, got {images} and {targets}"):
        ManifoldMixup(make_model(), [layer])(given[0][:images], given[1][:targets])


def test_keys_that_a_partner_lacks_are_an_error():
    images, targets = make_batch((1, 2))
    del targets[1]["masks"]
    with pytest.raises(ValueError, match="target of image 0 has the per-object key 'masks'"):
        ManifoldMixup(make_model())(images, targets)


def test_no_value_is_read_to_join_and_mix():
    images, targets = make_batch((3, 2, 1))
    images = [image.to("meta") for image in images]
    targets = [{k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
    model = make_model("MaskRCNN")
    with ManifoldMixup(model, ["input"]):
        batch, joined = model.transform(images, targets)  # meta tensors have no values: reading one raises
    assert batch.tensors.device.type == joined[0]["weights"].device.type == "meta"
    assert [len(target["boxes"]) for target in joined] == [4, 5, 3]


def test_copies_of_a_mixer_mix_their_own_model():
    twin = copy.deepcopy(ManifoldMixup(make_model(), ["backbone.1"]))
    expected, _ = mixed_losses(ManifoldMixup(make_model(), ["backbone.1"]), make_batch(COUNTS))
    assert mixed_losses(twin, make_batch(COUNTS))[0] == expected


@pytest.mark.parametrize("layer", ["input", "backbone.1", "backbone", "roi"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_that_is_being_mixed_is_not_mixed(layer, duplicate):
    model, batch = make_model(), make_batch(COUNTS)
    with ManifoldMixup(model, [layer], alpha=HALF):
        model(*batch)
        twin = duplicate(model)
    assert losses_of(twin, batch)[0] == losses_of(make_model(), batch)[0]


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["input", "backbone.1", "backbone", "roi"])
def test_on_a_gpu_mixing_waits_no_more_than_the_weighted_losses(gpu, layer):
    shares = ((0.5,) * 5, (0.5,) * 5)
    models = [weight_losses(make_assembled("FasterRCNN").to(gpu.device)) for _ in range(2)]
    plain = count_waits(gpu, models[0], gpu.move(make_batch((5, 5), weights=shares)))
    mixer = ManifoldMixup(models[1], [layer], pairing="shuffle")
    assert 0 < count_waits(gpu, mixer, gpu.move(make_batch((3, 2)))) <= plain
