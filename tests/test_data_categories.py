"""The classes of COCO files: which categories become labels, and in what order."""

import pytest

from .hostile import ending
from .test_data_coco import content, read, same


def test_class_names_set_the_order_of_the_labels(tmp_path):
    found = read(tmp_path, content(), class_names=("dog", "car"))
    assert (found.class_names, found.category_ids) == (("dog", "car"), (18, 3))
    assert found.labels.tolist() == [2, 1, 2]
    assert read(tmp_path, content(), class_names=("car", "dog")).labels.tolist() == [1, 2, 1]


def test_one_name_is_not_taken_for_a_list_of_letters(tmp_path):
    with pytest.raises(TypeError, match="class_names must be a list of names, got the text 'car'"):
        read(tmp_path, content(), class_names="car")


def test_many_categories_are_read_in_a_moment(tmp_path):
    categories = [{"id": number, "name": str(number)} for number in range(100_000)]
    with ending(120):
        assert len(read(tmp_path, content(categories=categories)).class_names) == 100_000


def test_a_file_may_lack_some_of_the_names_and_their_ids_are_free_in_it(tmp_path):
    names = ("cat", "dog", "owl", "car", "ant")
    data = content(categories=[*content()["categories"], {"id": 1, "name": "animal"}])
    found = read(tmp_path, data, class_names=names)
    assert (found.class_names, found.category_ids) == (names, (2, 18, 4, 3, 5))  # 1 is the animal's
    assert found.labels.tolist() == [4, 2, 4]
    truth = found.ground_truth()
    assert {row["id"]: row["category_id"] for row in truth["annotations"]} == {5: 3, 7: 18, 6: 3}
    assert same(read(tmp_path, truth, class_names=names), found)


def test_categories_without_objects_may_be_left_out(tmp_path):
    data = content(categories=[{"id": 0, "name": "things"}, *content()["categories"]])
    assert read(tmp_path, data).class_names == ("things", "car", "dog")
    found = read(tmp_path, data, class_names=("car", "dog"))
    assert (found.class_names, found.category_ids) == (("car", "dog"), (3, 18))
    assert same(found, read(tmp_path, content()))


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("names", [None, ("car", "dog")])
@pytest.mark.parametrize("number", [0, 50])
def test_of_two_categories_of_one_name_that_with_objects_counts(row, names, number, tmp_path):
    categories = content()["categories"]
    categories.insert(row, {"id": number, "name": "dog"})
    found = read(tmp_path, content(categories=categories), class_names=names)
    assert (found.class_names, found.category_ids) == (("car", "dog"), (3, 18))
    assert same(found, read(tmp_path, content()))
    unused = read(tmp_path, content(categories=categories, annotations=[]), class_names=names)
    assert dict(zip(unused.class_names, unused.category_ids, strict=True)) == {"car": 3, "dog": min(18, number)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("car",), r"it has objects of 'dog', not in class_names$"),
        (("cat", "car"), r"it has objects of 'dog', not in class_names, and no class 'cat', which is$"),
        ((), r"it has objects of 'car', 'dog', not in class_names$"),
        (("car", "car", "dog"), r"class_names must be unique, got 'car' more than once"),
    ],
)
def test_objects_of_other_classes_are_refused_with_the_difference(names, message, tmp_path):
    with pytest.raises(ValueError, match=rf"set\.json: {message}"):
        read(tmp_path, content(), class_names=names)
