"""What is left on disk, and what is said, when a training meets a fault, in a process of its own."""

import ast
import itertools
import multiprocessing
import os
import re
import resource
import secrets
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from detmix.files import NotWritten
from detmix.training.checkpoints import CheckpointFiles, read_checkpoint, save_whole
from detmix.training.faults import FiniteLoss
from detmix.training.files import read_history
from detmix.training.loader import TrainingLoader
from detmix.training.resume import say
from detmix.training.signals import StopRequests
from detmix.training.skipped import SkippedImages

from .hostile import compress
from .processes import run_apart
from .test_configs import write_coco
from .test_training_resume import callback, differences, outcome, train

ONE_EPOCH = "--trainer.max_epochs=1"


class Does(L.Callback):
    """Does one thing after a step."""

    def __init__(self, what: str, step: int) -> None:
        self.what, self.step = what, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            globals()[self.what](trainer)


def ask_for_memory(trainer):
    """More than a process can address: no allocator has it, whatever the system promises."""
    torch.empty(1 << 50, dtype=torch.uint8, device=trainer.strategy.root_device)


def kill_worker(trainer):
    multiprocessing.active_children()[0].kill()


def kill_in_the_next_write(trainer):
    def write_half(checkpoint, file):
        file.write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_half


def fill_disk(trainer):
    """The next checkpoint gets to a device that is always full."""
    folder = Path(trainer.default_root_dir) / "checkpoints"
    (folder / ".next.ckpt.full.tmp").symlink_to("/dev/full")
    secrets.token_hex = lambda count: "full"


def fill_events(trainer):
    """What goes to TensorBoard gets to a device that is always full."""
    [events] = (Path(trainer.default_root_dir) / "tensorboard" / "version_0").glob("events*")
    events.unlink()
    events.symlink_to("/dev/full")


def limit_files(trainer):
    """Of the next checkpoint one megabyte can be written, and no more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def break_parameter(trainer):
    with torch.no_grad():
        next(trainer.lightning_module.detector.parameters())[0] = float("nan")


class Breaks(L.Callback):
    """Overwrites a file after the first epoch, as a failing disk may."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_epoch_end(self, trainer, pl_module):
        self.file.write_bytes(self.file.read_bytes()[:200])


def does(what, step):
    return callback("tests.test_training_faults.Does", what=what, step=step)


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """The folder of a run that was interrupted after three steps."""
    folder = tmp_path_factory.mktemp("runs")
    fail(folder, does("ask_for_memory", 3), ONE_EPOCH)
    return folder / "run"


def fail(folder, *arguments):
    """Train in a process of its own, which fails; what it said."""
    output = folder / "said.txt"
    assert run_apart(train, folder, *arguments, output=output) == 1, output.read_text()
    return output.read_text()


def require_way_on(folder, text, *steps):
    """The last checkpoint, of one of the steps, is whole and of numbers; nothing half-written is there; and the text
    says how to go on."""
    folder = folder / "run" / "checkpoints"
    checkpoint = read_checkpoint(folder / "last.ckpt")
    step = checkpoint["global_step"]
    assert step in steps
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert {path.name for path in folder.iterdir()} <= {"last.ckpt", "best.ckpt"}
    assert f"{folder / 'last.ckpt'} holds the run up to step {step}. Go on from there with\n  python tools/" in text
    assert text.rstrip().endswith("--resume")


FULL = r"next\.ckpt: could not be written, \d+ MiB are free there: "


@pytest.mark.parametrize(
    ("what", "step", "error", "said"),
    [
        ("ask_for_memory", 3, "RuntimeError: ", "lower --data.batch_size"),
        ("fill_disk", 3, "NotWritten: ", FULL),
        ("limit_files", 3, "NotWritten: ", FULL),
        ("break_parameter", 4, "FloatingPointError: ", "no checkpoint is written of them"),
    ],
)
def test_a_fault_leaves_the_last_checkpoint_and_the_command_that_goes_on(tmp_path, what, step, error, said):
    text = fail(tmp_path, does(what, step), ONE_EPOCH)
    assert error in text
    assert re.search(said, text)
    require_way_on(tmp_path, text, 2)


