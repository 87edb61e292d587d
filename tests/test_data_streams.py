"""WebDataset's shards and Hugging Face's streaming data sets, read by ranks and workers."""

import io
import itertools
import json
import pickle
import re
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from detmix import MixupIterable, collate
from detmix.data import HuggingFaceStream, WebDatasetStream
from detmix.readers import Reader

from .processes import rank_of_group
from .test_readme import code_blocks
from .test_stream import process_group

pytest.importorskip("webdataset")
datasets = pytest.importorskip("datasets")

CLASSES = ("cat", "dog")
SIZES = (4, 1, 7, 0, 3)  # samples of the shards
COUNT = sum(SIZES)


def picture(number, size=(12, 16)):
    pixels = np.full((*size, 3), number, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def row(number):
    objects = {"bbox": [[1, 2, 3 + number % 5, 4]], "category": [CLASSES[number % 2]]}
    return {"image_id": number, "height": 12, "width": 16, "objects": objects}


def write_tar(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def members_of(numbers):
    found = {}
    for number in numbers:
        found |= {f"{number:03d}.png": picture(number), f"{number:03d}.json": json.dumps(row(number)).encode()}
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of unequal size; one of them is empty."""
    folder, numbers = tmp_path_factory.mktemp("shards"), iter(range(COUNT))
    return [
        str(write_tar(folder / f"part-{n}.tar", members_of(itertools.islice(numbers, size))))
        for n, size in enumerate(SIZES)
    ]


def rows_of(sizes):
    """Rows of unequal shards, as a data set gives them that is read while it comes."""
    for first, count in sizes:
        for number in range(first, first + count):
            image = Image.open(io.BytesIO(picture(number)))
            yield row(number) | {"image": image, "objects": row(number)["objects"] | {"category": [number % 2]}}


def hub(sizes=SIZES):
    starts = [0, *itertools.accumulate(sizes)][: len(sizes)]
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    objects = {"bbox": datasets.Sequence(box), "category": datasets.Sequence(datasets.ClassLabel(names=list(CLASSES)))}
    kinds = {"image": datasets.Image(), "image_id": datasets.Value("int64"), "objects": objects}
    kinds |= {"height": datasets.Value("int32"), "width": datasets.Value("int32")}
    found = [pair for pair in zip(starts, sizes, strict=True) if pair[1]]
    return datasets.IterableDataset.from_generator(
        rows_of, gen_kwargs={"sizes": found}, features=datasets.Features(kinds)
    )


def ids(samples):
    return [target["image_id"] for _, target in samples]


def make_stream(kind, shards, *, shuffle=0, seed=0):
    if kind == "web":
        return WebDatasetStream(shards, classes=CLASSES, shuffle=shuffle, seed=seed)
    dataset = hub().shuffle(seed=seed, buffer_size=shuffle) if shuffle else hub()
    return HuggingFaceStream(dataset, box_format="xywh")


def read_by_all(make, ranks, workers, *, epoch=0, method=None):
    """The image ids that each rank's loader gives, in their order."""
    given = []
    for rank in range(ranks):
        stream = make()
        stream.set_epoch(epoch)
        with process_group(rank, ranks):
            loader = DataLoader(
                stream, batch_size=2, collate_fn=collate, num_workers=workers, multiprocessing_context=method
            )
            given.append(ids(sample for batch in loader for sample in zip(*batch, strict=True)))
    return given


def assert_all_once(given):
    assert sorted(itertools.chain(*given)) == list(range(COUNT))


def test_a_local_shard_may_have_a_name_like_that_of_a_drive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "D:part.tar", members_of(range(2)))
    assert len(list(WebDatasetStream("D:part.tar", classes=CLASSES))) == 2


def test_backslashes_of_a_pattern_stand_for_themselves_on_windows(monkeypatch):
    monkeypatch.setattr("detmix.data.webdataset.os", SimpleNamespace(sep="\\"))
    with pytest.raises(FileNotFoundError, match=re.escape(r"D:\shards\part-000.tar: no such shard")):
        WebDatasetStream(r"D:\shards\part-{000..002}.tar", classes=CLASSES)


def test_samples_are_the_images_and_objects_of_the_shards(shards):
    for number, (image, target) in enumerate(WebDatasetStream(shards, classes=CLASSES)):
        assert image.dtype == torch.uint8
        assert image.shape == (3, 12, 16)
        assert image.unique().tolist() == [number]
        assert target["image_id"] == number
        assert target["boxes"].tolist() == [[1, 2, 4 + number % 5, 6]]
        assert target["labels"].tolist() == [1 + number % 2]
    assert number == COUNT - 1


def test_rows_of_the_hub_give_the_same_samples(shards):
    ours = WebDatasetStream(shards, classes=CLASSES)
    theirs = HuggingFaceStream(hub(), box_format="xywh")
    assert theirs.class_names == ours.class_names == CLASSES
    assert theirs.num_classes == 3
    for (image, target), (other, other_target) in zip(ours, theirs, strict=True):
        assert torch.equal(image, other)
        assert target.keys() == other_target.keys()
        assert all(torch.equal(torch.as_tensor(target[k]), torch.as_tensor(other_target[k])) for k in target)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["shards", "samples"]), st.sampled_from([0, 5]))
