import json
import pickle

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import detmix
from detmix.data.transforms import Mixup

from .factories import make_target

FIELDS = ("labels", "weights", "sources", "rows")
# how each format writes a box (x1, y1, x2, y2) of an image of (H, W)
FORMATS = {
    "pascal_voc": lambda x1, y1, x2, y2, h, w: [x1, y1, x2, y2],
    "coco": lambda x1, y1, x2, y2, h, w: [x1, y1, x2 - x1, y2 - y1],
    "albumentations": lambda x1, y1, x2, y2, h, w: [x1 / w, y1 / h, x2 / w, y2 / h],
    "yolo": lambda x1, y1, x2, y2, h, w: [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h],
}


def make_item(count, *, size=(48, 64), seed=0, form="pascal_voc", dtype=np.uint8, masks=False):
    """What a call of Compose takes for one image; ``rows`` is a label field of the user's own."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    target = make_target(count, seed=seed, size=size)
    boxes = [FORMATS[form](*box, *size) for box in target["boxes"].double().tolist()]
    item = {
        "image": pixels if dtype == np.uint8 else (pixels / 255).astype(dtype),
        "bboxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": target["labels"].numpy(),
        "weights": rng.uniform(0.2, 1, count).astype(np.float32),
        "sources": rng.integers(0, 2, count),
        "rows": np.arange(count) + 100 * seed,
    }
    return {**item, "masks": rng.integers(0, 2, (count, *size), dtype=np.uint8)} if masks else item


def make_compose(*transforms, form="pascal_voc", fields=FIELDS, seed=0, **options):
    params = A.BboxParams(format=form, label_fields=list(fields))
    return A.Compose(list(transforms), bbox_params=params, seed=seed, save_applied_params=True, **options)


def applied(result):
    """Ratio and number of the partner of the last Mixup that was applied."""
    (params,) = [params for name, params in result["applied_transforms"] if name == "Mixup"]
    return params["lam"], params["partner"]


def to_target(item, boxes):
    target = {"boxes": boxes, **{field: torch.from_numpy(item[field]) for field in FIELDS if field in item}}
    return target | ({"masks": torch.from_numpy(item["masks"])} if "masks" in item else {})


def assert_same(result, image, target, corners):
    assert np.array_equal(result["image"], image)
    np.testing.assert_allclose(np.reshape(result["bboxes"], (-1, 4)), corners, rtol=0, atol=2e-5 * max(image.shape))
    np.testing.assert_allclose(result["weights"], target["weights"].numpy(), rtol=1e-6)
    for field in ("labels", "sources", "rows"):
        assert np.array_equal(result[field], target[field].numpy()), field
    if "masks" in target:
        assert np.array_equal(result["masks"], target["masks"].numpy() if len(target["masks"]) else [])


sides = st.tuples(st.integers(20, 70), st.integers(20, 70))


@settings(max_examples=120, deadline=None)
@given(
    sizes=st.tuples(sides, sides, sides),
    counts=st.tuples(*[st.integers(0, 4)] * 3),
    form=st.sampled_from(sorted(FORMATS)),
    dtype=st.sampled_from([np.uint8, np.float32]),
    masks=st.booleans(),
    min_weight=st.sampled_from([0.0, 0.3]),
    unsaid=st.sets(st.sampled_from(["weights", "sources"])),
    seed=st.integers(0, 10**6),
)
def test_the_result_is_that_of_mix_pair(sizes, counts, form, dtype, masks, min_weight, unsaid, seed):
    items, targets = [], []
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        item = make_item(count, size=size, seed=number, form=form, dtype=dtype, masks=masks)
        if number:
            item = {key: value for key, value in item.items() if key not in unsaid}
        items.append(item)
        targets.append(to_target(item, make_target(count, seed=number, size=size)["boxes"]))
    compose = make_compose(Mixup(p=1, min_weight=min_weight), form=form, seed=seed)
    result = compose(**items[0], mixup_metadata=items[1:])
    lam, number = applied(result)
    pair = items[0]["image"], targets[0], items[1 + number]["image"], targets[1 + number]
    image, target = detmix.mix_pair(*pair, lam=lam, min_weight=min_weight)
    corners = [FORMATS[form](*box, *image.shape[:2]) for box in target["boxes"].tolist()]
    assert_same(result, image, target, np.reshape(corners, (-1, 4)))


def test_boxes_and_weights_of_one_pair_worked_out_by_hand():
    first = {"image": np.full((10, 20), 200, np.uint8), "bboxes": np.array([[2.0, 3, 8, 9]]), "labels": ["cat"]}
    second = {"image": np.full((30, 5), 100, np.uint8), "bboxes": np.array([[0.0, 10, 5, 30]]), "labels": ["dog"]}
    compose = make_compose(Mixup(p=1), fields=("labels", "weights"))
    result = compose(**first, weights=np.array([0.5], np.float32), mixup_metadata=second)
    lam, _ = applied(result)
    assert result["image"].shape == (30, 20)
    seen = [result["image"][y, x] for y, x in ((5, 2), (5, 10), (20, 2), (20, 10))]
    assert seen == [round(200 * lam + 100 * (1 - lam)), round(200 * lam), round(100 * (1 - lam)), 0]
    np.testing.assert_allclose(result["bboxes"], [[2, 3, 8, 9], [0, 10, 5, 30]], atol=1e-5)
    np.testing.assert_allclose(result["weights"], [0.5 * lam, 1 - lam], rtol=1e-6)
    assert list(result["labels"]) == ["cat", "dog"]


def test_a_seed_of_compose_decides_the_draws():
    item, partners = make_item(2), [make_item(1, seed=number) for number in range(1, 5)]

    def draws(seed):
        compose = make_compose(Mixup(), seed=seed)
        results = [compose(**item, mixup_metadata=partners) for _ in range(20)]
        return [applied(r) if len(r["applied_transforms"]) else None for r in results]

    first = draws(3)
    assert draws(3) == first
    assert draws(4) != first
    assert 0 < first.count(None) < 20
    assert len(set(first)) == 21 - first.count(None)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 1.5, 5.0])
def test_ratios_are_beta_and_partners_uniform(alpha):
    item, partners = make_item(1, size=(4, 9)), [make_item(0, size=(4, 9), seed=number) for number in range(1, 5)]
    compose = make_compose(Mixup(alpha=alpha, p=1), seed=1)
    lams, numbers = zip(*(applied(compose(**item, mixup_metadata=partners)) for _ in range(400)), strict=True)
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(numbers, minlength=4)).pvalue > 1e-3
    assert abs(stats.spearmanr(lams, numbers).statistic) < 0.2


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    expected = np.random.random(), torch.rand(())
    np.random.seed(0)
    torch.manual_seed(0)
    make_compose(Mixup(p=1))(**make_item(1), mixup_metadata=make_item(1, seed=1))
    assert (np.random.random(), torch.rand(())) == expected


@pytest.mark.parametrize("options", [{"p": 0}, {"alpha": 0, "p": 1}])
def test_switched_off_the_sample_stays_as_it_is(options):
    item = make_item(2)
    result = make_compose(Mixup(**options))(**item, mixup_metadata=make_item(3, seed=1))
    assert result["applied_transforms"] == []
    assert np.array_equal(result["image"], item["image"])
    assert result["weights"].tolist() == item["weights"].tolist()


def test_inputs_are_left_untouched():
    items = [make_item(2, masks=True), make_item(3, size=(60, 30), seed=1, masks=True, form="albumentations")]
    items[0]["bboxes"] = items[0]["bboxes"] / [64, 48, 64, 48]
    copies = [{key: value.copy() for key, value in item.items()} for item in items]
    params = A.BboxParams(format="albumentations", label_fields=list(FIELDS), clip=True)
    A.Compose([Mixup(p=1)], bbox_params=params)(**items[0], mixup_metadata=items[1:])
    for item, before in zip(items, copies, strict=True):
        assert all(np.array_equal(value, before[key]) for key, value in item.items())


def test_transforms_before_see_the_first_image_and_those_after_the_canvas():
    first, second = make_item(2, size=(40, 60)), make_item(3, size=(70, 30), seed=1)
    result = make_compose(A.HorizontalFlip(p=1), Mixup(p=1), A.VerticalFlip(p=1))(**first, mixup_metadata=[second])
    x1, y1, x2, y2 = first["bboxes"].T
    flipped = np.stack([60 - x2, y1, 60 - x1, y2], 1)
    image, target = detmix.mix_pair(
        first["image"][:, ::-1].copy(),
        to_target(first, torch.from_numpy(flipped)),
        second["image"],
        to_target(second, torch.from_numpy(second["bboxes"])),
        lam=applied(result)[0],
    )
    x1, y1, x2, y2 = target["boxes"].T
    assert_same(result, image[::-1], target, np.stack([x1, 70 - y2, x2, 70 - y1], 1))


def test_what_is_mixed_can_be_mixed_again():
    items = [make_item(1, seed=number) for number in range(3)]
    for item in items:
        item.update(weights=np.ones(1, np.float32), sources=np.zeros(1, np.int64))
    compose = make_compose(Mixup(p=1, metadata_key="inner"), Mixup(p=1, metadata_key="outer"))
    result = compose(**items[0], inner=items[1:2], outer=items[2:])
    inner, outer = (params["lam"] for _, params in result["applied_transforms"])
    np.testing.assert_allclose(result["weights"], [inner * outer, (1 - inner) * outer, 1 - outer], rtol=1e-5)
    assert result["sources"].tolist() == [0, 1, 2]
    assert result["rows"].tolist() == [0, 100, 200]


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_sequences_stay_of_their_kind_when_the_first_image_seen_has_no_objects(kind):
    compose = make_compose(Mixup(p=1), fields=("labels", "weights"))
    empty = {"bboxes": [], "labels": kind(np.zeros(0, np.int64)), "weights": kind(np.zeros(0, np.float32))}
    partner = {"image": make_item(0)["image"], "bboxes": [[1, 2, 3.5, 4]], "labels": kind(np.array([2]))}
    full = {"bboxes": [[2, 2, 9, 9]], "labels": kind(np.array([1])), "weights": kind(np.ones(1, np.float32))}
    first = compose(image=make_item(0)["image"], **empty, mixup_metadata=partner)
    assert (type(first["bboxes"]), type(first["weights"])) == (list, type(kind([])))
    np.testing.assert_allclose(first["bboxes"], [[1, 2, 3.5, 4]], atol=1e-5)
    np.testing.assert_allclose(first["weights"], [1 - applied(first)[0]], rtol=1e-6)
    full["weights"] = [1.0] if kind is list else full["weights"]
    second = compose(image=make_item(0)["image"], **full, mixup_metadata=partner)
    assert type(second["weights"]) is type(first["weights"])
    assert list(second["labels"]) == [1, 2]


def test_a_pipeline_is_written_down_and_read_back():
    transform = Mixup(alpha=0.7, min_weight=0.1, metadata_key="others", p=0.25)
    written = json.loads(json.dumps(A.to_dict(make_compose(transform))))
    (read,) = A.from_dict(written).transforms
    assert type(read) is Mixup
    assert (read.alpha, read.min_weight, read.metadata_key, read.p) == (0.7, 0.1, "others", 0.25)
    assert repr(read) == repr(transform) == repr(pickle.loads(pickle.dumps(transform)))


@pytest.mark.parametrize("options", [{"alpha": -1}, {"alpha": float("nan")}, {"p": 1.5}, {"min_weight": -0.1}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Mixup(**options)


def test_a_compose_without_weights_is_refused():
    item = {"image": make_item(0)["image"], "bboxes": np.array([[1.0, 2, 3, 4]])}
    plain = A.Compose([Mixup(p=1)], bbox_params=A.BboxParams(format="pascal_voc"))
    for compose in (A.Compose([Mixup(p=1)]), plain):
        with pytest.raises(ValueError, match=r"label_fields name 'weights', got \[\]"):
            compose(**item, mixup_metadata=[item])


@pytest.mark.parametrize(
    ("changes", "error", "wanted"),
    [
        ({"mixup_metadata": []}, ValueError, r"a dict or a sequence of one dict or more, got \[\]"),
        ({"mixup_metadata": None}, ValueError, "a dict or a sequence of one dict or more, got None"),
        ({"mixup_metadata": ["a.jpg"]}, ValueError, r"mixup_metadata\[0\] failed: a partner must be a dict .* got str"),
        ({"mask": np.zeros((48, 64))}, ValueError, r"would leave others behind: got \['mask'\]"),
        ({"image2": np.zeros((48, 64, 3))}, ValueError, r"would leave others behind: got \['image2'\]"),
        (
            {"masks": [], "mixup_metadata": [make_item(1, masks=True)]},
            ValueError,
            r"mixup_metadata\[0\] failed: target: masks has 0 rows and boxes has 2",
        ),
        ({"masks": np.zeros((2, 48, 64))}, ValueError, "its partner must have them too, got"),
        ({"weights": np.ones(2, np.int64)}, TypeError, "weights must be an array or a list of floats, got int64"),
        ({"weights": ["a", "b"]}, TypeError, "weights must be an array or a list of floats, got <class 'list'>"),
        ({"sources": ["a", "b"]}, TypeError, "sources must be an array or a list of integers"),
        ({"weights": np.full(2, 2.0)}, ValueError, r"weights must lie in \[0, 1\], got 2.0 in row 0"),
    ],
)
def test_a_call_that_cannot_be_mixed_is_refused(changes, error, wanted):
    compose = make_compose(Mixup(p=1), additional_targets={"image2": "image"})
    with pytest.raises(error, match=wanted):
        compose(**{**make_item(2), "mixup_metadata": [make_item(1, seed=1)], **changes})


@pytest.mark.parametrize(
    ("changes", "error", "wanted"),
    [
        ({"image": np.zeros((48, 64, 3), np.float32)}, TypeError, "of one kind and dtype"),
        ({"image": np.zeros((48, 64, 1), np.uint8)}, ValueError, "same channels"),
        ({"labels": np.ones(3)}, ValueError, "labels must have one value for each of 1 boxes, got 3"),
        ({"labels": None}, ValueError, "the label field 'labels' is missing, got"),
        ({"bboxes": None}, ValueError, "must be a dict with image and bboxes, got"),
        ({"bboxes": np.array([[0.0, 0, 90, 9]])}, ValueError, "Expected x_max"),
        ({"masks": np.zeros((2, 48, 64), np.uint8)}, ValueError, "masks has 2 rows and boxes has 1"),
        (
            {"masks": np.zeros((1, 9, 9), np.uint8)},
            ValueError,
            r"of shape \(N, 48, 64\), as the image, got \(1, 9, 9\)",
        ),
    ],
)
def test_a_partner_that_cannot_be_mixed_is_named(changes, error, wanted):
    partner = {key: value for key, value in (make_item(1, seed=1) | changes).items() if value is not None}
    item = make_item(2, masks="masks" in changes)
    with pytest.raises(error, match=rf"mixing with mixup_metadata\[0\] failed: .*{wanted}"):
        make_compose(Mixup(p=1))(**item, mixup_metadata=[partner])


@pytest.mark.parametrize("missing", ["bboxes", "mixup_metadata"])
def test_a_call_without_boxes_or_partners_is_refused(missing):
    call = {**make_item(2), "mixup_metadata": [make_item(1, seed=1)]}
    del call[missing]
    with pytest.raises(ValueError, match=f"missing keys: {{'{missing}'}}"):
        make_compose(Mixup(p=1))(**call)


def test_masks_given_as_lists_come_back_as_lists():
    items = [make_item(2, masks=True), make_item(1, size=(30, 80), seed=1, masks=True)]
    given = [{**item, "masks": list(item["masks"])} for item in items]
    result = make_compose(Mixup(p=1))(**given[0], mixup_metadata=given[1:])
    assert isinstance(result["masks"], list)
    assert [mask.shape for mask in result["masks"]] == [(48, 80)] * 3
    assert np.array_equal(result["masks"][2][:30], items[1]["masks"][0])


@pytest.mark.parametrize("dtype", [np.uint8, bool])
@pytest.mark.parametrize("counts", [(0, 2), (2, 0), (0, 0)])
@pytest.mark.parametrize("mixup_first", [True, False])
def test_an_image_without_objects_has_an_empty_list_of_masks(mixup_first, counts, dtype):
    items = [make_item(count, seed=seed, masks=True) for seed, count in enumerate(counts)]
    for item in items:
        item["masks"] = item["masks"].astype(dtype) if len(item["masks"]) else []
    transforms = [Mixup(p=1), A.HorizontalFlip(p=1)]
    result = make_compose(*transforms if mixup_first else transforms[::-1])(**items[0], mixup_metadata=items[1:])
    masks = [(mask, item is items[0]) for item in items for mask in item["masks"]]
    assert len(result["masks"]) == len(result["bboxes"]) == len(masks)
    for mask, (own, first) in zip(result["masks"], masks, strict=True):
        assert mask.dtype == dtype
        assert np.array_equal(mask, own[:, ::-1] if mixup_first or first else own)


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_a_flip_takes_what_mixup_leaves_where_it_leaves_no_object(kind):
    items = [make_item(count, seed=seed, masks=True) for seed, count in enumerate((2, 0))]
    items[0].update(masks=kind(items[0]["masks"]), weights=np.full(2, 1e-6, np.float32))
    compose = make_compose(Mixup(p=1, min_weight=0.1), A.HorizontalFlip(p=1))
    result = compose(**items[0], mixup_metadata=items[1:])
    assert (len(result["bboxes"]), result["masks"]) == (0, [])
