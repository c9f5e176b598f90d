"""A run removes only files that bear its name, and has one writer."""

import errno
import fcntl
import itertools
import os
import re
import shutil
import signal
import threading
import time
import warnings

import pytest
import torch
from crashes import Killed, killed
from processes import context
from small_runs import files, pyrovae, train_small

from pyrovae import locks
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.locks import check_still_writer, one_writer
from pyrovae.recipes import Run, fitting
from pyrovae.training import fit
from pyrovae.training.checkpoints import checkpoints_in, load_checkpoint, new_run, save_checkpoint

pytestmark = pytest.mark.cpu

SETTINGS = {"progress": False, "device": "cpu", "batch_size": 12}


def epochs_in(folder):
    return [file.epoch for file in checkpoints_in(folder)]


def warned(call):
    """Return the result of a call, and its warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = call()
    return result, [str(warning.message) for warning in said]


def flip(path):
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


# Folders of refused runs


@pytest.mark.parametrize(
    "beside", ["notes.txt", "good/config.json", "grey/mine.txt", "grey/checkpoints/mine"]
)
def test_a_refused_run_removes_what_it_made_and_nothing_else(beside, tmp_path, monkeypatch):
    mine = tmp_path / "results" / beside

    def refused(*args, **settings):
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("of another program")
        raise InputError("grey pixels")

    monkeypatch.setattr(fitting, "fit", refused)
    with pytest.raises(InputError, match=r"^grey pixels$"):
        train_small(tmp_path / "results" / "grey")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert (tmp_path / "results" / "grey").exists() == beside.startswith("grey")


def test_a_configuration_that_another_process_has_changed_is_left(tmp_path, monkeypatch):
    config = tmp_path / "run" / "config.json"

    def refused(*args, **settings):
        config.write_text("{}")
        raise InputError("grey pixels")

    monkeypatch.setattr(fitting, "fit", refused)
    with pytest.raises(InputError, match="grey pixels"):
        train_small(tmp_path / "run")
    assert config.read_text() == "{}"


@pytest.mark.parametrize("error", [NonFiniteError, OSError, RuntimeError])
def test_a_run_that_fails_in_its_first_epoch_can_be_begun_again_with_other_settings(
    error, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("pyrovae.training.loop.check_finite", raising(error("not finite")))
        with pytest.raises(error, match=r"^not finite$"):
            train_small(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    assert len(train_small(tmp_path / "new" / "run").history.rows) == 2


def test_a_run_that_breaks_down_later_says_how_it_goes_on_and_does(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("pyrovae.training.loop.check_finite", raising(NonFiniteError("not finite"), after=1))
        with pytest.raises(NonFiniteError, match="not finite") as caught:
            train_small(tmp_path / "run")
    words = re.search(r"pyrovae (resume .* --learning-rate) RATE", str(caught.value))[1].split()
    with pytest.warns(UserWarning, match=r"learning_rate from 0 to 0\.00\d+ -> from 0 to 0\.000\d+"):
        printed = pyrovae(*words, "0.0005", "--quiet")
    assert "trained 2 epochs" in printed
    assert Run.open(tmp_path / "run").training.learning_rate == 0.0005


def test_a_resumed_run_that_fails_later_keeps_its_new_settings(run, monkeypatch):
    """Else the epochs that it has finished would be more than those that its configuration asks for."""
    monkeypatch.setattr(
        "pyrovae.training.loop.check_finite", raising(NonFiniteError("not finite"), after=1)
    )
    with pytest.raises(NonFiniteError, match="not finite"):
        run.resume(epochs=5, device="cpu", progress=False)
    monkeypatch.undo()
    again = Run.open(run.folder)
    assert (again.epochs, again.training.epochs) == (3, 5)
    assert len(again.resume(device="cpu", progress=False).history.rows) == 5


def raising(error, after=0):
    """Return a function that raises an error from a call on."""
    calls = itertools.count()

    def call(*_):
        if next(calls) >= after:
            raise error

    return call


# Checkpoints


@pytest.fixture
def trained_for(make_vae, binary_images, tmp_path):
    """A function that trains in a folder up to an epoch, and returns the parameters."""

    def train(epochs):
        vae = make_vae()
        fit(vae, binary_images, epochs=epochs, folder=tmp_path, resume=True, **SETTINGS)
        return vae.state_dict()

    return train


def test_a_restored_checkpoint_is_gone_on_from_and_what_it_leads_to_is_kept(
    make_vae, binary_images, trained_for, tmp_path
):
    trained_for(3)
    third = checkpoints_in(tmp_path)[0].path
    shutil.copy(third, tmp_path.parent / third.name)
    trained_for(7)
    for file in checkpoints_in(tmp_path):
        flip(file.path)
    shutil.copy(tmp_path.parent / third.name, third)
    found, said = warned(lambda: trained_for(5))
    assert [text.rpartition("Using ")[2] for text in said] == [f"{third.name} instead."] * 2
    assert epochs_in(tmp_path) == [7, 6, 5, 4], "the damaged ones are later, and stay"
    assert len(warned(lambda: load_checkpoint(tmp_path))[0]["history"]["rows"]) == 5
    expected = make_vae()
    fit(expected, binary_images, epochs=5, **SETTINGS)
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert len(warned(lambda: trained_for(8))[1]) == 2
    assert epochs_in(tmp_path) == [8, 7], "once a newer one has been read back"


def test_copies_under_other_names_are_neither_read_nor_removed(trained_for, tmp_path):
    trained_for(2)
    newest = checkpoints_in(tmp_path)[0].path
    names = ["epoch-best.pt", "epoch-final.pt", "epoch-99999.pt", f"{newest.stem}-copy.pt", "my.jsonl"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    trained_for(5)
    assert epochs_in(tmp_path) == [5, 4]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in names)


def test_another_runs_checkpoints_are_not_removed(make_vae, binary_images, trained_for, tmp_path):
    other = tmp_path / "other"
    fit(make_vae(seed=1), binary_images, epochs=1, folder=other, **SETTINGS)
    trained_for(2)
    foreign = checkpoints_in(other)[0].path.rename(tmp_path / checkpoints_in(other)[0].path.name)
    trained_for(4)
    assert foreign.exists()
    assert epochs_in(tmp_path) == [4, 3, 1]


@pytest.mark.parametrize("last", [100_003, 1_000_001])
def test_epochs_are_ordered_as_numbers(last, tmp_path):
    run = new_run()
    for epoch in range(last - 5, last + 1):
        (tmp_path / f"history-{run}.jsonl").touch()
        save_checkpoint(tmp_path, epoch, {"run": run})
    assert epochs_in(tmp_path) == [last, last - 1]


def test_a_checkpoint_that_was_not_written_as_it_should_costs_none_of_the_others(
    trained_for, tmp_path, monkeypatch
):
    trained_for(2)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", lambda path: b"something else")
        with pytest.raises(OSError, match="does not hold what was written"):
            trained_for(3)
    assert epochs_in(tmp_path) == [3, 2, 1]


UNREADABLE = {
    "a folder": lambda path: path.mkdir(),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a pipe": lambda path: os.mkfifo(path),
    "a loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_a_newest_checkpoint_that_cannot_be_read_is_passed_over(make, trained_for, tmp_path):
    trained_for(3)
    newest = checkpoints_in(tmp_path)[0].path
    newest.unlink()
    make(newest)
    with pytest.warns(UserWarning, match=rf"{newest.name} .*Using epoch-00002"):
        assert len(load_checkpoint(tmp_path)["history"]["rows"]) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_error_of_the_disk_is_one_of_these(number, trained_for, tmp_path, monkeypatch):
    trained_for(3)
    newest, real = checkpoints_in(tmp_path)[0].path, os.open

    def opened(path, *rest):
        if os.fspath(path) == str(newest):
            raise OSError(number, os.strerror(number))
        return real(path, *rest)

    monkeypatch.setattr("os.open", opened)
    with pytest.warns(UserWarning, match=rf"{newest.name} cannot be read: .*Using epoch-00002"):
        assert len(load_checkpoint(tmp_path)["history"]["rows"]) == 2


def test_a_reader_survives_checkpoints_that_are_replaced_while_it_reads(trained_for, tmp_path, monkeypatch):
    trained_for(3)
    real, before = os.open, len(checkpoints_in(tmp_path))

    def replaced(path, *rest):  # a training goes on between the list and the file
        monkeypatch.setattr("os.open", real)
        trained_for(5)
        return real(path, *rest)

    monkeypatch.setattr("os.open", replaced)
    assert len(load_checkpoint(tmp_path)["history"]["rows"]) == 5
    assert len(checkpoints_in(tmp_path)) == before


# One writer


def hold(folder, held, leases):
    if leases:
        only_leases()
    with one_writer(folder):
        held.set()
        threading.Event().wait()


def only_leases(patch=None):
    """Have a file system without locks, and leases that are void after 2 seconds."""

    def flock(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for owner, name, value in ((fcntl, "flock", flock), (locks, "RENEWED", 0.3), (locks, "VOID", 2.0)):
        setattr(owner, name, value) if patch is None else patch.setattr(owner, name, value)


def hold_with_a_worker(folder, held, worker):
    with one_writer(folder):
        process = os.fork()
        if process == 0:
            time.sleep(60)
            os._exit(0)
        worker.value = process
        held.set()
        threading.Event().wait()


def test_worker_processes_do_not_hold_the_folder(tmp_path):
    held, worker = context.Event(), context.Value("i")
    process = context.Process(target=hold_with_a_worker, args=(tmp_path, held, worker))
    process.start()
    held.wait()
    assert worker.value > 1
    process.kill()
    process.join()
    with one_writer(tmp_path):
        os.kill(worker.value, signal.SIGKILL)  # it has lived on


@pytest.mark.parametrize("leases", [False, True], ids=["lock", "lease"])
def test_a_second_writer_is_told_who_writes_and_a_dead_one_holds_nothing(
    leases, make_vae, binary_images, tmp_path, monkeypatch
):
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, leases))
    process.start()
    held.wait()
    if leases:
        only_leases(monkeypatch)
    before = files(tmp_path)
    said = rf"is being written by process {process.pid} on {os.uname().nodename}: wait until it has ended"
    with pytest.raises(InputError, match=said):
        fit(make_vae(), binary_images, epochs=1, folder=tmp_path, **SETTINGS)
    assert files(tmp_path) == before
    process.kill()
    process.join()
    fit(make_vae(), binary_images, epochs=1, folder=tmp_path, **SETTINGS)
    assert epochs_in(tmp_path) == [1]
    assert not list(tmp_path.glob(".*"))


def test_a_lease_of_another_machine_is_void_when_it_is_not_renewed(tmp_path, monkeypatch):
    only_leases(monkeypatch)
    with one_writer(tmp_path):
        text = (tmp_path / locks.LEASE).read_text()
    elsewhere = text.replace(f"host={os.uname().nodename}", "host=elsewhere")
    assert elsewhere != text
    (tmp_path / locks.LEASE).write_text(elsewhere)
    with one_writer(tmp_path):
        assert "elsewhere" not in (tmp_path / locks.LEASE).read_text()


def test_a_writer_that_has_lost_its_lease_writes_no_more(tmp_path, monkeypatch):
    only_leases(monkeypatch)
    with one_writer(tmp_path):
        check_still_writer(tmp_path)
        (tmp_path / locks.LEASE).unlink()
        time.sleep(1.0)  # several renewals
        with pytest.raises(CheckpointError, match=r"the lease on .* was lost"):
            check_still_writer(tmp_path)


def test_two_threads_do_not_write_into_one_folder(tmp_path):
    refused = []

    def other():
        try:
            with one_writer(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    with one_writer(tmp_path), one_writer(tmp_path / "inside"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"process {os.getpid()} on" in refused[0]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_is_free_again_after_an_error_and_not_left_behind(tmp_path):
    with pytest.raises(Killed), one_writer(tmp_path / "a" / "b"):
        killed()
    assert not list(tmp_path.iterdir())
    with one_writer(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_that_is_trained_can_be_read_meanwhile(run, monkeypatch):
    with one_writer(run.folder):
        assert not Run.open(run.folder).pair.training
        before = files(run.folder)
        thread = threading.Thread(target=lambda: Run.open(run.folder).pair)
        thread.start()
        thread.join()
    before.pop(next(path for path in before if path.name == locks.LOCK))
    assert files(run.folder) == before
