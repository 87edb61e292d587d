"""What ``weight_losses`` changes in a model, what it leaves alone, and what it refuses."""

import copy
import inspect
import io
import pickle
from functools import partial, wraps

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import detection
from torchvision.models.detection import fcos, retinanet, roi_heads
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import complete_box_iou_loss

from detmix import ManifoldMixup, unweight_losses, weight_losses
from detmix.detectors.checks import are_weighted
from detmix.detectors.fcos import WeightedFCOS, WeightedFCOSHead
from detmix.detectors.rcnn import WeightedRegionProposalNetwork, WeightedRoIHeads
from detmix.detectors.retinanet import WeightedRetinaNet, WeightedRetinaNetHead
from detmix.detectors.ssd import WeightedSSD

from .factories import FAMILIES, make_assembled, make_batch
from .test_detectors import COUNTS, losses_of, same_weights

every_family = pytest.mark.parametrize("family", FAMILIES)
WEIGHTED_BATCH = {"weights": ((0.9, 0.25, 0.0), (0.6, 0.1), ()), "sources": ((0, 0, 1), (1, 0), ())}


def classes_of(model):
    return [type(module) for module in model.modules()]


@every_family
def test_parameters_state_dict_and_inference_are_untouched(family):
    model = make_assembled(family)
    images, _ = make_batch(COUNTS)
    before = copy.deepcopy(model.state_dict())
    detections = model.eval()(images)
    weight_losses(model, "pair")
    assert list(model.state_dict()) == list(before)
    torch.testing.assert_close(model(images), detections, rtol=0, atol=0)
    make_assembled(family, seed=1).load_state_dict(model.state_dict())
    model.load_state_dict(make_assembled(family, seed=1).state_dict())


@every_family
def test_unweight_losses_gives_plain_torchvision_back(family):
    plain = make_assembled(family)
    model = unweight_losses(weight_losses(make_assembled(family), "pair"))
    assert classes_of(model) == classes_of(plain)
    assert [vars(module).keys() for module in model.modules()] == [vars(module).keys() for module in plain.modules()]
    losses, _ = losses_of(model, make_batch(COUNTS, **WEIGHTED_BATCH))
    assert losses == losses_of(plain, make_batch(COUNTS))[0]


@every_family
@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_more_targets_than_images_are_named(family, objective):
    images, targets = make_batch(COUNTS, **WEIGHTED_BATCH)
    with pytest.raises(ValueError, match="a batch must have as many images as targets, got 2 and 3"):
        weight_losses(make_assembled(family), objective)(images[:2], targets)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_other_targets_than_there_are_anchors_for_are_named(count):
    _, targets = make_batch(COUNTS, **WEIGHTED_BATCH)
    with pytest.raises(ValueError, match=f"as many images as targets, got {count} and 3"):
        are_weighted([torch.zeros(5, 4)] * count, targets, "weighted")


@every_family
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_stay_adapted(family, copied):
    model = weight_losses(make_assembled(family), "pair", "weight")
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    twin = copied(model)
    assert losses_of(twin, batch)[0] == losses_of(model, batch)[0]
    unweight_losses(twin)
    assert classes_of(model) != classes_of(twin)


@every_family
def test_a_whole_model_can_be_saved_and_loaded(family):
    model = weight_losses(make_assembled(family))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    assert losses_of(loaded, batch)[0] == losses_of(model, batch)[0]


@every_family
def test_weight_losses_again_changes_the_settings(family):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    once = weight_losses(make_assembled(family), "pair", "weight")
    twice = weight_losses(weight_losses(weight_losses(make_assembled(family)), "unweighted"), "pair", "weight")
    assert classes_of(once) == classes_of(twice)
    assert losses_of(once, batch)[0] == losses_of(twice, batch)[0]


def test_one_model_is_adapted_and_no_other():
    weight_losses(make_assembled("FasterRCNN"))
    assert type(make_assembled("FasterRCNN").roi_heads) is RoIHeads


