"""Mixing as a config asks for it: of samples, of batches by a callback, of features inside the detector."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detmix import MixupBatch, MixupDataset, collate, cutout, weight_losses
from detmix.data import Shapes
from detmix.lookups import read_labels
from detmix.manifold import ManifoldMixup
from detmix.training import (
    DetectionData,
    DetectionModule,
    ManifoldOptions,
    MixBatches,
    MixupOptions,
    ShapesOptions,
    Throughput,
    build_detector,
    cli_main,
)
from detmix.training.callbacks import mixing_of
from detmix.training.logged_values import feature_numbers, mixing_numbers
from detmix.training.mixing import mix_features
from detmix.training.preview import batch_mixer, write_preview

from .test_configs import write_voc
from .trainings import TINY

SCENES = ShapesOptions(train=8, val=2, test=2, size=64, max_objects=2, max_extent=32)


def make_data(**options):
    return DetectionData("shapes", shapes=SCENES, augment=[], batch_size=4, seed=5, **options)


def make_batch(data, count=4):
    return data.on_after_batch_transfer(collate(data.train_set.dataset[index] for index in range(count)), 0)


def assert_same_samples(one, other):
    for (image, target), (wanted, wanted_target) in zip(one, other, strict=True):
        assert torch.equal(image, wanted)
        assert target.keys() == wanted_target.keys()
        for key, value in target.items():
            assert value.equal(wanted_target[key]) if isinstance(value, torch.Tensor) else value == wanted_target[key]


@pytest.fixture
def fit(tmp_path, in_repository, no_report):
    """Train a tiny version of a config in a folder of the test's own."""

    def call(config, *arguments):
        options = ["--runs", str(tmp_path), *TINY, "--trainer.check_val_every_n_epoch=9", *arguments]
        return cli_main(["fit", "--config", f"configs/{config}.yaml", *options])

    return call


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.3, "p": 0.5},
        {"mix": "cutmix", "min_weight": 0.2},
        {"mix": "cutout", "alpha": 1.0},
        {"partner": "other_class"},
        {"partner": "with_boxes", "mix": "cutmix"},
        {"cache": 3},
    ],
    ids=str,
)
def test_the_options_reach_the_data_set(options):
    scenes = Shapes(8, size=64, max_objects=2, max_extent=32, seed=15)  # 3 times the data's seed: the training scenes
    wanted = MixupDataset(scenes, seed=5, **options)
    data = make_data(mixup=MixupOptions(**options))
    assert_same_samples([data.train_set[n] for n in range(8)], [wanted[n] for n in range(8)])


def test_another_seed_of_the_run_mixes_the_same_scenes_otherwise():
    data = make_data(mixup=MixupOptions(), run_seed=3)
    wanted = MixupDataset(Shapes(8, size=64, max_objects=2, max_extent=32, seed=15), seed=5 + 3, alpha=1.5)
    assert_same_samples([data.train_set[n] for n in range(8)], [wanted[n] for n in range(8)])
    other = make_data(mixup=MixupOptions(), run_seed=4)
    assert not torch.equal(other.train_set[0][0], data.train_set[0][0])
    assert_same_samples([other.evaluated_set("val")[0]], [data.evaluated_set("val")[0]])


def test_joined_sources_tell_their_labels_and_find_partners_of_other_classes(tmp_path):
    for folder in ("A", "B"):
        write_voc(tmp_path / folder, ("train", "val"))  # four images each, cat and dog in turn
    (tmp_path / "B" / "ImageSets" / "Main" / "train.txt").write_text("train_1\ntrain_0\ntrain_3\n")
    data = DetectionData(
        "voc",
        root=str(tmp_path),
        train=["A/train", "B/train"],
        val="A/val",
        augment=[],
        mixup=MixupOptions(partner="other_class"),
    )
    found, counts = read_labels(data.train_set.dataset)
    labels = [[label] for label in found.tolist()]
    assert labels == [[1], [2], [1], [2], [2], [1], [2]]
    assert counts.tolist() == [1] * 7
    assert labels == [data.train_set.dataset[index][1]["labels"].tolist() for index in range(7)]
    partners = set()
    for epoch in range(20):
        data.train_set.set_epoch(epoch)
        for index in range(7):
            assert sorted(data.train_set[index][1]["labels"].tolist()) == [1, 2]
            partners.add((labels[index][0], data.train_set.draw(index).partner))
    assert partners == {(1, n) for n in (1, 3, 4, 6)} | {(2, n) for n in (0, 2, 5)}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"mix": "cutout", "partner": "other_class"}, "data.mixup: cutout takes no partner"),
        ({"partner": "background"}, "data.mixup: partner='background' finds no partner for any of 8 samples"),
        ({"p": 2.0}, "data.mixup: p must"),
        ({"cache": -1}, "data.mixup: cache must be 0 or more"),
        ({"cache": 2.5}, "data.mixup: cache must be an integer, got 2.5"),
    ],
)
def test_what_cannot_be_mixed_is_refused_under_the_settings_name(options, wanted):
    with pytest.raises((ValueError, TypeError), match=wanted):
        make_data(mixup=MixupOptions(**options))


