"""Checkpoints are whole or absent, run no code, and fit the model that they are loaded into."""

import copy
import errno
import hashlib
import io
import os
import pickle
import re
import resource
import zipfile

import pytest
import torch
from crashes import DEAD, partial_of_a_dead_process

from pyrovae.errors import CheckpointError
from pyrovae.programs.pair import Pair
from pyrovae.programs.parameters import named_parameters, own_parameters
from pyrovae.storage import write_atomically
from pyrovae.training import fit
from pyrovae.training.checkpoints import checkpoints_in, find_checkpoint, load_checkpoint, save_checkpoint
from pyrovae.training.state import load_state, state

pytestmark = pytest.mark.cpu

RUN = "0123abcd"
EMPTY = hashlib.sha256(b"").hexdigest()


def content(epoch, run=RUN):
    """What a checkpoint holds, with a tensor that tells the epoch, and no history."""
    tensors = {"modules": {}, "parameters": {"w": torch.full((1000,), float(epoch))}, "buffers": {}}
    ended = {"best_epoch": None, "stopped_early": False, "stopped_by_callback": False}
    return {
        "run": run,
        "state": tensors,
        "best_state": None,
        "optimizer": {},
        "scheduler": None,
        "rng": {},
        "history": {"epochs": 0, "bytes": 0, "digest": EMPTY, **ended},
        "settings": {"epoch": epoch},
        "trained": {"frozen": [], "later": []},
        "step": None,
    }


def save(folder, epoch, run=RUN):
    (folder / f"history-{run}.jsonl").touch()
    return save_checkpoint(folder, epoch, content(epoch, run))


def epoch_of(folder):
    """The epoch of the checkpoint that is loaded."""
    return load_checkpoint(folder)["settings"]["epoch"]


def epochs_in(folder):
    return [file.epoch for file in checkpoints_in(folder)]


@pytest.fixture
def folder(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path, epoch)
    return tmp_path


def newest(folder):
    return max(folder.glob("epoch-*.pt"))


def write_as_checkpoint(folder, epoch, payload):
    path = folder / f"epoch-{epoch:05d}-{RUN}-{hashlib.sha256(payload).hexdigest()[:16]}.pt"
    path.write_bytes(payload)
    return path


def truncate(payload):
    return payload[: len(payload) // 2]


def flip(payload):
    middle = len(payload) // 2
    return payload[:middle] + bytes([payload[middle] ^ 1]) + payload[middle + 1 :]


DAMAGES = {"truncated": truncate, "flipped": flip, "empty": lambda payload: b""}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def disk_full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_saved_is_loaded(folder):
    loaded, saved = load_checkpoint(folder), content(3)
    assert torch.equal(loaded.pop("state")["parameters"]["w"], saved.pop("state")["parameters"]["w"])
    assert (loaded.pop("file"), loaded.pop("lines")) == (newest(folder).name, b"")
    assert (loaded.pop("epochs"), loaded.pop("history")["rows"]) == (0, [])
    assert loaded.items() <= saved.items()


def test_only_the_two_newest_are_kept(folder):
    assert epochs_in(folder) == [3, 2]


@damages
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(damage, folder):
    path = newest(folder)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path.name} is refused.* Using epoch-00002"):
        assert epoch_of(folder) == 2


