"""Nothing is computed for nothing: folders that cannot be written, and results that are printed first."""

import errno
import json
import os
import re

import pytest
from small_runs import files, pyrovae, small_words

from pyrovae import plots
from pyrovae.errors import InputError
from pyrovae.training.checkpoints import checkpoints_in

WORDS = ("--num-samples", 5, "--limit", 10, "--quiet")


def read_only(patch, folder):
    """Let a folder be one that cannot be written, also for a superuser."""
    real_access, real_open = os.access, os.open

    def access(path, mode, **how):
        inside = str(path).startswith(str(folder))
        return real_access(path, mode, **how) and not (inside and mode & os.W_OK)

    def opened(path, flags, *rest, **how):
        if str(path).startswith(str(folder)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_open(path, flags, *rest, **how)

    patch.setattr("os.access", access)
    patch.setattr("os.open", opened)


@pytest.mark.parametrize("command", ["train", "resume"])
def test_training_is_refused_at_once(command, run, monkeypatch):
    monkeypatch.setattr("pyrovae.data.load", lambda *args, **how: pytest.fail("data were read"))
    before = files(run)
    words = ["train", "vae", "--out", run / "new" / "run", *small_words()]
    with monkeypatch.context() as patch:
        read_only(patch, run)
        with pytest.raises(PermissionError, match="cannot be written; name another folder"):
            pyrovae(*(words if command == "train" else ["resume", run, "--quiet"]))
    assert files(run) == before


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (["evaluate", *WORDS], r"log p\(x\) = "),
        (["classify", "--labels", 5], r"label-spreading +\d"),
        (["diagnose", "--limit", 3, "--num-samples", 20, "--steps", 5, "--quiet"], "amortisation"),
    ],
    ids=["evaluate", "classify", "diagnose"],
)
@pytest.mark.filterwarnings("ignore:k-hat")
def test_results_are_printed_where_they_cannot_be_written(command, printed, run, monkeypatch):
    before = files(run)
    with monkeypatch.context() as patch:
        read_only(patch, run)
        with pytest.warns(UserWarning, match=f"{run} cannot be written: the result is only printed"):
            said = pyrovae(command[0], run, *command[1:])
    assert re.search(printed, said)
    assert "written" not in said
    assert files(run) == before


@pytest.mark.filterwarnings("ignore:k-hat")
def test_a_result_is_written_to_the_file_that_the_user_names(run, tmp_path, monkeypatch):
    out = tmp_path / "result.json"
    with monkeypatch.context() as patch:
        read_only(patch, run)
        assert f"written: {out}" in pyrovae("evaluate", run, "--out", out, *WORDS)
    content = json.loads(out.read_text())
    assert content["metrics"]["num_data"] == len(content["data"]["log_px"]) == 10
    assert content["checkpoint"] == checkpoints_in(run / "checkpoints")[0].path.name
    with pytest.raises(InputError, match=r"none/result\.json cannot be written"):
        pyrovae("evaluate", run, "--out", tmp_path / "none" / "result.json", *WORDS)


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("command", [["evaluate", *WORDS], ["classify", "--labels", 5]], ids=str)
def test_a_disk_that_fills_up_meanwhile_costs_no_result(command, run, monkeypatch, capsys):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from pyrovae.cli.app import run as run_words

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match=rf"No space left on device: '{run}/\w+\.json'"):
        run_words([command[0], str(run), *map(str, command[1:])])
    assert re.search(r"ELBO +=|label-spreading +\d", capsys.readouterr().out)


OUT = {
    "evaluate": ("result.json", lambda run, *more: ["evaluate", run, *WORDS, *more]),
    "classify": ("result.json", lambda run, *more: ["classify", run, "--labels", 5, *more]),
    "encode": ("result.npz", lambda run, *more: ["encode", run, *more]),
    **{
        suffix: (f"plates.{suffix}", lambda run, *more: ["plates", "vae", *more])
        for suffix in ("png", "svg", "pdf", "dot", "tex")
    },
}


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize(("name", "words"), OUT.values(), ids=OUT)
def test_out_replaces_what_the_same_command_has_made_and_else_only_if_asked(name, words, run, tmp_path):
    out = tmp_path / name
    out.touch()  # an empty file, as mktemp leaves it
    for _ in range(2):
        pyrovae(*words(run, "--out", out))
        assert len(out.read_bytes()) > 100
    out.write_bytes(b"of another program")
    with pytest.raises(InputError, match=rf"{name} exists, and this command has not made it.*--overwrite"):
        pyrovae(*words(run, "--out", out))
    assert out.read_bytes() == b"of another program"
    pyrovae(*words(run, "--out", out, "--overwrite"))
    assert len(out.read_bytes()) > 100


@pytest.mark.filterwarnings("ignore:k-hat")
def test_out_does_not_replace_another_commands_result_nor_a_device(run, tmp_path):
    out = tmp_path / "result.json"
    pyrovae("classify", run, "--labels", 5, "--out", out)
    os.mkfifo(tmp_path / "queue")
    for path, named in ((out, "has not made it"), (tmp_path / "queue", "is no file"), (run, "is no file")):
        with pytest.raises(InputError, match=named):
            pyrovae("evaluate", run, "--out", path, *WORDS)
    with pytest.raises(InputError, match="is no file"):
        pyrovae("plates", "vae", "--out", tmp_path / "queue", "--overwrite")


def test_a_figure_tells_its_source(tmp_path):
    from matplotlib.figure import Figure

    for name in ("a.png", "a.svg", "a.pdf"):
        plots.save(Figure(), tmp_path / name, "epoch-00001-x.pt")
    assert b"Source\0epoch-00001-x.pt" in (tmp_path / "a.png").read_bytes()