def test_features_that_cannot_be_mixed_are_refused_under_the_settings_name():
    with pytest.raises(TypeError, match="model.manifold: alpha must be a number, got 'a'"):
        mix_features(nn.Identity(), ManifoldOptions(alpha="a"))


@pytest.mark.parametrize(
    ("config", "arguments", "wanted"),
    [
        ("quickstart", ["--data.mixup.partner=nobody"], "nobody"),
        (
            "shapes_manifold",
            ["--model.manifold.layers=[backbone.body.layr2]"],
            "model.manifold: the model has no layer",
        ),
        ("shapes_manifold", ["--data.mixup.no_mixup_epochs=4"], "must lie in 0 ... 3"),
        ("shapes_batch", ["--data.mixup.no_mixup_epochs=4"], "must lie in 0 ... 3"),
    ],
)
def test_a_wrong_setting_of_the_mixing_is_named_before_anything_is_written(
    fit, capsys, tmp_path, config, arguments, wanted
):
    with pytest.raises(SystemExit):
        fit(config, *arguments)
    assert wanted in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_partners_that_are_held_are_the_same_again_from_the_start_of_an_epoch_and_said_to_differ_in_its_middle():
    def run(data, *numbers):
        loader, threads = data.train_dataloader(), torch.get_num_threads()
        for epoch in numbers:
            data.start_epoch(epoch, max_epochs=3)
            samples = [sample for batch in loader for sample in zip(*batch, strict=True)]
        data.go_on(1, 0, data.order(), threads)
        return samples

    data = make_data(mixup=MixupOptions(cache=3))
    assert_same_samples(run(data, 0, 1), run(make_data(mixup=MixupOptions(cache=3)), 1))
    with pytest.warns(UserWarning, match=r"within epoch 1, .*\(data.mixup.cache=3\): the rest of this epoch is mixed"):
        data.go_on(1, 1, data.order(), torch.get_num_threads())


def test_the_callback_mixes_a_batch_in_place_as_mixup_batch_does():
    data = make_data()
    settings = {"alpha": 0.7, "p": 0.9, "pairing": "shuffle", "per_sample": True, "min_weight": 0.1}
    callback, mixer = MixBatches(**settings), MixupBatch(seed=5, **settings)
    trainer = SimpleNamespace(datamodule=data, current_epoch=0, max_epochs=4, fast_dev_run=0)
    callback.on_fit_start(trainer, None)
    for _ in range(2):
        batch = make_batch(data)
        wanted = mixer(*make_batch(data))
        callback.on_train_batch_start(trainer, None, batch, 0)
        assert_same_samples(zip(*batch, strict=True), zip(*wanted, strict=True))
    assert any("lam" in target and set(target["sources"].tolist()) == {0, 1} for target in batch[1])


def test_the_callback_goes_on_from_its_state():
    data = make_data()
    trainer = SimpleNamespace(datamodule=data, current_epoch=3)
    first, second, fresh = MixBatches(), MixBatches(), MixBatches()
    for _ in range(3):
        first.on_train_batch_start(trainer, None, make_batch(data), 0)
    second.load_state_dict(first.state_dict())
    batches = []
    for callback in (first, second, fresh):
        batches.append(make_batch(data))
        callback.on_train_batch_start(trainer, None, batches[-1], 0)
    ratios = [[target["lam"] for target in targets] for _, targets in batches]
    assert ratios[0] == ratios[1] != ratios[2]