def test_a_disk_that_is_full_for_a_logger_is_named_and_how_to_go_on_is_said(tmp_path):
    text = fail(tmp_path, does("fill_events", 3), ONE_EPOCH)
    said = r"\S*NotWritten: \S*tensorboard/version_0: could not be written, \d+ MiB are free there: "
    assert re.search(said, text)
    # TensorBoard's own thread prints what it met whenever it gets to it, before that or after it
    assert re.search(
        r"last\.ckpt holds the run up to step 2\. Go on from there with\n  python tools/.* --resume\n", text
    )


def test_weights_that_do_not_fit_on_the_disk_are_named(tmp_path, monkeypatch):
    (tmp_path / ".model.pt.full.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "full")
    with pytest.raises(NotWritten, match=r"model\.pt: could not be written, \d+ MiB are free there: "):
        save_whole(tmp_path / "model.pt", {"weight": torch.zeros(1 << 18)})
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_leaves_them_after_the_batches_that_it_had_sent(tmp_path):
    longer = "--data.shapes.train=41"  # steps enough that those batches are not all
    text = fail(tmp_path, does("kill_worker", 3), ONE_EPOCH, "--data.num_workers=1", longer)
    assert "RuntimeError: " in text
    assert "lower --data.num_workers" in text
    require_way_on(tmp_path, text, 2, 4, 6)


def test_what_a_kill_within_a_write_has_left_is_removed_when_the_run_goes_on(tmp_path, in_repository):
    output = tmp_path / "said.txt"
    code = run_apart(train, tmp_path, does("kill_in_the_next_write", 3), ONE_EPOCH, output=output)
    assert code == -signal.SIGKILL, output.read_text()
    run = tmp_path / "run"
    [left] = run.rglob(".*")
    assert left.parent == run / "checkpoints"
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    train(tmp_path, "--resume", ONE_EPOCH)
    assert not list(run.rglob(".*"))
    assert {path.name for path in left.parent.iterdir()} == {"last.ckpt", "best.ckpt"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_out_of_memory_on_a_gpu_leaves_them_too(tmp_path):
    text = fail(tmp_path, does("ask_for_memory", 3), ONE_EPOCH, "--trainer.accelerator=gpu")
    assert "OutOfMemoryError: " in text
    assert "lower --data.batch_size" in text
    require_way_on(tmp_path, text, 2)


def test_a_loss_that_is_no_number_ends_the_run_before_its_step(tmp_path):
    text = fail(tmp_path, "--model.lr=1e30", "--checkpoint_every=1", ONE_EPOCH)
    assert re.search(r"FloatingPointError: .*step 1: .*train/loss.* nan.*images \[.*Try a lower --model.lr", text)
    require_way_on(tmp_path, text, 1)


def test_no_checkpoint_is_written_of_a_loss_that_nobody_has_looked_at_or_of_broken_statistics():
    trainer = SimpleNamespace(callback_metrics={}, current_epoch=0, global_step=3)
    norm = torch.nn.BatchNorm2d(2)
    watch = FiniteLoss()
    watch.on_save_checkpoint(trainer, norm, {})
    watch._finite = torch.tensor(False)  # as on a GPU between two rows of the log
    with pytest.raises(FloatingPointError, match="the loss is not finite at epoch 0, step 3"):
        watch.on_save_checkpoint(trainer, norm, {})
    norm.running_var[1] = torch.inf
    with pytest.raises(FloatingPointError, match="running_var holds values that are not finite"):
        FiniteLoss().on_save_checkpoint(trainer, norm, {})


@pytest.fixture
def photographs(tmp_path):
    """The folder of a COCO data set, and the settings that train on it."""
    root = tmp_path / "data"
    write_coco(root)
    splits = ["--data.train=[train2017]", "--data.val=val2017", "--data.test=val2017"]
    return root, ["--data.format=coco", f"--data.root={root}", *splits]


def test_an_image_that_breaks_between_two_epochs_is_named_and_the_run_goes_on_when_it_is_mended(
    tmp_path, in_repository, photographs
):
    root, data = photographs
    data += ["--checkpoint_every=1"]
    wanted = outcome(train(tmp_path / "whole", *data))
    image = root / "train2017" / "2.jpg"
    pixels = image.read_bytes()
    said = fail(tmp_path, callback("tests.test_training_faults.Breaks", file=str(image)), *data)
    assert f"{image}: corrupt, truncated or not an image" in said
    assert "last.ckpt holds the run up to step" in said
    image.write_bytes(pixels)
    assert differences(wanted, outcome(train(tmp_path, "--resume", *data))) == []


def test_where_images_are_skipped_the_run_goes_on_and_lists_them(tmp_path, in_repository, photographs, capsys):
    root, data = photographs
    image = root / "train2017" / "2.jpg"
    breaks = callback("tests.test_training_faults.Breaks", file=str(image))
    skipping = ["--data.on_error=skip", "--data.num_workers=1", "--trainer.max_epochs=3"]
    run = train(tmp_path, breaks, *skipping, *data, report=True)
    assert (run / "skipped_images.txt").read_text() == f"{image}\n"
    assert " ".join(capsys.readouterr().out.split()).count("1 of 4 training images skipped") == 1
    assert '<th scope="row">Skipped images</th><td>1 of 4</td>' in (run / "report.html").read_text()
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]["SkippedImages"]
    assert state == {"files": [str(image)]}


def test_an_image_skipped_before_a_checkpoint_within_an_epoch_is_listed_after_it(tmp_path):
    def run_with(images):
        data = SimpleNamespace(on_error="skip", skipped_images=lambda: images, train_set=range(9))
        return SimpleNamespace(datamodule=data, world_size=1, is_global_zero=True)

    interrupted, resumed = SkippedImages(tmp_path), SkippedImages(tmp_path)
    interrupted.setup(run_with(["a.jpg"]), None, "fit")
    resumed.setup(run_with([]), None, "fit")
    resumed.load_state_dict(interrupted.state_dict())
    resumed.on_train_epoch_end(run_with([]), None)
    assert (tmp_path / "skipped_images.txt").read_text() == "a.jpg\n"
    assert resumed.files == ["a.jpg"]


def test_a_validation_image_is_never_skipped(tmp_path, photographs):
    root, data = photographs
    (root / "val2017" / "1.jpg").write_bytes(b"no image")
    assert "1.jpg: corrupt, truncated or not an image" in fail(tmp_path, "--data.on_error=skip", ONE_EPOCH, *data)


def break_file(file):
    file.write_bytes(file.read_bytes()[:-1000])


def add_code(file):
    """A checkpoint that runs code when it is read by pickle alone."""
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "hook": RunsCode()}, file)


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("hostile"),)


