import locale
import multiprocessing
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from . import hostile
from .browser import NAMES, Browser, find_browser

# read when torch is imported: threads that wait by spinning make the suite several times slower on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# the tests neither read nor fill the folders of the user who runs them
os.environ["DETMIX_CACHE_DIR"] = "off"

# the process from which others are forked by "forkserver" imports these once
multiprocessing.set_forkserver_preload(["detmix.training", "detmix.figures", "tensorboard"])

# what a machine is busy with is no fault of the code; nor does a change fail by examples that others would not have met
settings.register_profile(
    "detmix",
    deadline=None,
    derandomize=os.environ.get("EXAMPLES") != "fresh",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("detmix")


def pytest_configure(config):
    """Leave the caller's surroundings, and keep the way to the terminal, which is captured while tests run.

    What is set for other programs, or by the job that the tests run in, changes neither what is printed nor how it is
    computed. Programs that tests start import this file too, and are to keep what they were given.
    """
    if hasattr(config, "workerinput") and hasattr(os, "sched_setaffinity"):
        take_share_of_cores(int(config.workerinput["workerid"][2:]), config.workerinput["workercount"])
    for name in list(os.environ):
        if name in ("FORCE_COLOR", "COLUMNS", "PL_GLOBAL_SEED") or name.startswith("SLURM_"):
            del os.environ[name]
    locks = tempfile.TemporaryDirectory(prefix="detmix-tests-")  # of Hugging Face's library, which reads it on import
    os.environ["HF_DATASETS_CACHE"] = locks.name
    config.add_cleanup(locks.cleanup)
    hostile.terminal = os.dup(2)  # for what ends all tests


def take_share_of_cores(number, count):
    """One of several processes that share the tests keeps to its cores, with all that it starts.

    Trainings take a thread for each core that they may use: on all of them they would take each other's time. It is
    done before torch is imported, which looks at the cores then.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number::count] or [cores[number % len(cores)]])


ROOT = Path(__file__).resolve().parent.parent
needs_linux = pytest.mark.skipif(
    sys.platform != "linux",
    reason="needs Linux: /proc, /dev/full, files in memory, limits of memory or cores to keep to",
)


@pytest.fixture
def in_repository(monkeypatch):
    """Run a test where the README's commands are typed, whose paths are relative."""
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture
def ascii_locale():
    """Files are opened in ASCII unless told otherwise."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.fixture
def gpu(monkeypatch):
    """The GPU that a test marked ``gpu`` needs; it is skipped where there is none."""
    from .gpu import open_gpu  # with torch, which reads what is set above

    with open_gpu(monkeypatch) as opened:
        yield opened


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium, where one is installed; the run of CI installs it."""
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} runs here (apt-get install chromium)")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@contextmanager
def undrawn_report():
    """Trainings leave a page without pictures: to draw them takes longer than all the steps of a test."""

    def write(folder, data, evaluation, predictions):
        (folder / "report.html").write_text("not drawn")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detmix.training.artifacts.write_run_report", write)
        yield


@pytest.fixture
def no_report():
    """The same for a test."""
    with undrawn_report():
        yield


@pytest.fixture
def run(in_repository, tmp_path, no_report):
    """Call the command line on a tiny version of the quickstart, writing to a folder of the test's own."""
    from .trainings import runs_in  # with torch, which reads what is set above

    return runs_in(tmp_path)


@pytest.fixture
def sweep(in_repository, tmp_path, monkeypatch):
    """Run a sweep of three arms with the stand-in for the trainer; give its folder."""
    from .stand_in import sweeps_in  # as above

    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return sweeps_in(tmp_path)
