import numpy as np
import pytest
import torch
from PIL import Image

from detmix.memory import Held, available_memory

GB = 10**9


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def group(folder, limit, usage, cached=0):
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


MEMINFO = {"proc/meminfo": "MemTotal: 16000000 kB\nMemFree: 1000000 kB\nMemAvailable: 8000000 kB\n"}
SECOND = {"proc/self/cgroup": "0::/user/job\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MEMINFO, 8_192_000_000),
        (MEMINFO | SECOND | group("sys/fs/cgroup/user/job", 3 * GB, 2 * GB), GB),
        (MEMINFO | SECOND | group("sys/fs/cgroup/user/job", 3 * GB, 2 * GB, cached=GB), 2 * GB),
        (MEMINFO | SECOND | group("sys/fs/cgroup/user/job", "max", 2 * GB), 8_192_000_000),
        (
            MEMINFO | SECOND | group("sys/fs/cgroup/user/job", "max", GB) | group("sys/fs/cgroup/user", 5 * GB, 2 * GB),
            3 * GB,
        ),
        (MEMINFO | {"proc/self/cgroup": "0::/\n"} | group("sys/fs/cgroup", 2 * GB, GB), GB),
        (MEMINFO | SECOND | group("sys/fs/cgroup/user/job", GB, 2 * GB), 0),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "4:cpu,memory:/job\n3:pids:/job\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * GB}",
                "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {GB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
                "sys/fs/cgroup/memory/memory.stat": "",
            },
            3 * GB,
        ),
    ],
)
def test_the_least_that_machine_and_control_groups_leave_is_available(files, expected, tmp_path):
    write(tmp_path, files)
    assert available_memory(tmp_path) == expected


def test_this_machine_has_memory():
    available = available_memory()
    assert available is None or 10**6 < available < 10**14


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (torch.zeros(3, 4, 5, dtype=torch.uint8), 60),
        (torch.zeros(3, 4, 5)[:, :2, :2], 240),
        (np.zeros((4, 5, 3), np.uint8), 60),
        (np.zeros((4, 5, 3), np.uint8)[1:], 60),
        (Image.new("RGB", (5, 4)), 60),
        ((torch.zeros(2), {"boxes": torch.zeros(1, 4), "image_id": 7, "name": "cat"}), 24),
        (torch.zeros(10)[:2].numpy()[1:], 40),
        ([torch.zeros(10)] * 2, 40),
        (None, 0),
    ],
)
def test_bytes_are_those_that_stay_in_memory(sample, expected):
    held = Held()
    assert held.add(0, sample) == held.nbytes == expected
    held.remove(0)
    assert held.nbytes == 0


def test_parts_of_one_memory_that_begin_together_leave_as_they_came():
    held, memory = Held(), bytes(100)
    assert [held.add(key, np.frombuffer(memory, np.uint8, count)) for key, count in enumerate((10, 100))] == [10, 100]
    held.remove(0)
    assert held.nbytes == 100
    held.remove(1)
    assert held.nbytes == 0


def test_what_samples_share_is_counted_once_and_until_the_last_of_them_goes():
    held, images = Held(), torch.zeros(5, 10)
    assert [held.add(i, (images[i], {"boxes": torch.zeros(4)})) for i in range(3)] == [216, 16, 16]
    assert held.add(3, images.numpy()[3:]) == 0
    for key, left in ((0, 232), (1, 216), (2, 200), (3, 0)):
        held.remove(key)
        assert held.nbytes == left
