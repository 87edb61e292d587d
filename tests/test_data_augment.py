import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detmix.data import Augment

from .factories import make_sample


def tied_sample(seed):
    """A sample whose weight, source and own key tell which box they belong to."""
    image, target = make_sample(6, seed=seed, dtype=torch.float32)
    rows = torch.arange(6)
    return image, target | {"weights": (rows + 1) / 10, "sources": rows % 2, "mine": rows}


@pytest.mark.parametrize("seed", range(8))
def test_keys_stay_with_their_boxes_through_flip_and_crop(seed):
    torch.manual_seed(seed)
    image, target = tied_sample(seed)
    cropped, result = Augment([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(p=1.0)])(image, target)
    rows = result["mine"]
    assert torch.equal(result["weights"], target["weights"][rows])
    assert torch.equal(result["sources"], target["sources"][rows])
    assert torch.equal(result["labels"], target["labels"][rows])
    assert len(result["boxes"]) == len(rows)
    assert not any(isinstance(value, tv_tensors.TVTensor) for value in (cropped, *result.values()))


def test_without_transforms_a_sample_stays_as_it_is():
    image, target = tied_sample(0)
    same, result = Augment([])(image, target)
    assert torch.equal(same, image)
    assert all(torch.equal(torch.as_tensor(result[key]), torch.as_tensor(target[key])) for key in target)


def test_the_default_flips_half_of_the_time_and_boxes_with_the_image():
    torch.manual_seed(0)
    augment, (image, target) = Augment(), tied_sample(0)
    flips = 0
    for _ in range(200):
        result, labelled = augment(image, target)
        if torch.equal(result, image.flip(-1)):
            flips += 1
            x1, y1, x2, y2 = target["boxes"].T
            torch.testing.assert_close(labelled["boxes"], torch.stack([64 - x2, y1, 64 - x1, y2], 1))
        else:
            assert torch.equal(result, image)
    assert 65 <= flips <= 135  # five standard deviations about 100


def test_keypoints_are_refused_since_v2_would_leave_them_behind():
    image, target = tied_sample(0)
    with pytest.raises(ValueError, match="do not move keypoints"):
        Augment()(image, target | {"keypoints": torch.zeros(6, 1, 3)})
