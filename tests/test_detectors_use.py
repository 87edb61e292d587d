"""The adapted losses in the ways people train: autocast, compile, accumulation, checkpointing, export."""

import copy
import io
import warnings

import onnx
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from detmix import unweight_losses, weight_losses
from detmix.benchmark.step import Operations
from detmix.detectors.dense import Matches

from .factories import FAMILIES, make_assembled, make_batch
from .test_detectors import losses_of, relative
from .test_detectors_adapter import WEIGHTED_BATCH

COUNTS = (3, 2, 0)

every_family = pytest.mark.parametrize("family", FAMILIES)
every_objective = pytest.mark.parametrize("objective", ["weighted", "pair"])


@every_family
@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_losses_and_gradients_near_those_of_full_precision(family, objective, dtype):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    model = weight_losses(make_assembled(family), objective)
    full, _ = losses_of(model, batch)
    with torch.autocast("cpu", dtype=dtype):
        losses, gradients = losses_of(model, batch)
    assert gradients.isfinite().all()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(full[name]), rel=0.1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["giou", "smooth_l1"])
def test_boxes_that_are_right_cost_nothing_in_half_precision(kind, dtype):
    """Anchors that are rounded with what is predicted would move."""
    anchors = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * 1000
    anchors[:, 2:] = anchors[:, :2] + 32
    head = weight_losses(make_assembled("RetinaNet")).head
    head.regression_head._loss_type = kind
    matches = Matches(torch.zeros(200, dtype=torch.int64), torch.arange(200), anchors, torch.full((200,), 0.5))
    assert float(head._box_rows(torch.zeros(200, 4, dtype=dtype), anchors, matches).abs().max()) < 1e-5


@every_family
@every_objective
def test_a_compiled_backbone_gives_the_losses_of_the_plain_one(family, objective):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    model = weight_losses(make_assembled(family).eval().train(), objective)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a compiled graph draws other numbers
    plain, gradients = losses_of(model, batch)
    model.backbone = torch.compile(model.backbone, backend="aot_eager")
    compiled, compiled_gradients = losses_of(model, batch)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert relative(compiled_gradients - gradients, of=gradients) <= 1e-3


class Checkpointed(nn.Module):
    """A backbone that computes its activations a second time in the backward pass instead of keeping them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.out_channels = backbone, backbone.out_channels

    def forward(self, images):
        return checkpoint(self.backbone, images, use_reentrant=False)


@every_family
@every_objective
def test_activation_checkpointing_changes_nothing(family, objective):
    batch = make_batch(COUNTS, **WEIGHTED_BATCH)
    model = weight_losses(make_assembled(family), objective)
    plain, gradients = losses_of(copy.deepcopy(model), batch)
    model.backbone = Checkpointed(model.backbone)
    again, again_gradients = losses_of(model, batch)
    torch.testing.assert_close(again, plain)
    assert relative(again_gradients - gradients, of=gradients) <= 1e-5


@every_family
@every_objective
def test_accumulated_gradients_are_the_sum_over_the_steps(family, objective):
    model = weight_losses(make_assembled(family).requires_grad_(True), objective)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    batches = [make_batch(counts, weights=tuple((0.4,) * n for n in counts)) for counts in ((2, 1), (3, 0))]
    alone = [losses_of(model, batch)[1] for batch in batches]
    model.zero_grad()
    for batch in batches:
        torch.manual_seed(7)
        sum(model(*batch).values()).backward()
    accumulated = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(accumulated, sum(alone), rtol=1e-4, atol=1e-6)


@every_family
def test_models_can_be_scripted_once_unweighted(family):
    model = unweight_losses(weight_losses(make_assembled(family))).eval()
    images, _ = make_batch((1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about scripting at large
        _, found = torch.jit.script(model)(images)
    torch.testing.assert_close(found, model(images))


@every_family
def test_models_can_be_exported_to_onnx_once_unweighted(family):
    model = unweight_losses(weight_losses(make_assembled(family))).eval()
    images, _ = make_batch((1,))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about tracing at large
        torch.onnx.export(model, (images,), file, dynamo=False)
    names = {output.name for output in onnx.load_from_string(file.getvalue()).graph.output}
    assert len(names) >= 3


def operations_of(model, batch):
    with Operations() as operations:
        losses_of(model, batch)
    return operations.count


@every_family
@pytest.mark.parametrize(("objective", "most"), [("weighted", 10), ("pair", 180)])  # an image, beyond torchvision's
def test_what_weighting_adds_to_the_work_of_the_host_grows_little_with_the_batch(family, objective, most):
    more = {}
    for images in (2, 8):
        shares, sources = ((values,) * images for values in ((0.3, 0.7, 0.7), (0, 1, 1)))
        batch = make_batch((3,) * images, weights=shares, sources=sources)
        weighted = operations_of(weight_losses(make_assembled(family), objective), batch)
        more[images] = weighted - operations_of(make_assembled(family), batch)
    assert more[8] - more[2] <= 6 * most  # "pair" asks torchvision's matcher twice for each