@every_family
def test_the_objectives_and_normalizers_differ_where_they_should(family):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    settings = [(o, n) for o in ("weighted", "pair") for n in ("count", "weight")] + [("unweighted", "count")]
    totals = [float(sum(losses_of(weight_losses(make_assembled(family), *s), batch)[0].values())) for s in settings]
    assert len(set(totals)) == len(totals)


class OwnRoIHeads(RoIHeads):
    pass


class OwnFCOSHead(FCOSHead):
    pass


class OwnRetinaNet(detection.RetinaNet):
    pass


class OwnLoss(RetinaNetClassificationHead):
    def compute_loss(self, targets, head_outputs, matched_idxs):
        return head_outputs["cls_logits"].sum()


class OwnLayers(RetinaNetClassificationHead):
    def forward(self, x):
        return super().forward(x) * 2


class OwnFasterRCNN(detection.FasterRCNN):
    def forward(self, images, targets=None):
        return {"loss": sum(super().forward(images, targets).values())}


@pytest.mark.parametrize(
    ("family", "part", "kind", "wanted"),
    [
        ("FasterRCNN", "roi_heads", OwnRoIHeads, r"model\.roi_heads must be torchvision's own RoIHeads, .*OwnRoIHeads"),
        ("FCOS", "head", OwnFCOSHead, r"model\.head must be torchvision's own FCOSHead, .*OwnFCOSHead"),
        ("RetinaNet", "", OwnRetinaNet, r"model must be torchvision's own RetinaNet, .*OwnRetinaNet"),
        (
            "RetinaNet",
            "head.classification_head",
            OwnLoss,
            r"classification_head has a compute_loss of its own.*OwnLoss",
        ),
    ],
)
def test_parts_whose_overrides_would_be_lost_are_refused_by_name(family, part, kind, wanted):
    model = make_assembled(family)
    model.get_submodule(part).__class__ = kind
    before = classes_of(model)
    with pytest.raises(TypeError, match=wanted):
        weight_losses(model)
    assert classes_of(model) == before


def test_a_method_that_was_replaced_on_the_object_is_refused():
    model = make_assembled("RetinaNet")
    model.head.compute_loss = lambda *_: {}
    with pytest.raises(TypeError, match=r"model\.head has a compute_loss of its own, .* in place of the weighted one"):
        weight_losses(model)


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS"])
@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_a_head_that_was_put_in_later_is_refused_until_it_is_weighed(family, objective):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    model, other = (weight_losses(make_assembled(family), objective) for _ in range(2))
    model.head = make_assembled(family).head
    with pytest.raises(TypeError, match=r"model\.head is a .*Head, which ignores weights: .* Call weight_losses again"):
        model(*batch)
    losses_of(model, make_batch(COUNTS))
    assert losses_of(weight_losses(model, objective), batch)[0] == losses_of(other, batch)[0]


def test_a_method_that_ours_leaves_alone_may_be_replaced_on_the_object():
    model = make_assembled("FasterRCNN")
    model.roi_heads.postprocess_detections = lambda *_: ([], [], [])
    model.forward = model.forward
    weight_losses(model)


@pytest.mark.parametrize("part", ["rpn", "roi_heads"])
def test_a_box_coder_of_another_encoding_is_refused(part):
    class OwnCoder(BoxCoder):
        def encode(self, reference_boxes, proposals):
            return super().encode(proposals, reference_boxes)

    model = make_assembled("FasterRCNN")
    getattr(model, part).box_coder.__class__ = OwnCoder
    with pytest.raises(TypeError, match=rf"model\.{part}\.box_coder has a encode of its own.*OwnCoder"):
        weight_losses(model)


FUNCTIONS = {
    "FasterRCNN": (roi_heads, ["fastrcnn_loss", "maskrcnn_loss", "keypointrcnn_loss"]),
    "MaskRCNN": (roi_heads, ["project_masks_on_boxes", "keypoints_to_heatmap"]),
    "RetinaNet": (retinanet, ["sigmoid_focal_loss", "_box_loss"]),
    "FCOS": (fcos, ["sigmoid_focal_loss", "generalized_box_iou_loss"]),
}


