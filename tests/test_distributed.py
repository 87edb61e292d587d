"""Several processes that train together: their gradients, and what each of them draws."""

import itertools

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler
from torchvision.models.detection._utils import Matcher

from detmix import ManifoldMixup, MixupBatch, MixupDataset, MixupIterable, weight_losses
from detmix.detectors.rows import mix_rows
from detmix.draws import MANIFOLD, generator_at

from .factories import FAMILIES, make_assembled, make_boxes, make_parts, make_sample
from .processes import rank_of_group
from .test_detectors import relative
from .test_stream import numbered, process_group

RANKS = 2
COUNTS = (2, 3)  # objects of the two images of each rank
WEIGHTS, SOURCES = ((0.9, 0.3), (0.4, 1.0, 0.7)), ((0, 1), (0, 0, 1))
TWO_STAGE = ("FasterRCNN", "MaskRCNN", "KeypointRCNN")
UNMIXED = ("nowhere", "unequal")
NORMALIZERS = ("count", "weight")
ROUNDING = 1e-4  # of gradients: sums of float32 have another order with other threads and on other processors
UNEQUAL = ((1, 1), (2, 3))  # the same, rank by rank
MIXED = ("batch", "input", "backbone.1")


def cases():
    """Family, objective (none is plain torchvision), normalizer, and where the images are mixed."""
    found = [(family, None, "count", "nowhere") for family in FAMILIES]
    for family, objective in itertools.product(FAMILIES, ("weighted", "pair", "unweighted")):
        weighted = objective != "unweighted"
        roi = ["roi"] if family in TWO_STAGE and weighted else []
        found += [(family, objective, normalizer, "nowhere") for normalizer in ("count", "weight")[: 1 + weighted]]
        found += [(family, objective, "count", where) for where in (*MIXED, *roi)]
    return found


UNEQUAL_CASES = [(family, "weighted", "count", "unequal") for family in FAMILIES]


class FirstRows:
    """A sampler without chance: the first half objects, as far as there are any, and then background."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, labels):
        objects = [(row >= 1) & (row.ge(1).cumsum(0) <= self.rows // 2) for row in labels]
        others = [row == 0 for row in labels]
        pairs = zip(others, objects, strict=True)
        return objects, [other & (other.cumsum(0) <= self.rows - chosen.sum()) for other, chosen in pairs]


def make_model(family, objective, normalizer="count"):
    """A detector in which nothing is left to chance, and no image changes what another one gives."""
    model = make_assembled(family)
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.BatchNorm2d)):
            module.eval()  # as torchvision's frozen batch norm
    if family in TWO_STAGE:
        model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler = FirstRows(64), FirstRows(24)
        model.roi_heads.proposal_matcher = Matcher(0.99, 0.99)  # the objects themselves, whatever is proposed
    return model if objective is None else weight_losses(model, objective, normalizer)


def images_of(rank, counts=COUNTS, *, weighted=True):
    """Two images: every rank has the same boxes and visible keypoints, and other pixels, labels and masks."""
    images, targets = [], []
    for place, count in enumerate(counts):
        images.append(make_sample(0, seed=10 * rank + place, dtype=torch.float32)[0])
        rng = np.random.default_rng(10 * rank + place)
        boxes, labels = make_boxes(count, (48, 64), np.random.default_rng(place)), rng.integers(1, 4, count)
        keypoints = make_parts(boxes, seed=place)["keypoints"]
        masks = make_parts(boxes, seed=10 * rank + place)["masks"]
        target = {"boxes": boxes, "labels": torch.from_numpy(labels), "masks": masks, "keypoints": keypoints}
        if weighted:
            target |= {"weights": torch.tensor(WEIGHTS[place][:count]), "sources": torch.tensor(SOURCES[place][:count])}
        targets.append(target)
    return images, targets


def gradients_of(model, losses):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(losses, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


def train_all_cases(rank):
    """One step of each case, under DistributedDataParallel."""
    found = {}
    for case in cases() + UNEQUAL_CASES:
        family, objective, normalizer, where = case
        model = make_model(family, objective, normalizer)
        parallel = DistributedDataParallel(model)
        images, targets = images_of(rank, UNEQUAL[rank] if where == "unequal" else COUNTS, weighted=where in UNMIXED)
        if where == "batch":
            images, targets = MixupBatch(seed=3)(images, targets)
        if where in (*UNMIXED, "batch"):
            losses = parallel(images, targets)
        else:
            with ManifoldMixup(model, [where], seed=3):
                losses = parallel(images, targets)
        sum(losses.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        found[case] = gradient, {name: loss.detach() for name, loss in losses.items()}
    return found


def train_on_one_rank(rank, folder):
    with rank_of_group(rank, RANKS, folder):
        torch.save(train_all_cases(rank), f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found, case by case."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(train_on_one_rank, (str(folder),), nprocs=RANKS, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def joined(parts):
    """The batches of all ranks as one."""
    return tuple([row for part in parts for row in part[column]] for column in range(2))


def mixed_batch(rank):
    with process_group(rank, RANKS):
        return MixupBatch(seed=3)(*images_of(rank, weighted=False))


def drawn_by(rank, mixer):
    """The ratio of a mixer's next step in one of the processes."""
    with process_group(rank, RANKS), pytest.raises(KeyError), mixer:
        raise KeyError
    return mixer.lam