@damages
def test_when_all_are_damaged_each_is_named(damage, folder):
    for path in folder.glob("*.pt"):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"epoch-00003-.*epoch-00002-.*no sound one to fall back on"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("foreign", "why"),
    [
        (content(4), None),
        ({"weights": torch.ones(2)}, "missing required field `run`"),
        ([1], "Expected `object`, got `array`"),
        (content(4) | {"state": None}, r"got `null` - at `\$.state`"),
        (content(4) | {"optimizer": 5}, r"got `int` - at `\$.optimizer`"),
        (content(4) | {"settings": None}, r"at `\$.settings`"),
        (content(4) | {"history": {"rows": []}}, r"missing required field `epochs` - at `\$.history`"),
        (content(4, run="ffffffff"), "run is 'ffffffff' in it, and '0123abcd' in its name"),
    ],
    ids=["whole", "foreign", "list", "state", "optimizer", "settings", "history", "run"],
)
def test_a_sound_file_that_is_no_checkpoint_is_refused(foreign, why, folder):
    buffer = io.BytesIO()
    torch.save(foreign, buffer)
    path = write_as_checkpoint(folder, 4, buffer.getvalue())
    if why is None:
        assert epoch_of(folder) == 4
        return
    with pytest.warns(UserWarning, match=f"{path.name} is refused: .*not a checkpoint .*{why}"):
        assert epoch_of(folder) == 3


def test_no_checkpoint_is_an_error_of_its_own(tmp_path):
    assert find_checkpoint(tmp_path, resume=True) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*train first"):
        load_checkpoint(tmp_path)


def test_a_damaged_newest_checkpoint_does_not_keep_a_run_from_being_resumed(
    make_vae, binary_images, tmp_path
):
    settings = {"progress": False, "device": "cpu", "batch_size": 10}
    whole, parts = make_vae(), make_vae()
    fit(whole, binary_images, epochs=5, **settings)
    fit(parts, binary_images, epochs=3, folder=tmp_path, **settings)
    damaged = newest(tmp_path)
    damaged.write_bytes(flip(damaged.read_bytes()))
    again = make_vae(seed=1)
    with pytest.warns(UserWarning, match=damaged.name):
        fit(again, binary_images, epochs=5, folder=tmp_path, resume=True, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert not damaged.exists()
    assert load_checkpoint(tmp_path)["history"]["rows"][-1]["epoch"] == 5


def test_checkpoints_of_an_earlier_version_are_refused_and_not_taken_for_none(
    folder, make_vae, binary_images
):
    for file in checkpoints_in(folder):
        file.path.rename(folder / f"epoch-{file.epoch:05d}-{file.digest}.pt")
    with pytest.raises(CheckpointError, match=r"written by pyrovae 0\.2\.0 or before.*in another folder"):
        fit(make_vae(), binary_images, epochs=5, folder=folder, resume=True, progress=False)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickle_in(archive):
    """What lies in torch's format beside the tensors."""
    files = zipfile.ZipFile(archive)
    return files.open(next(name for name in files.namelist() if name.endswith("data.pkl")))


@pytest.mark.parametrize("form", ["pickle", "torch", "torch-legacy"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(form, tmp_path):
    trap, folder = tmp_path / "trap", tmp_path / "run"
    folder.mkdir()
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Malicious(trap), buffer)
    else:
        torch.save({"state": Malicious(trap)}, buffer, _use_new_zipfile_serialization=form == "torch")
    path = write_as_checkpoint(folder, 1, buffer.getvalue())
    with pytest.raises(CheckpointError, match=f"{path.name} is refused") as caught:
        load_checkpoint(folder)
    assert not trap.exists()
    assert "\n" not in str(caught.value)
    buffer.seek(0)
    if form != "torch-legacy":  # the trap is a real one
        pickle.load(buffer if form == "pickle" else pickle_in(buffer))
        assert trap.exists()


# Another model's


def saved_state(module, x):
    with own_parameters(module):
        return state(module, named_parameters(module, x))


def put(module, saved):
    load_state(module, {}, saved)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"latent_dim": 3}, r"posterior\.loc\.weight: \(3, 6\) in the checkpoint, \(2, 6\) here"),
        (
            {"x_shape": (1, 4, 5)},
            r"likelihood\.network\.layers\.2\.weight: \(20, 8\) in the checkpoint, \(16, 8\)",
        ),
    ],
    ids=["latent_dim", "x_shape"],
)
def test_a_model_of_other_sizes_is_refused_and_nothing_changed(other, named, make_vae):
    x = torch.zeros(2, *other.get("x_shape", (1, 4, 4)))
    saved = saved_state(make_vae(seed=1, **other), x)
    vae = make_vae()
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(CheckpointError, match=f"another model's .*{named}"):
        put(vae, saved)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_another_architecture_is_refused_and_its_tensors_named(make_vae, make_ppca, binary_images):
    saved = saved_state(make_ppca(), torch.zeros(2, 5).double())
    with pytest.raises(
        CheckpointError, match=r"likelihood\.log_scale: \(\) in the checkpoint, absent here.*\.\.\."
    ):
        put(make_vae(), saved)


