import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from detmix import collate, mix_pair
from detmix.batch import MixupBatch
from detmix.cutmix import cutmix_pair, region_around
from detmix.draws import BATCHES, generator_at

from .factories import ListDataset, make_sample
from .test_stream import process_group

DTYPES = (torch.uint8, torch.float32, torch.float64)


def make_lists(count, *, dtype=torch.uint8, size=None, first=0):
    """Images of unequal size, or of one if given, and targets with 0, 1 or 2 boxes."""
    rows = range(first, first + count)
    return collate([make_sample(row % 3, seed=row, size=size or (16 + row, 40 - row), dtype=dtype) for row in rows])


def assert_same(targets, others):
    for target, other in zip(targets, others, strict=True):
        assert target.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(target[k]), torch.as_tensor(other[k])) for k in target)


def partner_rows(targets):
    """Row of each partner, read from boxes that hold their row; -1 where there is none."""
    return [int(target["boxes"][1, 0]) if len(target["boxes"]) == 2 else -1 for target in targets]


def numbered(count):
    """A batch whose boxes say which row they are from."""
    boxes = [torch.tensor([[row, 0.0, row + 1.0, 1.0]]) for row in range(count)]
    targets = [{"boxes": box, "labels": torch.tensor([1]), "image_id": row} for row, box in enumerate(boxes)]
    return torch.zeros(count, 1, 2, count + 1), targets


def test_collate_keeps_images_of_unequal_size_and_their_targets_in_order():
    samples = [make_sample(count, seed=count, size=(16 + count, 20)) for count in (2, 0, 1)]
    images, targets = collate(samples)
    assert [id(image) for image in images] == [id(image) for image, _ in samples]
    assert [id(target) for target in targets] == [id(target) for _, target in samples]
    assert collate([]) == ([], [])


@pytest.mark.parametrize("together", [collate, MixupBatch().collate])
@pytest.mark.parametrize(
    ("changed", "wanted"),
    [(lambda sample: (*sample, "cat.jpg"), "3 values"), (lambda sample: {"a": 0, "b": 1}, "dict")],
)
def test_what_is_no_pair_is_named_with_its_row(together, changed, wanted):
    samples = [make_sample(1, seed=row) for row in range(3)]
    with pytest.raises(TypeError, match=rf"must give \(image, target\), got {wanted} for row 2 of the batch"):
        together([*samples[:2], changed(samples[2])])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 6),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(["roll", "shuffle"]),
    st.sampled_from([0.0, 0.4]),
    st.integers(0, 99),
)
def test_each_row_is_mix_pair_of_the_row_and_its_partner(count, dtype, per_sample, pairing, min_weight, seed):
    images, targets = make_lists(count, dtype=dtype)
    for row, target in enumerate(targets):
        target["row"] = torch.full((len(target["boxes"]),), row)
    options = {"alpha": 1.0, "pairing": pairing, "per_sample": per_sample, "seed": seed}
    mixer = MixupBatch(min_weight=min_weight, **options)
    mixed, mixed_targets = mixer(images, targets)
    lams = [target["lam"] for target in mixed_targets]
    assert len(set(lams)) == (count if per_sample else 1)
    for row in range(count):
        found = [
            other
            for other in range(count)
            if other != row
            and torch.equal(
                mix_pair(images[row], targets[row], images[other], targets[other], lam=lams[row])[0], mixed[row]
            )
        ]
        assert len(found) == 1
        partner = found[0] if pairing == "shuffle" else (row - 1) % count
        assert found == [partner]
        image, target = mix_pair(
            images[row], targets[row], images[partner], targets[partner], lam=lams[row], min_weight=min_weight
        )
        assert (mixed[row].dtype, type(mixed[row])) == (dtype, torch.Tensor)
        assert torch.equal(mixed[row], image)
        assert_same([mixed_targets[row]], [target])


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("pairing", ["roll", "shuffle"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16])
def test_a_stack_is_mixed_as_its_list_is(dtype, pairing, per_sample):
    images, targets = make_lists(4, dtype=dtype, size=(20, 24))
    if dtype.is_floating_point:
        images = [image * 255 for image in images]
    options = {"pairing": pairing, "per_sample": per_sample, "p": 0.8, "seed": 2}
    expected, expected_targets = MixupBatch(**options)(images, targets)
    stack, stack_targets = MixupBatch(**options)(torch.stack(images), targets)
    assert (stack.dtype, stack.shape) == (dtype, (4, 3, 20, 24))
    assert torch.equal(stack, torch.stack(expected))
    assert_same(stack_targets, expected_targets)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_a_stack_keeps_its_memory_format(dtype, mix, memory_format):
    images, targets = make_lists(4, dtype=dtype, size=(20, 24))
    stack = torch.stack(images).to(memory_format=memory_format)
    mixed, _ = MixupBatch(mix=mix)(stack, targets)
    assert mixed.stride() == stack.stride()
    assert torch.equal(mixed, MixupBatch(mix=mix)(torch.stack(images), targets)[0])