@pytest.mark.parametrize(
    ("family", "module", "name"), [(family, module, n) for family, (module, names) in FUNCTIONS.items() for n in names]
)
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda *_: None, "tests.*lambda"),
        (wraps(complete_box_iou_loss)(lambda *_: None), r"torchvision.*complete_box_iou_loss"),
        (partial(complete_box_iou_loss, eps=1.0), r"functools\.partial"),
        (complete_box_iou_loss, r"torchvision\.ops.*complete_box_iou_loss"),
    ],
)
def test_a_function_that_was_replaced_in_torchvision_is_refused(family, module, name, other, told, monkeypatch):
    model = make_assembled(family)
    monkeypatch.setattr(module, name, other)
    with pytest.raises(TypeError, match=rf"{module.__name__}\.{name} has been replaced by {told}.* not be used"):
        weight_losses(model)


METHODS = {
    "FasterRCNN": [
        (RegionProposalNetwork, "compute_loss"),
        (RoIHeads, "select_training_samples"),
        (BoxCoder, "encode"),
    ],
    "RetinaNet": [(RetinaNetClassificationHead, "compute_loss"), (RetinaNetRegressionHead, "compute_loss")],
    "FCOS": [(FCOSHead, "compute_loss")],
    "SSD": [(SSD, "compute_loss")],
}


@pytest.mark.parametrize(
    ("family", "kind", "name"), [(family, *replaced) for family, found in METHODS.items() for replaced in found]
)
def test_a_method_that_was_replaced_in_torchvision_is_refused(family, kind, name, monkeypatch):
    model = make_assembled(family)
    monkeypatch.setattr(kind, name, lambda *_: None)
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.{name} has been replaced by tests.*lambda"):
        weight_losses(model)


def test_a_method_that_ours_does_without_is_refused_on_the_object():
    model = make_assembled("FasterRCNN")
    model.roi_heads.select_training_samples = lambda *_: None
    with pytest.raises(TypeError, match=r"model\.roi_heads has a select_training_samples of its own, .* not be used"):
        weight_losses(model)


class OwnPart(nn.Module):
    """A part of a detector that has nothing in common with torchvision's."""


@pytest.mark.parametrize(
    ("family", "part"), [("FasterRCNN", "rpn"), ("FasterRCNN", "roi_heads"), ("RetinaNet", "head"), ("FCOS", "head")]
)
def test_a_part_of_ones_own_is_refused_by_name(family, part):
    model = make_assembled(family)
    setattr(model, part, OwnPart())
    with pytest.raises(TypeError, match=rf"model\.{part} must be torchvision's own .*, got tests.*OwnPart"):
        weight_losses(model)


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS"])
def test_a_batch_without_weights_may_have_what_torchvision_takes(family):
    images, targets = make_batch(COUNTS)
    narrow = [target | {"labels": target["labels"].int()} for target in targets]
    expected = losses_of(make_assembled(family), (images, narrow))[0]
    assert losses_of(weight_losses(make_assembled(family)), (images, narrow))[0] == expected


@every_family
def test_targets_without_labels_are_named_without_weights_too(family):
    images, targets = make_batch(COUNTS)
    del targets[1]["labels"]
    with pytest.raises(ValueError, match="target 1 has no labels"):
        weight_losses(make_assembled(family))(images, targets)


@pytest.mark.parametrize("batch", [{}, WEIGHTED_BATCH], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: None, "target 1 has no keypoints"),
        (lambda points: points[:, 1:], r"keypoints of target 1 must have shape \(2, 17, 3\), .* got \(2, 16, 3\)"),
        (lambda points: points[..., :2], r"keypoints of target 1 must have shape \(2, 17, 3\), .* got \(2, 17, 2\)"),
        (lambda points: points[1:], r"keypoints of target 1 must have shape \(2, 17, 3\), .* got \(1, 17, 3\)"),
        (lambda points: points[0], r"keypoints of target 1 must have shape \(2, 17, 3\), .* got \(17, 3\)"),
    ],
    ids=["none", "too few", "no visibility", "a row too few", "flat"],
)
def test_keypoints_that_do_not_fit_the_detector_are_named(batch, change, message):
    images, targets = make_batch(COUNTS, **batch)
    targets[1]["keypoints"] = change(targets[1]["keypoints"])
    if targets[1]["keypoints"] is None:
        del targets[1]["keypoints"]
    with pytest.raises(ValueError, match=message):
        weight_losses(make_assembled("KeypointRCNN"))(images, targets)


