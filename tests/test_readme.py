import re

import pytest
import torch

from .conftest import ROOT


def code_blocks(page="README.md"):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def with_fewer_scenes(script, count):
    """The script on so many of its made-up scenes: two steps of four show all that more would."""
    assert f"Shapes({count})" in script
    return script.replace(f"Shapes({count})", "Shapes(8)")


def with_smaller_detector(script):
    """The script with a detector of the same kind, since bfloat16 takes minutes on a CPU that has no units for it."""
    options = "weights_backbone=None, num_classes=4"
    assert options in script
    return script.replace(options, f"{options}, min_size=64, max_size=64, box_batch_size_per_image=16")


def test_the_fourteen_lines_train():
    [script] = [block for block in code_blocks() if "optimizer" in block]
    assert len([line for line in script.splitlines() if line]) == 14
    torch.manual_seed(0)
    names = {}
    exec(with_fewer_scenes(script, 32), names)
    moved = [not torch.equal(a, b) for a, b in zip(names["model"].parameters(), fresh_parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert names["loss"].isfinite()


def fresh_parameters():
    """What the script's model starts from: the same seed, and the same draws before it."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights_backbone=None, num_classes=4
    ).parameters()


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_the_loop_for_a_gpu_trains_on_a_cpu_too():
    [script] = code_blocks("docs/speed.md")
    names = {}
    exec(with_smaller_detector(with_fewer_scenes(script, 16)), names)
    assert names["loss"].isfinite()
    assert names["mixer"].step == 2
    assert {"weights", "sources"} <= set(names["targets"][0])


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\(((?!http)[^)]+)\)", text) + re.findall(r"(?:configs|tools)/\w+\.\w+", text):
        path, _, heading = name.partition("#")
        assert (ROOT / path).exists(), name
        assert not heading or f"# {heading.replace('-', ' ')}\n" in (ROOT / path).read_text().lower(), name
    for name in re.findall(r"`(\w+\.yaml)`", text):
        assert name == "config.yaml" or (ROOT / "configs" / name).exists(), name


def test_no_placeholder_is_left():
    assert not re.search(r"^[A-Z_]+$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