def test_a_stack_of_tv_tensors_stays_one():
    images, targets = make_lists(3, size=(20, 24))
    for mix in ("mixup", "cutmix"):
        mixed, _ = MixupBatch(mix=mix)(tv_tensors.Image(torch.stack(images)), targets)
        assert type(mixed) is tv_tensors.Image


def test_an_object_as_faint_as_min_weight_stays():
    images, targets = numbered(2)
    faintest = MixupBatch()(images, targets)[1][0]["weights"].min().item()
    for min_weight, kept in ((faintest, 2), (faintest + 1e-6, 1)):
        assert len(MixupBatch(min_weight=min_weight)(images, targets)[1][0]["weights"]) == kept


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("dtype", "min_weight"), [(torch.uint8, 0.0), (torch.float32, 0.6)])
def test_cutmix_rows_are_cutmix_pair_of_the_row_and_its_partner(dtype, min_weight, per_sample, stacked):
    images, targets = make_lists(4, dtype=dtype, size=(30, 40) if stacked else None)
    batch = torch.stack(images) if stacked else images
    mixer = MixupBatch(mix="cutmix", per_sample=per_sample, min_weight=min_weight, seed=5)
    mixed, mixed_targets = mixer(batch, targets)
    assert isinstance(mixed, torch.Tensor) == stacked
    pairs = mixer._draw(4, generator_at(5, 0, 0, BATCHES))
    for row, pair in enumerate(pairs):
        partner = row - 1
        size = tuple(max(sides) for sides in zip(images[row].shape[1:], images[partner].shape[1:], strict=True))
        region = region_around(pair.centre, pair.lam, size)
        pair_of_samples = images[row], targets[row], images[partner], targets[partner]
        image, target = cutmix_pair(*pair_of_samples, region=region, min_weight=min_weight)
        assert torch.equal(mixed[row], image)
        assert_same([mixed_targets[row]], [target])


def test_cutmix_places_one_region_per_batch_or_one_per_sample():
    images, targets = make_lists(4, size=(30, 40), dtype=torch.float32)
    for per_sample, regions in ((False, 1), (True, 4)):
        mixed, _ = MixupBatch(mix="cutmix", per_sample=per_sample, seed=5)(torch.stack(images), targets)
        assert len(torch.unique((mixed != torch.stack(images)).any(1), dim=0)) == regions


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("stacked", [False, True])
def test_inputs_are_never_written_to(mix, stacked):
    images, targets = make_lists(4, dtype=torch.float32, size=(20, 24))
    batch = torch.stack(images) if stacked else images
    before = copy.deepcopy((batch, targets))
    mixed, mixed_targets = MixupBatch(mix=mix)(batch, targets)
    for image, target in zip(mixed, mixed_targets, strict=True):
        image.zero_()
        target["boxes"].zero_()
        target["image_id"] = None
    torch.testing.assert_close(batch, before[0], rtol=0, atol=0)
    assert_same(targets, before[1])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"p": 0.0}, {"p": 0.0, "per_sample": True}])
def test_switched_off_the_very_batch_is_returned(options, stacked):
    images, targets = make_lists(3, size=(20, 24))
    images = torch.stack(images) if stacked else images
    mixed, mixed_targets = MixupBatch(**options)(images, targets)
    assert mixed is images
    assert mixed_targets is targets


def test_enable_switches_off_and_on_and_leaves_the_draws_where_they_were():
    batch = make_lists(3)
    mixer, reference = MixupBatch(), MixupBatch()
    mixer.enable(False)
    assert mixer(*batch)[0] is batch[0]
    mixer.enable()
    reference(*batch)
    assert_same(mixer(*batch)[1], reference(*batch)[1])


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_without_partners_stays_as_it_is(count):
    images, targets = make_lists(count)
    assert MixupBatch()(images, targets) == (images, targets)
    mixed, mixed_targets = MixupBatch().collate(list(zip(images, targets, strict=True)))
    assert all(image is given for image, given in zip(mixed, images, strict=True))
    assert mixed_targets == targets


def test_unmixed_rows_are_the_given_ones():
    images, targets = make_lists(6)
    mixed, mixed_targets = MixupBatch(per_sample=True, p=0.5, seed=1)(images, targets)
    stays = [image is given for image, given in zip(mixed, images, strict=True)]
    assert stays == [target is given for target, given in zip(mixed_targets, targets, strict=True)]
    assert 0 < sum(stays) < 6