def test_all_readers_together_give_every_sample_once(count, readers, share, shuffle):
    names = [f"pipe:{n}" for n in range(count)]  # nothing is opened here
    stream = WebDatasetStream(names, classes=CLASSES, share=share, shuffle=shuffle)
    parts = [stream._part(Reader(number, readers)) for number in range(readers)]
    assert all(len(part) for part, _ in parts)
    for name in names:
        own = [part for named, part in parts if name in named]
        assert len({part.total for part in own}) == 1
        assert sorted(part.number for part in own) == list(range(own[0].total))
    if share == "shards":
        assert max(len(part) for part, _ in parts) == -(-count // min(readers, count))


@pytest.mark.parametrize("shuffle", [0, 3])
@pytest.mark.parametrize("used", [5, 3, 1])  # for four readers: more shards than readers, fewer, a single one
def test_two_ranks_with_two_workers_give_every_sample_once(shards, used, shuffle, tmp_path):
    names = shards
    if used < len(shards):
        numbers = np.array_split(np.arange(COUNT), [2, 3][: used - 1])
        names = [write_tar(tmp_path / f"{n}.tar", members_of(part.tolist())) for n, part in enumerate(numbers)]
    given = read_by_all(lambda: WebDatasetStream(names, classes=CLASSES, shuffle=shuffle), 2, 2)
    assert_all_once(given)
    assert all(given)


def test_ranks_share_the_larger_of_too_few_shards(tmp_path):
    names = [write_tar(tmp_path / f"{n}.tar", members_of(part)) for n, part in enumerate((range(12), range(12, COUNT)))]
    given = read_by_all(lambda: WebDatasetStream(names, classes=CLASSES), 2, 2)
    assert_all_once(given)
    assert [len(part) for part in given] == [8, 7]


class Brightness(torch.nn.Linear):
    """In the place of a detector; notes the images that it sees."""

    def __init__(self):
        super().__init__(1, 1)
        self.seen = []

    def forward(self, images, targets):
        self.seen += ids(zip(images, targets, strict=True))
        return {"loss": super().forward(torch.stack([image.mean() for image in images])[:, None]).sum()}


def train_on_one_rank(rank, shards, share, steps, folder):
    """Two epochs by the loop of the page."""
    names = {}
    exec(next(block for block in code_blocks("docs/data.md") if "def train_epoch" in block), names)
    stream = WebDatasetStream(shards, classes=CLASSES, share=share)
    loader = DataLoader(MixupIterable(stream), batch_size=1, collate_fn=collate)
    model = Brightness()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with rank_of_group(rank, 2, folder):
        parallel = DistributedDataParallel(model)
        weights = []
        for _ in range(2):
            names["train_epoch"](parallel, loader, optimizer, steps)
            weights.append(model.weight.item())
        torch.save((model.seen, weights), f"{folder}/{rank}.pt")


@pytest.mark.parametrize(
    ("share", "wanted"), [("shards", ([0, 1, 2, 3, 5, 6, 7], [4] * 7)), ("samples", (range(0, 14, 2), range(1, 14, 2)))]
)
def test_ranks_that_get_unequally_many_batches_can_train_together(share, wanted, shards, tmp_path):
    arguments = shards, share, COUNT // 2, str(tmp_path)
    torch.multiprocessing.start_processes(train_on_one_rank, arguments, nprocs=2, start_method="forkserver")
    (seen, weights), (others, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (seen, others) == tuple([*each] * 2 for each in wanted)
    assert weights == same


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_samples_can_be_shared_out_evenly(workers, shards):
    given = read_by_all(lambda: WebDatasetStream(shards, classes=CLASSES, share="samples"), 2, workers)
    assert_all_once(given)
    assert [len(part) for part in given] == [8, 7]


@pytest.mark.parametrize("sizes", [(4, 1, 7, 3), (8, 7), (4, 4, 7), (15,)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_two_ranks_with_two_workers_give_every_row_once(sizes, shuffle):
    def make():
        dataset = hub(sizes)
        return HuggingFaceStream(dataset.shuffle(seed=3, buffer_size=4) if shuffle else dataset, box_format="xywh")

    for epoch in (0, 1):
        assert_all_once(read_by_all(make, 2, 2, epoch=epoch))


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_mixing_does_not_share_out_again(kind, shards):
    def make():
        return MixupIterable(make_stream(kind, shards), buffer_size=4)

    assert not make().shard
    assert_all_once(read_by_all(make, 2, 2))
    (sample, *_) = make()
    assert sample[1]["weights"].tolist() == pytest.approx([sample[1]["lam"], 1 - sample[1]["lam"]])


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_the_order_is_a_function_of_seed_and_epoch(kind, shards):
    def order(seed, epoch, workers):
        (found,) = read_by_all(lambda: make_stream(kind, shards, shuffle=4, seed=seed), 1, workers, epoch=epoch)
        return found

    for workers in (0, 2):
        first = order(1, 0, workers)
        assert sorted(first) == list(range(COUNT))
        assert order(1, 0, workers) == first
        assert first != list(range(COUNT))
        assert len({tuple(order(seed, epoch, workers)) for seed, epoch in ((1, 0), (1, 1), (2, 0))}) == 3


def test_readers_shuffle_their_samples_in_orders_of_their_own(tmp_path):
    names = [write_tar(tmp_path / f"{n}.tar", members_of(range(10 * n, 10 * n + 10))) for n in range(2)]
    given = read_by_all(lambda: WebDatasetStream(names, classes=CLASSES, shuffle=10), 2, 0)
    first, second = ([number % 10 for number in part] for part in given)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_shards_are_shuffled_as_wholes_too(tmp_path):
    names = [write_tar(tmp_path / f"{n}.tar", members_of([2 * n, 2 * n + 1])) for n in range(4)]
    stream, orders = WebDatasetStream(names, classes=CLASSES, shuffle=1), set()  # no two samples change places
    for epoch in range(9):
        stream.set_epoch(epoch)
        found = ids(stream)
        assert found == [number for first in found[::2] for number in (first, first + 1)]
        orders.add(tuple(found))
    assert len(orders) > 1


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: MixupIterable(s, buffer_size=2)])
@pytest.mark.parametrize("kind", ["web", "hub"])
def test_running_workers_see_the_epoch(kind, wrap, shards):
    stream = wrap(make_stream(kind, shards, shuffle=4))
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        fresh = make_stream(kind, shards, shuffle=4)
        fresh.set_epoch(epoch)
        assert ids(loader) == ids(DataLoader(fresh, batch_size=None, num_workers=1))


def test_workers_that_are_spawned_know_their_rank(shards):
    def make():
        return WebDatasetStream(shards, classes=CLASSES)

    given = read_by_all(make, 2, 1, method="spawn")
    assert given == read_by_all(make, 2, 0)
    assert_all_once(given)


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_copies_have_epochs_of_their_own(kind, shards):
    stream = make_stream(kind, shards)
    other = pickle.loads(pickle.dumps(stream))
    other.set_epoch(3)
    assert (stream.epoch, other.epoch) == (0, 3)
    other.set_epoch(0)
    assert ids(other) == ids(stream) == list(range(COUNT))


class Count:
    """A transform that hears of the epoch."""

    epoch = -1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self, image, target):
        return image, target | {"epoch": self.epoch}


def test_a_transform_sees_each_sample_and_the_epoch(shards):
    stream = WebDatasetStream(shards, classes=CLASSES, transform=Count())
    stream.set_epoch(5)
    assert [target["epoch"] for _, target in stream] == [5] * COUNT


def test_braces_name_shards(shards):
    assert ids(WebDatasetStream(shards[0].replace("part-0", "part-{0..4}"), classes=CLASSES)) == list(range(COUNT))


def test_the_libraries_are_loaded_when_they_are_needed():
    code = (
        "import sys; sys.modules['webdataset.shardlists'] = sys.modules['datasets'] = None\n"
        "import detmix, detmix.data\n"
        "assert not {'webdataset', 'pyarrow'} & sys.modules.keys()\n"
        "for make in (lambda: detmix.data.WebDatasetStream('a.tar', classes=['a']),\n"
        "             lambda: detmix.data.HuggingFaceStream(None, box_format='xywh')):\n"
        "    try: make()\n"
        "    except ImportError as error: assert 'pip install -e \".[streams]\"' in str(error), error\n"
        "    else: raise AssertionError\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
