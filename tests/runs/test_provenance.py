"""The commit that a run records is the package's own, and git runs nothing to tell it."""

import subprocess
from pathlib import Path

import pytest

from pyrovae.runs import provenance


def git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of some project, and a package in a folder of it."""

    def make(project, place):
        git(tmp_path, "init", "-q")
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
        package = tmp_path / place / "pyrovae" / "runs" / "provenance.py"
        package.parent.mkdir(parents=True)
        package.write_text("")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", "first")
        monkeypatch.setattr(provenance, "__file__", str(package))
        return tmp_path

    return make


def test_the_packages_own_checkout_gives_its_commit(repository):
    root = repository("pyrovae", ".")
    commit = git(root, "rev-parse", "HEAD")
    assert provenance.git_commit() == commit
    (root / "pyproject.toml").write_text('[project]\nname = "pyrovae"\nversion = "2"\n')
    assert provenance.git_commit() == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("project", "place"),
    [("theirs", ".venv/lib/site-packages"), ("theirs", "."), ("pyrovae", "vendored")],
)
def test_the_repository_of_another_project_gives_none(repository, project, place):
    repository(project, place)
    assert provenance.git_commit() is None


def test_a_folder_that_only_looks_like_a_checkout_does_not_give_the_commit_above(repository):
    root = repository("theirs", "inner")
    (root / "inner" / "pyproject.toml").write_text('[project]\nname = "pyrovae"\n')
    (root / "inner" / ".git").mkdir()
    assert provenance.git_commit() is None


def test_git_runs_nothing_and_takes_no_lock(repository, tmp_path_factory, monkeypatch):
    root = repository("pyrovae", ".")
    trace = tmp_path_factory.mktemp("trace") / "ran"
    script = trace.with_name("hook")
    script.write_text(f"#!/bin/sh\ntouch {trace}\n")
    script.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(script))
    for hook in ("post-index-change", "post-checkout"):
        (root / ".git" / "hooks" / hook).write_text(script.read_text())
        (root / ".git" / "hooks" / hook).chmod(0o755)
    (root / "pyproject.toml").touch()  # so that git would refresh its index
    index = (root / ".git" / "index").read_bytes()
    assert provenance.git_commit()
    assert not trace.exists()
    assert (root / ".git" / "index").read_bytes() == index


def test_variables_of_a_git_hook_do_not_lead_elsewhere(repository, tmp_path_factory, monkeypatch):
    root = repository("pyrovae", ".")
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    commit = git(root, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.git_commit() == commit


def test_this_checkout_is_found():
    root = Path(provenance.__file__).parents[2]
    if (root / ".git").exists():
        assert provenance.git_commit()
