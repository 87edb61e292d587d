from detmix import collate

from .factories import make_sample


def test_collate_keeps_images_of_unequal_size_and_their_targets_in_order():
    samples = [make_sample(count, seed=count, size=(16 + count, 20)) for count in (2, 0, 1)]
    images, targets = collate(samples)
    assert [id(image) for image in images] == [id(image) for image, _ in samples]
    assert [id(target) for target in targets] == [id(target) for _, target in samples]
    assert collate([]) == ([], [])