def test_resuming_another_models_run_is_refused_and_nothing_changed(make_vae, binary_images, tmp_path):
    settings = {"epochs": 2, "progress": False, "device": "cpu", "folder": tmp_path}
    vae, other = make_vae(), make_vae(latent_dim=3)
    fit(vae, binary_images, **settings)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=r"\(2, 6\) in the checkpoint, \(3, 6\) here"):
        fit(other, binary_images, resume=True, **settings)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_two_modules_whose_tensors_have_the_same_names_are_told_apart(make_vae):
    """Model and guide may be methods of two modules; a difference in the first must be seen too."""

    one, two, other = make_vae(), make_vae(), make_vae(latent_dim=3)
    saved = {"modules": {"0": other.state_dict(), "1": two.state_dict()}, "parameters": {}}
    before = copy.deepcopy(one.state_dict())
    with pytest.raises(CheckpointError, match=r"0\.posterior\.loc\.weight: \(3, 6\)"):
        load_state(Pair(one.model, two.guide), {}, saved)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_a_fresh_model_holds_what_was_saved(make_vae, binary_images):
    vae, other = make_vae(), make_vae(seed=1)
    put(other, copy.deepcopy(saved_state(vae, binary_images)))
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in other.state_dict().items())


# Crashes and full disks


def test_what_a_crash_left_behind_is_removed_by_the_next_save(folder):
    dead = partial_of_a_dead_process(folder, RUN)
    kept = [folder / ".partial-abc", folder / dead.name.replace(RUN, "ffffffff")]
    kept += [folder / dead.name.replace(f"-{DEAD}-", f"-{os.getpid()}-")]
    for path in kept:
        path.write_bytes(b"of the user, of another run, of a process that lives")
    assert epoch_of(folder) == 3
    save(folder, 4)
    assert epochs_in(folder) == [4, 3]
    assert not dead.exists()
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoints_before_and_nothing_half_written(call, folder, monkeypatch):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", disk_full)
        with pytest.raises(OSError, match="No space left"):
            save(folder, 4)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert epoch_of(folder) == 3


def test_a_write_that_ends_half_way_leaves_nothing_behind(folder):
    before = sorted(folder.iterdir())
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(folder, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert sorted(folder.iterdir()) == before


def test_a_disk_that_fills_up_in_training_leaves_a_run_that_can_be_resumed(
    make_vae, binary_images, tmp_path, monkeypatch
):
    settings = {"epochs": 4, "progress": False, "device": "cpu"}
    whole, parts = make_vae(), make_vae()
    fit(whole, binary_images, **settings)
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: calls.append(fd) if len(calls) < 5 else disk_full())
        with pytest.raises(OSError, match="No space left"):
            fit(parts, binary_images, folder=tmp_path, **settings)
    assert epochs_in(tmp_path) == [2, 1], "each epoch syncs its line of the history and its checkpoint"
    fit(parts, binary_images, folder=tmp_path, resume=True, **settings)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_permissions_that_the_user_asked_for(tmp_path):
    former = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(former)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_the_name_is_epoch_and_digest(folder):
    path = newest(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch(r"epoch-00003-0123abcd-[0-9a-f]{16}\.pt", path.name)
    assert path.stem.endswith(digest[:16])