@pytest.mark.parametrize("objective", ["weighted", "pair"])
def test_boxes_without_width_that_match_nothing_cost_nothing_as_in_torchvision(objective):
    def make():
        model = make_assembled("FasterRCNN")
        model.rpn.anchor_generator = AnchorGenerator(((1, 16),), ((0.5, 1.0, 2.0),))
        return model

    [cells] = make().rpn.anchor_generator.cell_anchors
    assert (cells[:, 2:] == cells[:, :2]).any()
    batch = make_batch(COUNTS, weights=same_weights(1.0))
    losses, gradients = losses_of(weight_losses(make(), objective), batch)
    expected, expected_gradients = losses_of(make(), make_batch(COUNTS))
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_a_copy_that_was_made_while_features_are_mixed_becomes_plain_again():
    model = weight_losses(make_assembled("FasterRCNN"))
    with ManifoldMixup(model, ["roi"], alpha=1.0):
        twin = copy.deepcopy(model)
        model(*make_batch(COUNTS))
    assert "row_mixer" in vars(twin.roi_heads)
    assert vars(unweight_losses(twin).roi_heads).keys() == vars(make_assembled("FasterRCNN").roi_heads).keys()


def test_a_sampler_of_ones_own_gets_the_classes_that_torchvision_gives_it():
    seen = []

    class OwnSampler(BalancedPositiveNegativeSampler):
        def __call__(self, matched_idxs):
            seen.append([labels.unique().tolist() for labels in matched_idxs])
            return super().__call__(matched_idxs)

    for model in (make_assembled("FasterRCNN"), weight_losses(make_assembled("FasterRCNN"))):
        model.rpn.fg_bg_sampler = model.roi_heads.fg_bg_sampler = OwnSampler(32, 0.5)
        losses_of(model, make_batch(COUNTS, weights=same_weights(0.5)))
    assert seen[:2] == seen[2:]
    assert max(max(labels) for labels in seen[1]) > 1


def test_infinite_predictions_on_background_cost_nothing_as_in_torchvision():
    class Overflowing(nn.Module):
        def __init__(self, predictor):
            super().__init__()
            self.predictor = predictor

        def forward(self, x):
            logits, deltas = self.predictor(x)
            return logits, torch.cat([torch.full_like(deltas[:, :4], torch.inf), deltas[:, 4:]], dim=1)

    model = make_assembled("FasterRCNN")
    model.roi_heads.box_predictor = Overflowing(model.roi_heads.box_predictor)
    plain, _ = losses_of(model, make_batch(COUNTS))
    weighted, _ = losses_of(weight_losses(model), make_batch(COUNTS, weights=same_weights(1.0)))
    torch.testing.assert_close(weighted, plain)


def test_an_unknown_box_loss_is_named():
    model = weight_losses(make_assembled("RetinaNet"))
    model.head.regression_head._loss_type = "l3"
    with pytest.raises(ValueError, match="_loss_type must be one of l1, smooth_l1, giou, diou, ciou, got 'l3'"):
        model(*make_batch((1,), weights=((0.5,),)))


@every_family
def test_targets_without_labels_are_named(family):
    images, targets = make_batch((1, 2), weights=((0.5,), (0.5, 0.5)))
    del targets[1]["labels"]
    with pytest.raises(ValueError, match="target 1 has no labels"):
        weight_losses(make_assembled(family))(images, targets)


@every_family
@pytest.mark.parametrize("label", [90, -1])
def test_a_label_that_the_detector_does_not_have_is_named(family, label):
    images, targets = make_batch((1, 2), weights=((0.5,), (0.5, 0.5)))
    targets[1]["labels"][1] = label
    with pytest.raises(ValueError, match=rf"target 1 must be 0 or more and below \d+, .* got {label} for object 1"):
        weight_losses(make_assembled(family))(images, targets)