def mixed_losses(model, where, batch):
    """Losses of the joined batch, each rank's part mixed as the rank did it, by hand."""
    lams = [drawn_by(rank, ManifoldMixup(model, [where], seed=3)) for rank in range(RANKS)]
    lam = torch.tensor(lams).repeat_interleave(len(COUNTS))
    partners = torch.arange(len(lam)).unflatten(0, (RANKS, -1)).roll(1, 1).flatten()

    def mix(values, rows=partners, share=lam):
        share = share.reshape(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values[rows]

    def after_transform(module, arguments, output):
        images, targets = output
        images.tensors = mix(images.tensors) if where == "input" else images.tensors
        return images, [join(targets[i], targets[j], share) for i, j, share in zip(*pairs, lam, strict=True)]

    def mix_rows_of_heads(features, rows, own):
        count = len(features) // RANKS
        orders = [generator_at(3, rank, 0, MANIFOLD + 1).permutation(count) + rank * count for rank in range(RANKS)]
        order, share = torch.from_numpy(np.concatenate(orders)), torch.tensor(lams).repeat_interleave(count)
        proposals = torch.stack([own, own[order]]).repeat_interleave(len(rows.objects), dim=0)
        return mix(features, order, share), mix_rows(rows, order, share), proposals

    pairs = range(len(lam)), partners.tolist()
    if where == "roi":
        model.roi_heads.row_mixer = mix_rows_of_heads
        return model(batch[0], [{**target, "weights": torch.ones(len(target["boxes"]))} for target in batch[1]])
    handles = [model.transform.register_forward_hook(after_transform)]
    if where != "input":
        handles.append(model.get_submodule(where).register_forward_hook(lambda module, given, out: mix(out)))
    losses = model(*batch)
    for handle in handles:
        handle.remove()
    return losses


def join(first, second, lam):
    target = {key: torch.cat([first[key], second[key]]) for key in first}
    counts = torch.tensor([len(first["boxes"]), len(second["boxes"])])
    shares, sources = torch.stack([lam, 1 - lam]), torch.arange(2)
    return {**target, "weights": shares.repeat_interleave(counts), "sources": sources.repeat_interleave(counts)}


@pytest.mark.parametrize("case", cases(), ids=str)
def test_two_processes_give_the_gradients_of_one_on_the_joined_batch(case, ranks):
    family, objective, normalizer, where = case
    model = make_model(family, objective, normalizer)
    if where == "nowhere":
        losses = model(*joined([images_of(rank) for rank in range(RANKS)]))
    elif where == "batch":
        losses = model(*joined([mixed_batch(rank) for rank in range(RANKS)]))
    else:
        losses = mixed_losses(model, where, joined([images_of(rank, weighted=False) for rank in range(RANKS)]))
    expected = gradients_of(model, sum(losses.values()))
    (first, first_losses), (second, second_losses) = (found[case] for found in ranks)
    assert torch.equal(first, second)
    assert relative(first - expected, of=expected) <= ROUNDING
    means = {name: (first_losses[name] + second_losses[name]) / 2 for name in losses}
    torch.testing.assert_close(means, {name: loss.detach() for name, loss in losses.items()}, rtol=1e-5, atol=1e-6)
    assert first_losses != second_losses


def gradients_by_term(case, batch):
    model = make_model(*case)
    return {name: gradients_of(model, loss) for name, loss in model(*batch).items()}


def share_of_first(case, parts):
    """For each term, how much of the joined batch's gradient is the first part's; the second's share is the rest."""
    first, second, both = (gradients_by_term(case, batch) for batch in (*parts, joined(parts)))
    shares = {}
    for name in both:
        apart = first[name] - second[name]
        shares[name] = float((both[name] - second[name]) @ apart / (apart @ apart))
        mean = shares[name] * first[name] + (1 - shares[name]) * second[name]
        assert relative(mean - both[name], of=both[name]) <= ROUNDING, name
    return shares


def denominators(targets, family, normalizer):
    """What the terms that torchvision divides by objects are divided by, where that can be told without matching."""
    weights = torch.cat([target["weights"] for target in targets])
    weights = weights if normalizer == "weight" else torch.ones_like(weights)
    if family == "KeypointRCNN":
        weights = weights[:, None] * (torch.cat([target["keypoints"] for target in targets])[..., 2] > 0)
    return float(weights.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_unequally_many_objects_count_as_in_torchvision_whose_denominators_are_each_processs_own(family, ranks):
    parts = [images_of(rank, UNEQUAL[rank]) for rank in range(RANKS)]
    plain = share_of_first((family, None), parts)
    for objective, normalizer in itertools.product(("weighted", "pair"), NORMALIZERS):
        shares = share_of_first((family, objective, normalizer), parts)
        if normalizer == "count":
            assert shares == pytest.approx(plain, abs=1e-4)
        for name, share in shares.items():
            if family == "RetinaNet" or (family in TWO_STAGE and not name.endswith(("mask", "keypoint"))):
                # by image, or by rows: only "weighted" rows have unequal weights
                rows_differ = family != "RetinaNet" and (objective, normalizer) == ("weighted", "weight")
                assert (share == pytest.approx(0.5, abs=1e-4)) != rows_differ, name
            elif family != "FCOS":
                first, second = (denominators(targets, family, normalizer) for _, targets in parts)
                assert share == pytest.approx(first / (first + second), abs=1e-4), name
            else:
                assert share < 0.1  # large objects hold many points
    case = (family, "weighted", "count", "unequal")
    own = [sum(gradients_by_term(case[:3], part).values()) for part in parts]
    for found in ranks:
        assert relative(found[case][0] - sum(own) / RANKS, of=found[case][0]) <= ROUNDING


def test_no_two_processes_draw_the_same_mixing_of_their_images():
    """Each kind of mixer is set up alike in eight processes, as a script does."""
    model = make_model("FasterRCNN", "weighted")
    images, targets = images_of(0, weighted=False)
    targets = [{**target, "image_id": place} for place, target in enumerate(targets)]
    drawn = {"dataset": [], "iterable": [], "batch": [], "collate": [], "manifold": []}
    for rank in range(8):
        with process_group(rank, 8):
            dataset, stream = MixupDataset(numbered(64)), MixupIterable(numbered(64))
            batch, manifold = MixupBatch(), ManifoldMixup(model.eval())
            drawn["dataset"] += [dataset[index][1]["lam"] for index in DistributedSampler(dataset)]
            drawn["iterable"] += [target["lam"] for _, target in stream]
            samples = [numbered(64)[index] for index in DistributedSampler(dataset)]
            for place in range(0, len(samples), 2):
                drawn["batch"] += [batch(images, targets)[1][0]["lam"]]
                drawn["collate"] += [batch.collate(samples[place : place + 2])[1][0]["lam"]]
                with manifold:
                    drawn["manifold"] += [manifold.lam]
    for name, lams in drawn.items():
        assert len(lams) in (32, 64), name
        assert len(set(lams)) == len(lams), name
