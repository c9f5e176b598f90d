"""Standard streams that are closed or full do not end a run."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import pytest
from small_runs import small_words

from pyrovae.cli.app import run
from pyrovae.cli.streams import usable_streams
from pyrovae.compute.progress import Unbreakable, progress_bar

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")


@contextlib.contextmanager
def full():
    """Standard output and errors are full."""
    former = sys.stdout, sys.stderr
    with open(FULL, "w", buffering=1) as out, open(FULL, "w", buffering=1) as err:
        sys.stdout, sys.stderr = out, err
        try:
            yield
            assert sys.stdout is out, "the streams are put back"
        finally:
            sys.stdout, sys.stderr = former


def train_with_a_bar(folder):
    words = ["train", "vae", "--out", folder, *(word for word in small_words() if word != "--quiet")]
    run([str(word) for word in words])


@needs_full
def test_training_with_full_streams_goes_on(tmp_path):
    """The progress bar, the warnings and the outcome cannot be written."""
    with full(), usable_streams() as out:
        train_with_a_bar(tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert out.failure is not None
    assert out.failure.errno == errno.ENOSPC


def test_training_without_streams_goes_on(tmp_path):
    """As Python starts with `2>&-`."""
    former = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = None
    try:
        with usable_streams():
            train_with_a_bar(tmp_path / "run")
    finally:
        sys.stdout, sys.stderr = former
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@needs_full
def test_a_bar_of_the_library_needs_no_stream(monkeypatch):
    with full(), progress_bar(True, 3, "step") as bar:
        bar.update(3)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        with progress_bar(True, 3, "step") as bar:
            bar.update(3)


PROGRAM = [sys.executable, "-c", "from pyrovae.cli import main; main()", "models"]


@pytest.mark.parametrize(
    ("redirection", "status", "err"),
    [
        ("> /dev/full", 1, "error: standard output: No space left on device.\n"),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
    ],
)
@needs_full
def test_a_program_tells_by_its_status_whether_its_results_arrived(redirection, status, err):
    command = ["sh", "-c", f'"$@" {redirection}', "sh", *PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, err)


def test_a_closed_descriptor_is_not_given_to_a_file(tmp_path):
    """Libraries write their messages to descriptor 2, whatever it is."""
    code = (
        "from pyrovae.cli.streams import usable_streams\n"
        "with usable_streams():\n"
        f"    print(open({str(tmp_path / 'x')!r}, 'w').fileno() > 2)"
    )
    command = ["sh", "-c", f'{sys.executable} -c "$1" 2>&-', "sh", code]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout == "True\n"


def test_what_arrives_is_unchanged_and_other_errors_are_raised():
    inner = io.StringIO()
    stream = Unbreakable(inner)
    print("a", 1, file=stream)
    assert (inner.getvalue(), stream.failure, stream.isatty()) == ("a 1\n", None, False)
    with pytest.raises(TypeError):
        stream.write(3)
