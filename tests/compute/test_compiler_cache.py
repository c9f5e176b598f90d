"""The folder of compiled code belongs to the user alone."""

import os
import stat
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from pyrovae.compute.compiler_cache import use_private_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, default_cache_dir())  # as torch sets it
    return tmp_path


def used():
    use_private_cache()
    return Path(os.environ[VARIABLE])


def test_compiled_code_lies_in_a_folder_that_only_the_user_can_write_to(home):
    assert used() == home / ".cache" / "pyrovae" / "compiled"
    assert stat.S_IMODE(used().stat().st_mode) == 0o700
    assert used() == home / ".cache" / "pyrovae" / "compiled", "a second compilation finds it again"


@pytest.mark.parametrize(
    "fault", ["writable by others", "writable by the group", "link", "of another user"]
)
def test_a_folder_that_others_could_fill_is_not_used(home, fault, monkeypatch, tmp_path_factory):
    folder = home / ".cache" / "pyrovae" / "compiled"
    folder.parent.mkdir(parents=True)
    if fault == "link":
        folder.symlink_to(tmp_path_factory.mktemp("elsewhere"))
    else:
        folder.mkdir()
        folder.chmod({"writable by others": 0o707, "writable by the group": 0o770}.get(fault, 0o700))
    if fault == "of another user":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    found = used()
    assert found not in (folder, Path(default_cache_dir()))
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    found.rmdir()


def test_without_a_home_the_folder_is_a_new_one(home, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    found = used()
    assert found.name.startswith("pyrovae-compiled-")
    found.rmdir()


def test_a_folder_that_the_user_names_stays(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(home / "mine"))
    assert used() == home / "mine"
