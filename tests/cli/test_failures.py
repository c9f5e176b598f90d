"""Failures while a command runs: disks, signals, warnings, and the program itself."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest
from processes import done, finish, start
from small_runs import files, pyrovae, small_words

from pyrovae.cli.app import main
from pyrovae.recipes import Run


def main_with(monkeypatch, capsys, *words):
    """Run main() in this process; return its status and what went to stderr."""
    monkeypatch.setattr(sys, "argv", ["pyrovae", *map(str, words)])
    shown = warnings.showwarning
    with pytest.raises(SystemExit) as caught:
        main()
    assert warnings.showwarning is shown, "the way to show warnings is put back"
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("successes", [0, 1, 2])
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
    assert re.fullmatch(r"error: .*No space left on device\.\n", err)
    names = sorted(path.name[:11] for path in files(out))
    assert names == ["config.json", "epoch-00001"][:successes]
    if successes:
        assert "trained 3 epochs" in pyrovae("resume", out, "--quiet")


def test_a_read_only_folder_is_told_in_one_line(run, monkeypatch, capsys):
    def refuse(path, *rest):
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


def test_ctrl_c_ends_training_in_one_line_and_resume_goes_on(log, tmp_path):
    words = ["train", "vae", "--out", tmp_path / "run", *small_words(), "--epochs", 100000]
    process = start([*words, "--compile", "off"], log)
    while not list(tmp_path.rglob("epoch-*")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    result = done(process, log)
    assert result.status == 1
    assert result.err == "error: interrupted; 'pyrovae resume' goes on from the last finished epoch.\n"
    epochs = len(Run.open(tmp_path / "run").history.rows)
    assert f"trained {epochs + 1} epochs" in pyrovae(
        "resume", tmp_path / "run", "--epochs", epochs + 1, "--quiet"
    )


def test_without_words_the_help_is_shown(log):
    result = finish([], log)
    assert result.status == 0
    assert "Commands:" in result.out


def test_a_warning_is_one_line(run, log):
    pyrovae("resume", run, "--epochs", 2, "--quiet")
    damaged = max((run / "checkpoints").iterdir())
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
