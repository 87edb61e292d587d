"""What a data set that mixes draws, and what it makes of that, in workers too."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import ConcatDataset, DataLoader, Subset

from detmix import MixupDataset, collate, mix_pair
from detmix.cutmix import cutmix_pair, cutout, region_around

from .datasets import COUNT, Labelled, assert_same, epochs, make_dataset, make_labelled
from .factories import ListDataset, make_sample


@pytest.fixture(scope="module")
def reference():
    """Two epochs, sample by sample, without a loader."""
    dataset = MixupDataset(make_dataset(), seed=3)
    found = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found.append([dataset[index] for index in range(COUNT)])
    return found


@pytest.mark.parametrize(
    ("workers", "method"),
    [(0, None), (1, "fork"), (3, "fork"), (1, "spawn"), (3, "spawn"), (1, "forkserver")],
)
def test_samples_are_the_same_for_any_number_of_persistent_workers(reference, workers, method):
    dataset = MixupDataset(make_dataset(), seed=3)
    loader = DataLoader(
        dataset,
        batch_size=2,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=workers > 0,
    )
    for samples, expected in zip(epochs(loader, dataset), reference, strict=True):
        assert_same(samples, expected)
    dataset.enable(False)
    [plain] = epochs(loader, dataset, numbers=(2,))
    assert_same(plain, make_dataset().samples)


@pytest.mark.parametrize(
    ("mix", "partner"),
    [("cutmix", "any"), ("cutmix", "other_class"), ("cutout", "any"), ("mixup", "with_boxes"), ("mixup", "background")],
)
def test_every_kind_of_mixing_draws_the_same_with_workers(mix, partner):
    dataset = MixupDataset(make_labelled(), mix=mix, partner=partner, seed=3)
    assert sum(dataset.draw(index) is not None for index in range(COUNT)) > COUNT // 2
    expected = [dataset[index] for index in range(COUNT)]
    loader = DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=2)
    [found] = epochs(loader, dataset, numbers=(0,))
    assert_same(found, expected)
    dataset.set_epoch(1)
    assert [dataset.draw(index) for index in range(COUNT)] != [
        MixupDataset(make_labelled(), mix=mix, partner=partner, seed=3).draw(index) for index in range(COUNT)
    ]


def test_what_is_drawn_never_changes():
    dataset = MixupDataset(make_dataset(), seed=3)
    assert [dataset.draw(index) for index in (0, 1, 11)] == [
        (10, 0.7900730501424492, None),
        (8, 0.0877143886463683, None),
        (10, 0.5245640927120532, None),
    ]
    dataset.set_epoch(1)
    assert dataset.draw(5) == (1, 0.7930420044449003, None)
    dataset = MixupDataset(make_dataset(), alpha=0.2, p=0.5, seed=7)
    assert [dataset.draw(index) for index in range(2, 6)] == [
        None,
        (10, 0.9999984161167124, None),
        (7, 0.9103561743768965, None),
        None,
    ]


def test_the_order_of_visits_does_not_matter(reference):
    dataset = MixupDataset(make_dataset(), seed=3)
    visited = {index: dataset[index] for index in (7, 2, 11, 2, 0)}
    assert_same(visited.values(), [reference[0][index] for index in visited])
    assert_same([dataset[-1]], [reference[0][COUNT - 1]])


@pytest.mark.parametrize("integer", [np.int64, torch.tensor])
def test_indices_of_every_kind_give_the_same_samples(reference, integer):
    dataset = MixupDataset(make_dataset(), seed=np.int64(3))
    assert_same([dataset[integer(index)] for index in range(COUNT)], reference[0])


WRAPPERS = {
    "itself": lambda dataset: dataset,
    "subset": lambda dataset: Subset(Subset(dataset, range(COUNT)), range(COUNT)),
    "concat": lambda dataset: ConcatDataset([Subset(dataset, range(COUNT))]),
}


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_mixing_what_is_mixed_draws_anew(wrapper):
    wrap = WRAPPERS[wrapper]
    inner = MixupDataset(make_dataset())
    middle = MixupDataset(wrap(inner))
    outer = MixupDataset(wrap(middle))
    ratios = {level.draw(index).lam for level in (inner, middle, outer) for index in range(COUNT)}
    assert len(ratios) == 3 * COUNT
    assert middle.draw(0) == MixupDataset(inner).draw(0)
    _, target = middle[1]
    assert len(target["boxes"].unique(dim=0)) == len(target["boxes"])


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
@pytest.mark.parametrize("workers", [0, 1])
def test_epoch_and_switch_reach_what_is_mixed_within(wrapper, workers):
    inner = MixupDataset(make_dataset())
    expected = MixupDataset(WRAPPERS[wrapper](inner))
    expected.set_epoch(1)
    inner.set_epoch(1)
    dataset = MixupDataset(WRAPPERS[wrapper](MixupDataset(make_dataset())))
    loader = DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0)
    _, second = epochs(loader, dataset)
    assert_same(second, [expected[index] for index in range(COUNT)])
    dataset.enable(False)
    [plain] = epochs(loader, dataset, numbers=(1,))
    assert_same(plain, make_dataset().samples)


def test_epochs_and_seeds_draw_differently():
    dataset = MixupDataset(make_dataset(), seed=0)
    first = [dataset.draw(index) for index in range(COUNT)]
    dataset.set_epoch(1)
    assert [dataset.draw(index) for index in range(COUNT)] != first
    assert [MixupDataset(make_dataset(), seed=1).draw(index) for index in range(COUNT)] != first


def test_a_sample_is_the_mix_of_what_was_drawn():
    source = make_dataset()
    dataset = MixupDataset(source, alpha=0.7, seed=1)
    for index in range(COUNT):
        draw = dataset.draw(index)
        assert_same([dataset[index]], [mix_pair(*source[index], *source[draw.partner], lam=draw.lam)])


def test_a_cut_sample_is_the_cut_of_what_was_drawn():
    source = make_dataset()
    mixing = MixupDataset(source, mix="cutmix", alpha=0.7, seed=1)
    cutting = MixupDataset(source, mix="cutout", alpha=0.7, seed=1)
    for index in range(COUNT):
        draw, own = mixing.draw(index), cutting.draw(index)
        partner = source[draw.partner]
        size = max(16 + index, 16 + draw.partner), 32
        region = region_around(draw.centre, draw.lam, size)
        assert_same([mixing[index]], [cutmix_pair(*source[index], *partner, region=region)])
        assert (own.partner, own.lam) == (index, draw.lam)
        region = region_around(own.centre, own.lam, (16 + index, 32))
        assert_same([cutting[index]], [cutout(*source[index], region=region)])


def test_cuts_of_cuts_weigh_what_both_leave():
    source = ListDataset([make_sample(3, seed=seed) for seed in range(4)])
    for _, target in source.samples:
        target["boxes"] = target["boxes"].round()
    inner = MixupDataset(source, mix="cutout", seed=0)
    outer = MixupDataset(inner, mix="cutout", seed=0)
    for index in range(4):
        seen = torch.ones(48, 64, dtype=torch.bool)
        for draw in (inner.draw(index), outer.draw(index)):
            x1, y1, x2, y2 = region_around(draw.centre, draw.lam, (48, 64))
            seen[y1:y2, x1:x2] = False
        image, cut = outer[index]
        assert torch.equal(image, source[index][0] * seen)
        corners = source[index][1]["boxes"].int().tolist()
        shares = [seen[y1:y2, x1:x2].double().mean().item() for x1, y1, x2, y2 in corners]
        assert cut["weights"].tolist() == pytest.approx([share for share in shares if share])


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("partner", ["with_boxes", "background", "other_class"])
def test_partners_are_those_that_were_asked_for(mix, partner):
    source = make_labelled()
    dataset = MixupDataset(source, mix=mix, partner=partner)
    for index in range(COUNT):
        draw, own = dataset.draw(index), set(source.labels_of(index).tolist())
        other = set(source.labels_of(draw.partner).tolist())
        assert draw.partner != index
        assert {"with_boxes": len(other) > 0, "background": not other, "other_class": not own & other}[partner]


def test_a_sample_that_alone_has_no_partner_stays_as_it_is():
    source = make_labelled(3)  # of 0, 1 and 2 objects
    dataset = MixupDataset(source, partner="background")
    assert dataset.draw(0) is None
    assert dataset[0][0] is source[0][0]
    assert [dataset.draw(index).partner for index in (1, 2)] == [0, 0]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("cache", [0, 3])
def test_the_canvas_of_images_of_one_orientation_has_it_too(mix, cache):
    sizes = [(16, 32), (32, 16), (24, 24), (20, 30), (40, 10)] * 3
    source = Labelled([make_sample(1, seed=index, size=size) for index, size in enumerate(sizes)])
    dataset = MixupDataset(source, mix=mix, partner="same_orientation", cache=cache)
    for index, (height, width) in enumerate(sizes):
        image, target = dataset[index]
        assert target["sources"].unique().tolist() == [0, 1] or mix == "cutmix"
        assert (image.shape[2] > image.shape[1]) == (width > height)


def test_partners_are_indexed_without_reading_an_image():
    class Unread(Labelled):
        def __getitem__(self, index):
            raise AssertionError("an image was read")

    MixupDataset(Unread(make_dataset().samples), partner="other_class")


def test_partners_are_all_others_equally_often_and_never_the_sample_itself():
    dataset = MixupDataset(make_dataset(5))
    partners = np.zeros((5, 5), int)
    for epoch in range(1000):
        dataset.set_epoch(epoch)
        for index in range(5):
            partners[index, dataset.draw(index).partner] += 1
    assert (partners.diagonal() == 0).all()
    others = partners[~np.eye(5, dtype=bool)]
    assert abs(others - 250).max() < 5 * np.sqrt(250 * 0.75)  # five standard deviations of a binomial count


@pytest.mark.parametrize("mix", ["cutmix", "cutout"])
def test_centres_are_uniform_and_do_not_depend_on_the_ratio(mix):
    dataset = MixupDataset(make_dataset(2), mix=mix, alpha=1.0)
    drawn = []
    for epoch in range(1000):
        dataset.set_epoch(epoch)
        draw = dataset.draw(0)
        drawn.append((*draw.centre, draw.lam))
    columns = np.array(drawn).T  # Beta(1, 1) is uniform too
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in columns)
    assert abs(np.corrcoef(columns)[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(1000)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_p_is_the_share_of_samples_that_are_mixed(p):
    dataset = MixupDataset(make_dataset(2), p=p)
    mixed = 0
    for epoch in range(1000):
        dataset.set_epoch(epoch)
        mixed += dataset.draw(0) is not None
    assert abs(mixed - 1000 * p) <= 5 * np.sqrt(1000 * p * (1 - p))


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"p": 0.0}])
def test_switched_off_samples_are_the_data_sets_own(options):
    dataset = MixupDataset(make_dataset(), **options)
    assert dataset[4][0] is dataset.dataset[4][0]


def test_source_samples_are_never_written_to():
    source = make_dataset()
    before = copy.deepcopy(source.samples)
    dataset = MixupDataset(source)
    for index in range(COUNT):
        image, target = dataset[index]
        image.zero_()
        target["boxes"].zero_()
    assert_same(source.samples, before)


def test_transform_sees_the_mixed_sample():
    def shout(image, target):
        return image, {**target, "count": len(target["weights"])}

    _, target = MixupDataset(make_dataset(), transform=shout)[5]
    assert target["count"] == len(target["boxes"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_have_switches_of_their_own(duplicate):
    dataset = MixupDataset(make_dataset())
    other = duplicate(dataset)
    other.enable(False)
    other.set_epoch(5)
    assert (dataset.enabled, dataset.epoch) == (True, 0)
    assert other._shared.values.is_shared()
