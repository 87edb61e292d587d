import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detmix.detectors.matching import Matched, Objects

MATCHES = st.integers(-2, 4)  # ignored, background, or an object by its number, modulo how many there are
MOSTLY = st.sampled_from([True, True, True, False])


@st.composite
def batches(draw):
    """Targets of one to four images with up to five objects of up to three sources, and what the rows of each match."""
    targets, rows = [], []
    for _ in range(draw(st.integers(1, 4))):
        sources = draw(st.lists(st.sampled_from([0, 1, 5]), max_size=5))
        count = len(sources)
        target = {"boxes": torch.rand(count, 4), "labels": torch.tensor(draw(st.permutations(range(1, 6)))[:count])}
        if draw(MOSTLY):
            target["sources"] = torch.tensor(sources, dtype=torch.int64)
        if draw(MOSTLY):
            weights = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=count, max_size=count))
            target["weights"] = torch.tensor(weights)
        targets.append(target)
        rows.append([draw(st.lists(MATCHES, min_size=3, max_size=3)) for _ in range(draw(st.integers(0, 4)))])
    return targets, rows


def groups_by_hand(target, objective):
    """Of each group the numbers of its objects in the target."""
    everything = list(range(len(target["boxes"])))
    if objective == "weighted" or "sources" not in target or not everything:
        return [everything]
    sources = target["sources"].tolist()
    return [[number for number in everything if sources[number] == source] for source in sorted(set(sources))]


def learned_by_hand(target, groups, match, objective):
    """What a row that matches this in each group is to learn: {object: share}, background, whether it is ignored."""
    weights = target.get("weights", torch.ones(len(target["boxes"]))).tolist()
    shares, hidden = {}, 0.0
    for group, found in zip(groups, match, strict=False):
        if found >= 0:
            shares[group[found]] = weights[group[found]]
        elif found == -2:
            hidden += max((weights[number] for number in group), default=0.0)
    ignored = all(found == -2 for found in match)
    if objective == "weighted":
        return shares, float(match[0] == -1), ignored
    taken = sum(shares.values()) + hidden
    return {n: share / max(taken, 1.0) for n, share in shares.items()}, max(0.0, 1.0 - taken), ignored


@given(batches(), st.sampled_from(["pair", "pair", "weighted"]))
def test_rows_learn_what_they_match_in_each_group_of_their_image(batch, objective):
    targets, rows = batch
    groups = [groups_by_hand(target, objective) for target in targets]
    matches = [
        [[m % len(g) if m >= 0 and g else min(m, -1) for m, g in zip(row, parts, strict=False)] for row in image]
        for image, parts in zip(rows, groups, strict=True)
    ]
    objects = Objects(targets, objective)
    assert objects.counts == [[len(group) for group in parts] for parts in groups]
    for group, (image, numbers) in zip(
        objects.groups, ((i, numbers) for i, parts in enumerate(groups) for numbers in parts), strict=True
    ):
        assert torch.equal(group["boxes"], targets[image]["boxes"][numbers])
        assert torch.equal(group["labels"], targets[image]["labels"][numbers])
    by_group = [
        torch.tensor([match[number] for match in image], dtype=torch.int64)
        for image, parts in zip(matches, groups, strict=True)
        for number in range(len(parts))
    ]
    matched = Matched(objects, by_group)
    learned, offset, row = matched.targets(), 0, 0
    for image, (target, parts, own) in enumerate(zip(targets, groups, matches, strict=True)):
        expected = [learned_by_hand(target, parts, match, objective) for match in own]
        sampled = [1 if shares else -1 if ignored else 0 for shares, _, ignored in expected]
        assert matched.matches()[image].tolist() == sampled
        for shares, background, ignored in expected:
            columns = zip(*(column[:, row].tolist() for column in learned[:3]), strict=True)
            found = {number - offset: (label, share) for number, label, share in columns if number >= 0}
            labels = target["labels"].tolist()
            assert {number: label for number, (label, _) in found.items()} == {n: labels[n] for n in shares}
            assert {number: share for number, (_, share) in found.items()} == pytest.approx(shares)
            assert float(learned.background[row]) == pytest.approx(background)
            assert bool(learned.ignored[row]) == ignored
            row += 1
        offset += len(target["boxes"])
    some = torch.randperm(row)[: row // 2]
    for column, picked in zip(learned.at(some), matched.targets(some), strict=True):
        assert torch.equal(column, picked)


def test_the_default_device_of_torch_does_not_matter():
    target = {"boxes": torch.rand(2, 4), "labels": torch.tensor([1, 2]), "sources": torch.tensor([0, 1])}
    found = [torch.tensor([0, -1]), torch.tensor([-1, 0])]
    with torch.device("meta"):
        rows = Matched(Objects([target], "pair"), found).targets()
    assert rows.labels.tolist() == [[1, 0], [0, 2]]