def test_without_any_row_to_learn_from_nothing_is_lost():
    model = weight_losses(make_assembled("FasterRCNN"))
    images, targets = make_batch((1,), weights=((0.5,),))
    targets = [{key: targets[0][key][:0] for key in ("boxes", "labels", "weights")}]
    model.rpn._post_nms_top_n = {"training": 0, "testing": 0}
    losses = model(images, targets)
    assert [losses[name].item() for name in ("loss_classifier", "loss_box_reg")] == [0, 0]


def test_overrides_that_have_nothing_to_do_with_losses_are_kept():
    model = make_assembled("RetinaNet")
    plain, _ = losses_of(model, make_batch(COUNTS))
    model.head.classification_head.__class__ = OwnLayers
    own, _ = losses_of(model, make_batch(COUNTS))
    weighted, _ = losses_of(weight_losses(model), make_batch(COUNTS, weights=same_weights(1.0)))
    torch.testing.assert_close(weighted, own)
    assert weighted["classification"] != plain["classification"]
    rcnn = make_assembled("FasterRCNN")
    rcnn.__class__ = OwnFasterRCNN
    losses, _ = losses_of(weight_losses(rcnn), make_batch(COUNTS, **WEIGHTED_BATCH))
    assert losses.keys() == {"loss"}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (nn.Linear(1, 1), r"supports the detectors of torchvision, got torch\.nn\.modules\.linear\.Linear$"),
        (nn.Sequential(make_assembled("FCOS")), r"got torch.*Sequential, which wraps one: .* itself, model\[0\]$"),
        (
            AveragedModel(nn.DataParallel(make_assembled("FCOS"))),
            r"AveragedModel, which .* itself, model.module.module$",
        ),
        (torch.compile(make_assembled("SSD")), r"OptimizedModule, which wraps one: .* itself, model._orig_mod$"),
        (RetinaNetHead(8, 1, 2), r"got torchvision.*RetinaNetHead"),
        ("fasterrcnn_resnet50_fpn", "got builtins.str"),
    ],
)
def test_what_is_no_detector_is_refused_by_name(model, wanted):
    with pytest.raises(TypeError, match=wanted):
        weight_losses(model)


@pytest.mark.parametrize(
    ("options", "wanted"), [({"objective": "heavy"}, "objective"), ({"normalizer": "mean"}, "normalizer")]
)
def test_unknown_settings_are_refused(options, wanted):
    with pytest.raises(ValueError, match=f"{wanted} must be"):
        weight_losses(make_assembled("FCOS"), **options)


@every_family
@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"weights": torch.tensor([0.5])}, ValueError, r"weights of target 1 must have shape \(2,\).* got \(1,\)"),
        ({"weights": torch.tensor([1, 1])}, TypeError, "weights of target 1 .* floating dtype, got torch.int64"),
        ({"weights": [0.5, 0.5]}, TypeError, "weights of target 1 must be a tensor of a floating dtype, got list"),
        ({"weights": torch.tensor([0.5, torch.nan])}, ValueError, r"must lie in \[0, 1\], got nan for object 1"),
        ({"weights": torch.tensor([-0.1, 0.5])}, ValueError, r"must lie in \[0, 1\], got -0.1.* for object 0"),
        ({"weights": torch.tensor([0.5, 1.5])}, ValueError, r"must lie in \[0, 1\], got 1.5 for object 1"),
        ({"weights": torch.ones(2, device="meta")}, ValueError, "weights of target 1 must be on cpu.* got meta"),
        ({"sources": torch.tensor([0.0, 1.0])}, TypeError, "sources of target 1 must be .* int64, got torch.float32"),
        ({"sources": torch.tensor([0])}, ValueError, r"sources of target 1 must have shape \(2,\)"),
        ({"labels": torch.tensor([1, 2], dtype=torch.int32)}, TypeError, "labels of target 1 .* got torch.int32"),
    ],
)
def test_targets_that_make_no_sense_are_refused(family, change, error, wanted):
    images, targets = make_batch((1, 2), weights=((0.5,), (0.5, 0.5)))
    targets[1].update(change)
    with pytest.raises(error, match=wanted):
        weight_losses(make_assembled(family), "pair")(images, targets)