def keep_weights_alone(file):
    """As a callback of Lightning's writes it with save_weights_only."""
    checkpoint = torch.load(file, weights_only=True)
    for name in ("callbacks", "optimizer_states", "lr_schedulers"):
        del checkpoint[name]
    torch.save(checkpoint, file)


def list_no_weights(file):
    torch.save({**torch.load(file, weights_only=True), "state_dict": []}, file)


def leave_as_it_is(file):
    pass


def lose_header(file):
    log = file.parents[1] / "csv" / "version_0" / "metrics.csv"
    log.write_bytes(log.read_bytes().partition(b"\n")[2])


def empty(file):
    torch.save({"a": torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (break_file, [], "last.ckpt: truncated, or no checkpoint: "),
        (empty, [], "last.ckpt: not a checkpoint of tools/train.py"),
        (add_code, [], "last.ckpt: holds more than tensors and plain values, and reading that could run code"),
        (compress, [], "claims to hold"),
        (list_no_weights, [], "last.ckpt: not a checkpoint of tools/train.py: its state_dict is none"),
        (
            keep_weights_alone,
            [],
            "last.ckpt: no checkpoint to go on from: optimizer_states is not as",
        ),
        (Path.unlink, ["--ckpt_path={file}"], "last.ckpt: no such checkpoint"),
        (leave_as_it_is, ["--model.detector=ssdlite320_mobilenet_v3_large", "--model.options=null"], "tensors differ"),
        (lose_header, [], "metrics.csv: the log is damaged: its first line has no 'step'"),
        (leave_as_it_is, ["--model.optimizer=sgd"], "trained with --model.optimizer adamw"),
    ],
)
def test_a_checkpoint_that_is_not_this_runs_is_refused_before_anything_is_written(
    checkpointed, tmp_path, in_repository, capsys, change, more, said
):
    run = tmp_path / "run"
    shutil.copytree(checkpointed, run)
    file = run / "checkpoints" / "last.ckpt"
    change(file)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, "--resume", *(word.replace("{file}", str(file)) for word in more))
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not Path("hostile").exists()


