"""What a data set that mixes refuses, and what it says."""

import traceback

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from detmix import MixupDataset, collate

from .datasets import COUNT, Labelled, make_dataset, make_labelled
from .factories import ListDataset, make_sample


class Broken(ListDataset):
    def __getitem__(self, index):
        if index == 1:
            raise OSError("cannot decode")
        return super().__getitem__(index)

    def image_path(self, index):
        return f"image_{index}.jpg"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_partner_that_fails_is_named_with_both_indices_and_files(workers):
    dataset = MixupDataset(Broken(make_dataset(2).samples))
    loader = DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=workers)
    wanted = r"sample 0 \(image_0.jpg\) with its partner sample 1 \(image_1.jpg\) failed: cannot decode"
    with pytest.raises(RuntimeError, match=wanted):
        next(iter(loader))


class OutOfMemory(Broken):
    def __getitem__(self, index):
        if index == 1:
            raise MemoryError("no room")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_out_of_memory_stays_what_it_is_and_names_both_samples(workers):
    dataset = MixupDataset(OutOfMemory(make_dataset(2).samples))
    loader = DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=workers)
    with pytest.raises(MemoryError, match="no room") as caught:
        next(iter(loader))
    told = "".join(traceback.format_exception(caught.value))
    assert "mixing sample 0 (image_0.jpg) with its partner sample 1 (image_1.jpg) failed" in told


def test_a_failure_is_told_where_image_path_is_no_method():
    source = Broken(make_dataset(2).samples)
    source.image_path = "images"
    with pytest.raises(RuntimeError, match="sample 0 with its partner sample 1 failed: cannot decode"):
        MixupDataset(source)[0]


def test_samples_that_stay_as_they_are_are_checked_too():
    source = make_dataset()
    source.samples[4][1]["labels"] = source.samples[4][1]["labels"].int()
    with pytest.raises(TypeError, match="target of image 4: labels must be int64"):
        MixupDataset(source, alpha=0)[4]


@pytest.mark.parametrize("options", [{}, {"p": 0}, {"mix": "cutout"}])
@pytest.mark.parametrize(
    ("changed", "wanted"),
    [(lambda sample: (*sample, "cat.jpg"), "3 values"), (lambda sample: {"image": sample[0]}, "dict")],
)
def test_samples_that_are_no_pairs_are_refused(options, changed, wanted):
    samples = [changed(sample) for sample in make_dataset(3).samples]
    with pytest.raises(TypeError, match=rf"a data set must give \(image, target\), got {wanted} for sample 0"):
        MixupDataset(ListDataset(samples), **options)[0]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(make_dataset(3).samples)


@pytest.mark.parametrize("stream", [Stream(), iter([])])
def test_a_stream_is_refused_with_what_takes_it(stream):
    with pytest.raises(TypeError, match=r"must have a length and samples by index, and \w+ has not: see MixupIterable"):
        MixupDataset(stream)


@pytest.mark.parametrize(
    ("count", "options", "wanted"),
    [
        (0, {}, "data set is empty"),
        (1, {}, "single image: mixing needs a partner"),
        (3, {"alpha": -1}, "alpha must be"),
        (3, {"p": 1.5}, r"p must lie in \[0, 1\]"),
        (3, {"min_weight": -0.5}, "min_weight must lie"),
        (3, {"mix": "blend"}, "mix must be one of mixup, cutmix, cutout, got 'blend'"),
        (3, {"partner": "same_class"}, "partner must be one of any, .*, same_orientation, got 'same_class'"),
        (3, {"mix": "cutout", "partner": "background"}, "cutout takes no partner, got partner='background'"),
        (1, {"mix": "cutmix"}, "single image: mixing needs a partner"),
    ],
)
def test_bad_settings_are_refused(count, options, wanted):
    with pytest.raises(ValueError, match=wanted):
        MixupDataset(make_dataset(count), **options)


def test_a_choice_that_leaves_every_sample_without_a_partner_is_refused():
    source = make_labelled(3)
    with pytest.raises(ValueError, match="partner='background' finds no partner .* every image has an object"):
        MixupDataset(Labelled(source.samples[1:]), partner="background")
    assert len(MixupDataset(Labelled(source.samples[1:]), partner="background", alpha=0)) == 2


def test_labels_that_cannot_be_told_are_asked_for():
    with pytest.raises(TypeError, match=r"partner='with_boxes': ListDataset needs a method labels_of\(index\)"):
        MixupDataset(make_dataset(), partner="with_boxes")
    with pytest.raises(TypeError, match="a MixupDataset's change with what is drawn: choose partners in the inner"):
        MixupDataset(MixupDataset(make_labelled()), partner="with_boxes")


def test_a_seed_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="integer"):
        MixupDataset(make_dataset(), seed=None)


def test_a_class_in_the_place_of_a_data_set_is_refused():
    with pytest.raises(TypeError, match=r"a data set is wanted, and ListDataset is a class: make one, ListDataset\("):
        MixupDataset(ListDataset)


@pytest.mark.parametrize("wrong", [0, 1, None])
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_one_of_two_whose_target_is_at_fault_is_named(wrong, mix):
    samples = [make_sample(2, seed=seed) for seed in range(2)]
    for _, target in samples:
        del target["image_id"]
    if wrong is None:
        samples[1] = samples[1][0].float(), samples[1][1]
    else:
        samples[wrong][1]["labels"][0] = 0
    at_fault = "" if wrong is None else f" for sample {wrong}"
    error = "both images must be of one kind" if wrong is None else "target: labels must be 1 or more"
    with pytest.raises(RuntimeError, match=f"^mixing sample 0 with its partner sample 1 failed{at_fault}: {error}"):
        MixupDataset(ListDataset(samples), mix=mix)[0]


@pytest.mark.parametrize(
    ("image", "error"), [("a.jpg", "an image must be a tensor, .*"), (torch.zeros(5), "an image .*")]
)
def test_an_image_that_is_none_is_named_as_at_fault(image, error):
    samples = [make_sample(2, seed=seed) for seed in range(2)]
    samples[1] = image, samples[1][1]
    with pytest.raises(RuntimeError, match="its partner sample 1 failed for sample 1: an image .*must"):
        MixupDataset(ListDataset(samples))[0]


def test_a_partner_that_cannot_be_loaded_is_the_one_at_fault():
    samples = make_dataset(2).samples
    samples[0][1]["boxes"] = samples[0][1]["boxes"].long()
    with pytest.raises(RuntimeError, match=r"with its partner sample 1 \(image_1.jpg\) failed: cannot decode"):
        MixupDataset(Broken(samples))[0]


@pytest.mark.parametrize("cache", ["3", None, 2.0])
def test_a_cache_that_is_no_integer_is_refused(cache):
    with pytest.raises(TypeError, match=f"cache must be an integer, got {cache!r}"):
        MixupDataset(make_dataset(), cache=cache)


def test_a_single_image_may_train_without_mixing():
    assert len(MixupDataset(make_dataset(1), alpha=0)) == 1


def test_a_single_image_may_be_cut():
    assert "covers" in MixupDataset(make_dataset(1), mix="cutout")[0][1]


def test_an_index_out_of_range_ends_iteration():
    dataset = MixupDataset(make_dataset())
    with pytest.raises(IndexError, match="index 12 is out of range"):
        dataset[COUNT]
    assert len(list(dataset)) == COUNT