@every_family
def test_sources_without_weights_are_plain_torchvision(family):
    plain, _ = losses_of(make_assembled(family), make_batch(COUNTS))
    batch = make_batch(COUNTS, sources=WEIGHTED_BATCH["sources"])
    assert losses_of(weight_losses(make_assembled(family), "pair"), batch)[0] == plain


@every_family
def test_targets_without_weights_among_weighted_ones_count_as_one(family):
    model = weight_losses(make_assembled(family))
    images, targets = make_batch(COUNTS, weights=((0.5,) * 3, (1.0, 1.0), ()))
    full, _ = losses_of(model, (images, targets))
    del targets[1]["weights"]
    torch.testing.assert_close(losses_of(model, (images, targets))[0], full, rtol=0, atol=0)


@pytest.mark.parametrize(
    "kind",
    [
        WeightedRegionProposalNetwork,
        WeightedRoIHeads,
        WeightedRetinaNet,
        WeightedRetinaNetHead,
        WeightedFCOS,
        WeightedFCOSHead,
        WeightedSSD,
    ],
)
def test_overridden_methods_take_what_torchvisions_take(kind):
    """A release of torchvision that passes something else is noticed here, and by the law of unit weights."""
    plain = kind.__mro__[1]
    overridden = [name for name in vars(kind) if name in vars(plain) and callable(getattr(plain, name))]
    assert "compute_loss" in overridden or "forward" in overridden
    for name in set(overridden) - {"__module__", "__doc__"}:
        ours, theirs = (list(inspect.signature(getattr(owner, name)).parameters) for owner in (kind, plain))
        assert ours == theirs


def test_the_box_heads_rows_are_those_that_torchvision_samples():
    model = weight_losses(make_assembled("FasterRCNN"))
    _, targets = make_batch(COUNTS, **WEIGHTED_BATCH)
    proposals = [make_batch((40,))[1][0]["boxes"] for _ in targets]
    torch.manual_seed(3)
    expected, matched, labels, _ = model.roi_heads.select_training_samples(list(proposals), targets)
    torch.manual_seed(3)
    found, rows = model.roi_heads._sample(list(proposals), targets)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(rows.labels[0], torch.cat(labels))
    first = [sum(COUNTS[:number]) for number in range(len(COUNTS))]
    numbers = torch.cat([match + before for match, before in zip(matched, first, strict=True)])
    assert torch.equal(rows.objects[0], numbers.where(torch.cat(labels) > 0, -1))


class CountedMatcher:
    """Stands in for a matcher of torchvision's and counts its calls."""

    def __init__(self, matcher):
        self.matcher, self.calls = matcher, 0

    def __getattr__(self, name):
        return getattr(self.matcher, name)

    def __call__(self, quality):
        self.calls += 1
        return self.matcher(quality)


@pytest.mark.parametrize("family", ["FasterRCNN", "RetinaNet", "SSD"])
def test_weighted_matches_no_more_often_than_torchvision_and_pair_once_for_each_source(family):
    calls = {}
    for objective in (None, "weighted", "pair"):
        model = make_assembled(family)
        owners = [model.rpn, model.roi_heads] if family == "FasterRCNN" else [model]
        for owner in owners:
            owner.proposal_matcher = CountedMatcher(owner.proposal_matcher)
        if objective is not None:
            weight_losses(model, objective)
        losses_of(model, make_batch(COUNTS, **(WEIGHTED_BATCH if objective else {})))
        calls[objective] = sum(owner.proposal_matcher.calls for owner in owners) // len(owners)
    assert calls[None] == calls["weighted"] == 2  # one image has no objects
    assert calls["pair"] == (6 if family == "SSD" else 4)  # SSD's forward has matched already