def test_batches_are_mixed_until_the_last_epochs_and_the_checkpoint_knows_the_step(fit, tmp_path, monkeypatch):
    seen = []

    class Recording(Throughput):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((trainer.current_epoch, [target.get("lam") for target in batch[1]]))

    monkeypatch.setattr("detmix.training.cli.Throughput", Recording)
    fit("shapes_batch", "--trainer.max_epochs=2")
    assert [epoch for epoch, _ in seen] == [0, 0, 1, 1]
    assert all(0 < lam < 1 for _, ratios in seen[:2] for lam in ratios)
    assert all(len(set(ratios)) == 4 for _, ratios in seen[:2])  # per_sample
    assert all(ratios == [None] * 4 for _, ratios in seen[2:])
    logged = [float(row["train/lambda"]) for row in read_rows(tmp_path / "shapes_batch") if row["train/lambda"]]
    assert logged == pytest.approx([np.mean(ratios) for _, ratios in seen[:2]], rel=1e-6)
    state = torch.load(tmp_path / "shapes_batch" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["callbacks"]["MixBatches"]["step"] == 4


def read_rows(folder):
    """The rows of training steps in all CSV files of a run, in their order."""
    rows = []
    for file in sorted(folder.glob("csv/version_*/metrics.csv")):
        with file.open() as lines:
            rows += [row for row in csv.DictReader(lines) if row["train/loss"]]
    return rows


def draws_of_a_mixer(count, **settings):
    """Layer and ratio of the first steps, from a mixer around the same detector."""
    model = weight_losses(build_detector("fasterrcnn_resnet18_small", 4, None)).eval()
    mixer = ManifoldMixup(model, **settings)
    drawn = []
    for _ in range(count):
        with mixer:
            drawn.append((float(mixer.layers.index(mixer.layer)), mixer.lam))
    return drawn


def test_features_are_mixed_until_the_last_epochs_and_a_run_that_goes_on_draws_on(fit, tmp_path):
    def numbers():
        rows = read_rows(tmp_path / "shapes_manifold")
        return [
            tuple(float(row.get(f"train/{name}") or "nan") for name in ("mixed_fraction", "layer", "lambda"))
            for row in rows
        ]

    fit("shapes_manifold", "--trainer.max_epochs=2")
    last = tmp_path / "shapes_manifold" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["manifold"] == {"step": 2}
    layers = ["input", "backbone.body.layer2", "roi"]
    first, second, third, fourth = [(1.0, *draw) for draw in draws_of_a_mixer(4, layers=layers, alpha=2.0)]
    plain = (0.0, np.nan, np.nan)
    assert numbers() == [pytest.approx(row, rel=1e-6, nan_ok=True) for row in (first, second, plain, plain)]
    fit("shapes_manifold", "--trainer.max_epochs=4", f"--ckpt_path={last}")
    rows = (first, second, plain, plain, third, fourth, plain, plain)
    assert numbers() == [pytest.approx(row, rel=1e-6, nan_ok=True) for row in rows]


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("layer", ["input", "roi"])
def test_features_count_as_mixed_where_they_were(layer, mixed):
    mixer = SimpleNamespace(layers=("input", "roi"), layer=layer, lam=0.3, mixed=mixed)
    place = {"input": 0.0, "roi": 1.0}[layer]
    numbers = {"train/mixed_fraction": 1.0, "train/lambda": 0.3, "train/layer": place}
    assert feature_numbers(mixer) == (numbers if mixed else {})
    assert feature_numbers(None) == {}


def test_an_image_with_a_part_cut_out_counts_as_mixed_and_has_no_ratio():
    image, target = Shapes(1)[0]
    _, cut = cutout(image, target, region=(10, 10, 60, 60))
    assert mixing_numbers([target, cut, target, target]) == {"train/mixed_fraction": 0.25}
    assert mixing_numbers([cut, {**target, "lam": 0.25}]) == {"train/mixed_fraction": 1.0, "train/lambda": 0.25}


@pytest.mark.parametrize(
    ("mixup", "callbacks", "manifold", "wanted"),
    [
        (None, [], None, []),
        (MixupOptions(alpha=0), [MixBatches(alpha=0), MixBatches(p=0)], ManifoldOptions(p=0), []),
        (
            MixupOptions(mix="cutmix"),
            [Throughput()],
            None,
            ['data.mixup: {"alpha": 1.5, "p": 1.0, "mix": "cutmix",'],
        ),
        (None, [Throughput(), MixBatches(alpha=0.5)], None, ['MixBatches: {"alpha": 0.5,']),
        (None, [], ManifoldOptions(layers=["backbone.fpn:0,1"]), ['{"layers": ["backbone.fpn:0,1"], "alpha": 2.0,']),
        (MixupOptions(), [MixBatches()], ManifoldOptions(), ["data.mixup: {", "MixBatches: {", "model.manifold: {"]),
    ],
)
def test_a_run_tells_all_that_it_mixes(mixup, callbacks, manifold, wanted):
    found = mixing_of(make_data(mixup=mixup), DetectionModule(manifold=manifold), callbacks)
    assert len(found) == len(wanted)
    assert all(part in text for part, text in zip(wanted, found, strict=True))


@pytest.mark.parametrize(
    ("scenes", "batch_size", "processes", "wanted"),
    [
        (9, 4, 1, [4, 4]),
        (10, 4, 1, [4, 4, 2]),
        (8, 4, 1, [4, 4]),
        (3, 1, 1, [1, 1, 1]),
        (1, 4, 1, [1]),
        (9, 2, 2, [2, 2]),  # five each
        (9, 4, 2, [4]),
        (9, 8, 2, [5]),
        (2, 4, 2, [1]),
    ],
)
def test_a_last_training_batch_of_one_image_is_left_out(scenes, batch_size, processes, wanted):
    shapes = ShapesOptions(train=scenes, val=scenes, size=64, max_extent=32)
    data = DetectionData("shapes", shapes=shapes, batch_size=batch_size)
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=processes, global_rank=0, current_epoch=0, max_epochs=1, strategy=cpu)
    loader, share = data.train_dataloader(), -(-scenes // processes)
    batches = torch.utils.data.BatchSampler(range(share), batch_size, loader.drop_last)
    assert [len(batch) for batch in batches] == wanted
    if processes == 1:
        assert [len(images) for images, _ in loader] == wanted
    assert sum(len(images) for images, _ in data.val_dataloader()) == scenes


def captions_of_preview(monkeypatch, data, folder, mixer=None):
    """Below each picture of samples.png."""
    captions = []

    def image_grid(pictures, captions_below, **_):
        captions.append(captions_below)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("detmix.training.preview.image_grid", image_grid)
    files = write_preview(data, folder, samples=6, mixer=mixer)
    assert [file.name for file in files] == ["samples.png", "lambda.png", "kinds.png"]
    assert all(file.is_file() for file in files)
    return captions[0]


def test_the_preview_shows_batches_as_the_callback_mixes_them(monkeypatch, tmp_path):
    data = make_data()
    trainer = {"max_epochs": 3, "callbacks": [Throughput(), MixBatches(per_sample=True)]}
    mixer, wanted = batch_mixer(data, trainer), MixupBatch(per_sample=True, seed=5)
    ratios = [target["lam"] for start in (0, 4) for target in wanted(*in_order(data, start))[1]]
    captions = captions_of_preview(monkeypatch, data, tmp_path, mixer)
    assert captions == [f"λ = {lam:.2f}" for lam in ratios[:6]]


@pytest.mark.parametrize("callbacks", [None, [MixBatches()]])
def test_the_preview_augments_as_the_training_does(monkeypatch, tmp_path, callbacks):
    data = DetectionData("shapes", shapes=SCENES, batch_size=4)  # half of the images are flipped
    mixer = batch_mixer(data, {"callbacks": callbacks})
    wanted = [image for image, _ in data.seeded_set]
    if mixer is not None:
        wanted = [
            image for start in (0, 4) for image in mixer(*collate(data.seeded_set[start + n] for n in range(4)))[0]
        ]
        mixer.step = 0
    drawn = []
    monkeypatch.setattr("detmix.training.preview.draw_boxes", lambda image, *_, **__: drawn.append(image))
    torch.manual_seed(7)
    captions_of_preview(monkeypatch, data, tmp_path, mixer)
    assert all(map(torch.equal, drawn[:6], wanted))


def test_a_training_split_is_named():
    with pytest.raises(ValueError, match="data.train must have one name or more, got none"):
        DetectionData("coco", train=[])


def in_order(data, start):
    return collate(data.train_set[index] for index in range(start, start + 4))


def test_the_preview_shows_cutout_and_what_is_left_alone(monkeypatch, tmp_path):
    data = make_data(mixup=MixupOptions(mix="cutout", p=0.5))
    drawn = [data.train_set.draw(index) is not None for index in range(6)]
    captions = captions_of_preview(monkeypatch, data, tmp_path)
    assert captions == ["a region cut out" if cut else "not mixed" for cut in drawn]
    assert len(set(drawn)) == 2


def test_the_preview_refuses_callbacks_that_are_to_be_added():
    with pytest.raises(ValueError, match="name all callbacks with --trainer.callbacks"):
        batch_mixer(make_data(), {"callbacks": [Throughput()], "callbacks+": "detmix.training.MixBatches"})


def test_the_preview_refuses_callbacks_that_are_none():
    assert batch_mixer(make_data(), None) is None
    assert batch_mixer(make_data(), {"callbacks": Throughput()}) is None
    with pytest.raises(ValueError, match="trainer.callbacks must be callbacks .*alhpa"):
        batch_mixer(
            make_data(), {"callbacks": [{"class_path": "detmix.training.MixBatches", "init_args": {"alhpa": 1}}]}
        )
