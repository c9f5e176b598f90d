"""Failures while a command runs: disks, signals, warnings, and the program itself."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from processes import done, finish, start
from small_runs import files, pyrovae, small_words

from pyrovae.cli.app import main
from pyrovae.compute.interrupts import Stopped, end_in_order, ending_at_once
from pyrovae.recipes import Run


def main_with(monkeypatch, capsys, *words):
    """Run main() in this process; return its status and what went to stderr."""
    monkeypatch.setattr(sys, "argv", ["pyrovae", *map(str, words)])
    shown = warnings.showwarning
    with pytest.raises(SystemExit) as caught:
        main()
    assert warnings.showwarning is shown, "the way to show warnings is put back"
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("successes", [0, 1, 2, 3])  # config.json, a line of the history, a checkpoint
def test_a_full_disk_ends_training_in_one_line_and_with_nothing_half_written(
    successes, tmp_path, monkeypatch, capsys
):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > successes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        words = ["train", "vae", "--out", out, *small_words(), "--epochs", 3]
        status, err = main_with(patch, capsys, *words)
    assert status == 1
    assert re.fullmatch(r"error: .*No space left on device: free space there, .*'pyrovae resume'.*\n", err)
    if successes == 3:
        names = sorted(path.name[:11] for path in files(out))
        assert names == ["config.json", "epoch-00001", "history-" + names[2][8:]]
        words = ["resume", out, "--quiet"]
    else:
        assert not out.exists()
    assert "trained 3 epochs" in pyrovae(*words), "the remedy works"


def test_a_read_only_folder_is_told_in_one_line(run, monkeypatch, capsys):
    real = os.open

    def refuse(path, flags, *rest):
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return real(path, flags, *rest)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    before = files(run)
    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        status, err = main_with(patch, capsys, "sample", run)
    assert (status, err.count("\n")) == (1, 1)
    assert re.fullmatch(rf"error: {run}/figures/.*: Permission denied\.\n", err)
    assert files(run) == before


def test_a_loss_that_is_not_finite_ends_training_without_a_traceback(tmp_path, monkeypatch, capsys):
    words = ["train", "vae", "--out", tmp_path / "run", *small_words()]
    status, err = main_with(monkeypatch, capsys, *words, "--learning-rate", 1e30, "--epochs", 3)
    assert status == 1
    assert re.match(r"error: (the loss of|after) step \d", err)
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_in_one_line_and_resume_goes_on(number, log, tmp_path):
    words = ["train", "vae", "--out", tmp_path / "run", *small_words(), "--epochs", 100000]
    process = start([*words, "--compile", "off"], log)
    while not list(tmp_path.rglob("epoch-*")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(30)
    result = done(process, log)
    assert result.status == 128 + number
    assert result.err == "error: interrupted; 'pyrovae resume' continues from the last finished epoch.\n"
    epochs = len(Run.open(tmp_path / "run").history.rows)
    assert f"trained {epochs + 1} epochs" in pyrovae(
        "resume", tmp_path / "run", "--epochs", epochs + 1, "--quiet"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_a_signal_ends_the_process_at_once(number, log, tmp_path):
    words = ["train", "vae", "--out", tmp_path / "run", *small_words(), "--compile", "on"]
    process = start(words, log)
    while not (tmp_path / "run" / "config.json").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(5)
    result = done(process, log)
    assert result.status == 128 + number
    assert result.err == "error: interrupted.\n"
    assert not list(tmp_path.rglob("epoch-*"))


def test_a_signal_during_the_imports_ends_the_process_at_once(tmp_path):
    words = ["train", "vae", "--out", str(tmp_path / "run")]
    program = [sys.executable, "-c", "from pyrovae.cli import main; main()", *words]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == "error: interrupted.\n"
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_an_ignored_signal_stays_ignored(monkeypatch):
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            end_in_order()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(Stopped) as caught:
                signal.raise_signal(signal.SIGTERM)
        assert caught.value.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize(
    "name", ["two\nlines", "\x1b[31mred", "tab\tand\rreturn", os.fsdecode(b"\xff\xfe")]
)
def test_a_message_is_one_line_however_odd_a_name_is(name, monkeypatch, capsys):
    for words in (["evaluate", name], ["evaluate", "run", f"--{name}"], [name]):
        status, err = main_with(monkeypatch, capsys, *words)
        assert status in (1, 2)
        assert err.count("\n") == 1
        assert err[:-1].isprintable()


def test_a_value_that_cannot_be_parsed_is_shown(monkeypatch, capsys):
    status, err = main_with(monkeypatch, capsys, "evaluate", "run", "--num-samples", "many")
    assert status == 2
    assert re.search(r'--num-samples.*"many"', err)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory does not suffice for evaluate. Choose a smaller"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes."),
            "80 bytes",
        ),
        (ImportError("libtorch.so: failed to map segment from shared object"), "memory does not suffice"),
    ],
)
def test_out_of_memory_is_one_line(error, message, monkeypatch, capsys):
    def fail(words):
        raise error

    monkeypatch.setattr("pyrovae.cli.app.run", fail)
    status, err = main_with(monkeypatch, capsys, "evaluate", "run")
    assert (status, err.count("\n")) == (1, 1)
    assert message in err


@pytest.mark.parametrize("option", ["width", "latent-dim", "epochs", "batch-size"])
def test_numbers_beyond_64_bits_are_refused_by_name(option, monkeypatch, capsys, tmp_path):
    for value in (2**63, 10**30):
        words = ["train", "vae", "--out", tmp_path / "run", f"--{option}", value]
        status, err = main_with(monkeypatch, capsys, *words)
        assert (status, err) == (
            2,
            f"error: {option.replace('-', '_')} is {value}; it must fit into 64 bits.\n",
        )
    assert not list(tmp_path.iterdir())


def test_infinite_options_are_refused_by_name(monkeypatch, capsys, tmp_path):
    for words in (["--learning-rate", "inf"], ["--objective", "free-bits", "--free-bits", "inf"]):
        status, err = main_with(monkeypatch, capsys, "train", "vae", "--out", tmp_path / "run", *words)
        assert status == 2
        assert err == f"error: {words[-2][2:].replace('-', '_')} is inf; it must be a finite number.\n"
    assert not list(tmp_path.iterdir())


def test_a_model_larger_than_the_memory_is_refused_before_it_is_made(monkeypatch, capsys, tmp_path):
    words = ["train", "vae", "--out", tmp_path / "run", "--width", 10**6]
    status, err = main_with(monkeypatch, capsys, *words)
    assert status == 1
    assert re.fullmatch(
        r"error: the model, whose width is 1000000, needs .*: choose a smaller width\.\n", err
    )
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_found_where_the_shell_leaves_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pyrovae("plates", "vae", "--out=~/figures/vae.dot")
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]
    status, err = main_with(monkeypatch, capsys, "evaluate", "~nosuchuser/run")
    assert (status, err[:38]) == (1, "error: ~nosuchuser/run cannot be found")


def test_without_words_the_help_is_shown(log):
    result = finish([], log)
    assert result.status == 0
    assert "Commands:" in result.out


def test_a_warning_is_one_line(run, log):
    pyrovae("resume", run, "--epochs", 2, "--quiet")
    damaged = max((run / "checkpoints").glob("*.pt"))
    damaged.write_bytes(b"")
    result = finish(["sample", run], log)
    assert result.status == 0
    assert re.fullmatch(rf"warning: .*{damaged.name} is refused.*Using epoch-00001.*\n", result.err)


def test_the_program_that_is_installed_refuses_in_one_line(tmp_path):
    program = [sys.executable, "-c", "from pyrovae.cli import main; main()"]
    done = subprocess.run(
        [*program, "train", "vae", "--epochs", "0", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: epochs is 0; it must be at least 1.\n"
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
