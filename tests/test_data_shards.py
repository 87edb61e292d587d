import json
import os
import tarfile

import pytest
import torch

from detmix.data import DetectionDataset, WebDatasetStream, read_coco, write_shards

from .factories import write_coco_folder
from .hostile import ending

pytest.importorskip("webdataset")


def members_of(shard):
    with tarfile.open(shard) as members:
        return members.getnames()


@pytest.mark.parametrize(("per_shard", "sizes"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_shards_hold_every_sample_as_the_data_set_gives_it(per_shard, sizes, tmp_path):
    found = write_coco_folder(tmp_path / "coco", 7)
    shards = write_shards(found, tmp_path / "shards" / "train", samples_per_shard=per_shard)
    assert [shard.name for shard in shards] == [f"train-{n:06d}.tar" for n in range(len(sizes))]
    assert sorted(shards[0].parent.iterdir()) == shards
    assert [len(members_of(shard)) // 2 for shard in shards] == sizes
    dataset = DetectionDataset(found)
    samples = list(WebDatasetStream(shards, classes=found.class_names))
    assert len(samples) == len(dataset)
    for (image, target), (expected, expected_target) in zip(samples, dataset, strict=True):
        assert torch.equal(image, expected)
        assert target.keys() == expected_target.keys()
        for key, value in expected_target.items():
            assert torch.equal(torch.as_tensor(target[key]), torch.as_tensor(value)), key


@pytest.mark.parametrize("name", ["1.JFIF", "1.gif", "1.ppm", "1.mpo", "1.webp", "1", "scan.v2"])
def test_an_image_of_any_name_is_read_back(name, tmp_path):
    write_coco_folder(tmp_path, 2)
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / name)
    file = tmp_path / "set.json"
    file.write_text(file.read_text().replace("1.png", name))
    found = read_coco(file, tmp_path / "images")
    shards = write_shards(found, tmp_path / "out")
    assert all(member == member.lower() for member in members_of(shards[0]))
    samples = WebDatasetStream(shards, classes=found.class_names)
    for (image, target), (expected, _) in zip(samples, DetectionDataset(found), strict=True):
        assert torch.equal(image, expected), target


def test_the_layout_of_a_sample(tmp_path):
    found = write_coco_folder(tmp_path / "coco", 3)
    (shard,) = write_shards(found, tmp_path / "out")
    with tarfile.open(shard) as members:
        assert members.getnames()[2:4] == ["000000001.png", "000000001.json"]
        content = json.load(members.extractfile("000000001.json"))
        assert members.extractfile("000000001.png").read() == found.image_path(1).read_bytes()
    truth = [row for row in found.ground_truth()["annotations"] if row["image_id"] == content["image_id"]]
    assert content["objects"]["bbox"] == [row["bbox"] for row in truth]
    assert content["objects"]["iscrowd"] == [row["iscrowd"] for row in truth]
    assert content["file_name"] == found.file_name(1)


def test_the_same_data_gives_the_same_bytes(tmp_path):
    found = write_coco_folder(tmp_path / "coco", 4)
    first, second = (write_shards(found, tmp_path / name / "set", samples_per_shard=3) for name in ("a", "b"))
    assert [shard.read_bytes() for shard in first] == [shard.read_bytes() for shard in second]


def test_nothing_is_left_of_shards_that_could_not_be_finished(tmp_path):
    found = write_coco_folder(tmp_path / "coco", 4)
    found.image_path(3).unlink()
    with pytest.raises(FileNotFoundError, match=found.file_name(3)):
        write_shards(found, tmp_path / "out", samples_per_shard=1)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    found = write_coco_folder(tmp_path / "coco", 2)
    found.image_path(1).unlink()
    os.mkfifo(found.image_path(1))
    with ending(60), pytest.raises(ValueError, match=rf"{found.file_name(1)}: not a file, but a folder, a pipe"):
        write_shards(found, tmp_path / "out")


def test_the_folder_may_be_this_one_or_a_link_to_one(tmp_path, monkeypatch):
    found = write_coco_folder(tmp_path / "coco", 2)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path / "here")
    assert [shard.name for shard in write_shards(found, ".")] == ["here-000000.tar"]
    assert write_shards(found, tmp_path / "link") == [tmp_path / "there" / "there-000000.tar"]
    assert (tmp_path / "here" / "here-000000.tar").is_file()


def test_shards_are_not_mixed_with_others(tmp_path):
    found = write_coco_folder(tmp_path / "coco", 2)
    (tmp_path / "out").mkdir()
    write_shards(found, tmp_path / "out")
    with pytest.raises(FileExistsError, match="out: shards go to a folder that is new or empty"):
        write_shards(found, tmp_path / "out")
    with pytest.raises(ValueError, match="samples_per_shard must be 1 or more, got 0"):
        write_shards(found, tmp_path / "other", samples_per_shard=0)
    with pytest.raises(TypeError, match="samples_per_shard must be an integer, got 2.5"):
        write_shards(found, tmp_path / "other", samples_per_shard=2.5)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file"):
        write_shards(found, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