SKIPS = re.compile(r"\.skip|importorskip|mark\.gpu|\bbrowser\b")


def named_in(row):
    """The tests in the last column: whether it is said to need a GPU, file, name, and whether that is its beginning."""
    file = "test_training_faults.py"
    for on_gpu, given, name, dots in re.findall(r"(on a GPU )?`(?:(\w+\.py)::)?(test_\w+)(\.\.\.)?`", row):
        file = given or file
        yield bool(on_gpu), file, name, bool(dots)


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_no_full_disk(tmp_path, monkeypatch):
    """torch tells of its death wherever the main thread is just then."""

    def save(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid 7\) is killed"):
        CheckpointFiles().save_checkpoint({}, tmp_path / "last.ckpt")


def take_a_signal_with_nobody_reading():
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 2)
    requests = StopRequests()
    requests.listen()
    os.kill(os.getpid(), signal.SIGINT)
    say(KeyboardInterrupt(), "how to go on")
    os._exit(0 if requests.received == signal.SIGINT else 3)


def test_a_signal_that_also_ends_who_reads_the_output_is_heeded(tmp_path):
    """As ``tee`` is by Ctrl-C."""
    output = tmp_path / "output.txt"
    assert run_apart(take_a_signal_with_nobody_reading, output=output) == 0, output.read_text()


def functions_of(file):
    """The text of each test in a file, by name."""
    body = ast.parse(file.read_text()).body
    return {node.name: ast.unparse(node) for node in body if isinstance(node, ast.FunctionDef)}


def test_a_run_that_goes_on_with_a_lower_rate_trains_with_it(checkpointed, tmp_path, in_repository, caplog):
    """As the message on a loss that is no number advises."""
    shutil.copytree(checkpointed, tmp_path / "run")
    before = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["lr_schedulers"][0]
    with caplog.at_level("INFO"):
        run = train(tmp_path, "--resume", ONE_EPOCH, "--model.lr=1e-5")
    assert "--model.lr is 1e-05 from here on; in the checkpoint it is 0.002" in caplog.text
    rates = [float(row["lr-AdamW"]) for row in read_history(run) if row.get("lr-AdamW")]
    assert before["last_epoch"] == 2
    assert [rate > 1e-5 for rate in rates] == [True] * 2 + [False] * 4
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["lr_schedulers"][0]["base_lrs"] == [1e-5]


def test_each_row_of_the_table_names_a_test_that_is_there_and_runs_without_a_gpu():
    folder = Path(__file__).parent
    text = (folder.parent / "docs" / "faults.md").read_text()
    tables = [part.split("\n\n")[0].splitlines() for part in text.split("| --- | --- | --- |\n")[1:]]
    assert [len(rows) > 5 for rows in tables] == [True, True]
    for row in itertools.chain(*tables):
        named = list(named_in(row.rsplit("|", 2)[1]))
        assert any(not on_gpu for on_gpu, *_ in named), row
        for on_gpu, file, name, begins in named:
            tests = functions_of(folder / file)
            found = [test for test in tests if test == name or (begins and test.startswith(name))]
            assert len(found) == 1, f"{file}::{name} is the name of {len(found)} tests"
            assert bool(SKIPS.search(tests[found[0]])) == on_gpu, f"{file}::{name} may be skipped, or is said to be"


class Unreachable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ConnectionError("no route to the images")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_loses_its_connection_says_so_itself(workers):
    with pytest.raises(ConnectionError, match="no route to the images"):
        next(iter(TrainingLoader(Unreachable(), num_workers=workers)))