def test_roll_pairs_each_image_with_the_one_before_it():
    assert partner_rows(MixupBatch()(*numbered(5))[1]) == [4, 0, 1, 2, 3]


def test_shuffled_partners_are_all_others_equally_often_and_never_the_image_itself():
    mixer, batch, counts = MixupBatch(pairing="shuffle"), numbered(4), np.zeros((4, 4), int)
    for _ in range(600):
        partners = partner_rows(mixer(*batch)[1])
        assert sorted(partners) == [0, 1, 2, 3]
        counts[range(4), partners] += 1
    assert (counts.diagonal() == 0).all()
    others = counts[~np.eye(4, dtype=bool)].reshape(4, 3)
    assert (stats.chisquare(others, axis=1).pvalue > 1e-4).all()


@pytest.mark.parametrize("alpha", [0.04, 0.2, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_ratios_are_of_the_beta_distribution(alpha, per_sample):
    mixer, batch = MixupBatch(alpha=alpha, per_sample=per_sample), numbered(3)
    drawn = np.array([[target["lam"] for target in mixer(*batch)[1]] for _ in range(400)])
    assert (drawn == drawn[:, :1]).all() == (not per_sample)
    for column in drawn.T:
        inner = column[(column > 1e-12) & (column < 1 - 1e-12)]  # alpha 0.04 puts draws on the ends of float64
        bounds = stats.beta(alpha, alpha).cdf([1e-12, 1 - 1e-12])
        expected = len(column) * (bounds[1] - bounds[0])
        assert abs(len(inner) - expected) <= 5 * np.sqrt(expected * (1 - expected / len(column))) + 1e-6
        uniform = (stats.beta(alpha, alpha).cdf(inner) - bounds[0]) / (bounds[1] - bounds[0])
        assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    if per_sample:
        assert abs(np.corrcoef(drawn.T)[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(400)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_p_is_the_share_of_batches_or_samples_that_are_mixed(p, per_sample):
    mixer, batch = MixupBatch(p=p, per_sample=per_sample), numbered(3)
    mixed = np.array([["lam" in target for target in mixer(*batch)[1]] for _ in range(600)])
    assert (mixed == mixed[:, :1]).all() == (not per_sample or p == 1)
    assert (abs(mixed.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / 600)).all()


@pytest.mark.parametrize(("per_sample", "count"), [(False, 600), (True, 300)])
def test_cutmix_replaces_each_pixel_as_often_as_centres_anywhere_do(per_sample, count):
    size, mixer = (12, 20), MixupBatch(mix="cutmix", alpha=1.0, per_sample=per_sample)
    images = torch.arange(2.0)[:, None, None, None].expand(2, 1, *size)
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 2
    replaced = np.mean(
        [(mixer(images, targets)[0] != images).double().mean(0)[0].numpy() for _ in range(count)], axis=0
    )
    # by hand: a pixel is in a region of half a side `reach` where the centre is as near, in x and in y
    reach = np.sqrt((np.arange(500) + 0.5) / 500)[:, None] / 2  # of ratios spread evenly, as Beta(1, 1) is
    middles = [(np.arange(side) + 0.5) / side for side in size]
    down, across = (np.minimum(middle + reach, 1) - np.maximum(middle - reach, 0) for middle in middles)
    expected = (down[:, :, None] * across[:, None]).mean(0)
    assert abs(replaced - expected).max() < 5 * np.sqrt(0.25 / 600) + 0.01  # and what rounding to pixels moves


def steps(mixer, count=4):
    batch = make_lists(4)
    return [target for _ in range(count) for target in mixer(*batch)[1]]


def test_steps_and_seeds_draw_differently():
    lams = [target["lam"] for seed in (0, 1) for target in steps(MixupBatch(seed=seed))]
    assert len(set(lams)) == 2 * 4


def test_a_saved_state_goes_on_with_the_draws_that_would_have_come():
    reference = MixupBatch(pairing="shuffle", per_sample=True, p=0.5, seed=7)
    steps(reference)
    reference.set_epoch(3)
    state = pickle.loads(pickle.dumps(reference.state_dict()))
    resumed = MixupBatch(pairing="shuffle", per_sample=True, p=0.5, seed=7)
    resumed.load_state_dict(state)
    assert (resumed.step, resumed.epoch) == (4, 3)
    assert_same(steps(resumed), steps(reference))


def test_settings_may_be_tensors_without_dimensions():
    mixer = MixupBatch(alpha=torch.tensor(1.5), p=torch.tensor(0.5), min_weight=torch.tensor(0.25))
    assert (mixer.alpha, mixer.p, mixer.min_weight) == (1.5, 0.5, 0.25)
    assert_same(steps(mixer), steps(MixupBatch(alpha=1.5, p=0.5, min_weight=0.25)))


WRONG_STATES = [
    ({"epoch": 1}, KeyError),
    ({"step": 2}, KeyError),
    ({"step": 2.5, "epoch": 1}, TypeError),
    ({"step": 2, "epoch": "1"}, TypeError),
    ({"step": -1, "epoch": 1}, ValueError),
    ({"step": 2, "epoch": -1}, ValueError),
]


@pytest.mark.parametrize(("state", "error"), WRONG_STATES)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(state, error):
    mixer = MixupBatch()
    with pytest.raises(error, match="step|epoch"):
        mixer.load_state_dict(state)
    assert mixer.state_dict() == {"step": 0, "epoch": 0}


def test_draws_of_ranks_differ_and_repeat():
    def drawn(rank):
        with process_group(rank, 2):
            return [target["lam"] for target in steps(MixupBatch())]

    assert drawn(0) == drawn(0) == [target["lam"] for target in steps(MixupBatch())]
    assert not set(drawn(0)) & set(drawn(1))


def collated(workers, *, epochs=(0, 1), method=None):
    samples = [make_sample(row % 3, seed=row, size=(16 + row, 32)) for row in range(10)]
    mixer = MixupBatch(pairing="shuffle", per_sample=True, seed=3)
    loader = DataLoader(
        ListDataset(samples),
        batch_size=3,
        collate_fn=mixer.collate,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=workers > 0,
    )
    found = []
    for epoch in epochs:
        mixer.set_epoch(epoch)
        found.append(list(loader))
    mixer.enable(False)
    return found, list(loader)


@pytest.mark.parametrize(("workers", "method"), [(2, "fork"), (1, "spawn")])
def test_collate_mixes_the_same_with_any_number_of_persistent_workers(workers, method):
    reference, _ = collated(0)
    found, plain = collated(workers, method=method)
    assert reference[0][0][1][0]["lam"] != reference[1][0][1][0]["lam"]
    for batches, expected in zip(found, reference, strict=True):
        for (images, targets), (expected_images, expected_targets) in zip(batches, expected, strict=True):
            torch.testing.assert_close(images, expected_images, rtol=0, atol=0)
            assert_same(targets, expected_targets)
    assert not any("lam" in target for _, targets in plain for target in targets)


def test_a_step_in_a_worker_is_refused():
    mixer = MixupBatch()
    samples = ListDataset([make_sample(1, seed=row) for row in range(2)])
    loader = DataLoader(samples, batch_size=2, collate_fn=lambda batch: mixer(*collate(batch)), num_workers=1)
    with pytest.raises(RuntimeError, match="pass the method collate of a MixupBatch as collate_fn"):
        next(iter(loader))


def test_collate_draws_from_the_image_ids_and_their_order():
    def lams(order):
        samples = [make_sample(1, seed=row) for row in order]
        return [target["lam"] for target in mixer.collate(samples)[1]]

    mixer = MixupBatch()
    assert lams([0, 1, 2]) == lams([0, 1, 2])
    assert len({lams(order)[0] for order in ([0, 1, 2], [1, 0, 2], [0, 1, 12], [0, 11, 2])}) == 4
    samples = [make_sample(1, seed=row) for row in range(3)]
    for _, target in samples:
        target["image_id"] = torch.tensor([target["image_id"]])
    assert mixer.collate(samples)[1][0]["lam"] == lams([0, 1, 2])[0]


@pytest.mark.parametrize("image_id", [None, "cat.jpg", 1.5])
def test_collate_refuses_targets_without_integer_image_ids(image_id):
    samples = [make_sample(1, seed=row) for row in range(2)]
    samples[1][1]["image_id"] = image_id
    with pytest.raises(
        TypeError, match="integer image ids: row 1 of the batch has .* its index as image_id, or mix in"
    ):
        MixupBatch().collate(samples)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_have_switches_of_their_own(duplicate):
    mixer = MixupBatch()
    other = duplicate(mixer)
    other.enable(False)
    other.set_epoch(5)
    assert (mixer.enabled, mixer.epoch) == (True, 0)
    assert other._shared.values.is_shared()


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"alpha": -1}, ValueError, "alpha must be"),
        ({"p": 1.5}, ValueError, r"p must lie in \[0, 1\]"),
        ({"min_weight": -0.5}, ValueError, "min_weight must lie"),
        ({"mix": "mosaic"}, ValueError, "mix must be one of mixup, cutmix, got 'mosaic'"),
        ({"pairing": "random"}, ValueError, "pairing must be one of roll, shuffle, got 'random'"),
        ({"seed": None}, TypeError, "integer"),
    ],
)
def test_bad_settings_are_refused(options, error, wanted):
    with pytest.raises(error, match=wanted):
        MixupBatch(**options)
