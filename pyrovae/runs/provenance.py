"""The versions and the git commit that a result depends on, besides its configuration."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import tomllib
from pathlib import Path


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that its numbers depend on."""
    packages = ("pyrovae", "torch", "pyro-ppl", "numpy", "arviz", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def git_commit() -> str | None:
    """Return the commit of the package's own checkout, with "-dirty" if it has changes.

    git runs no code that the repository names, takes no lock, and looks nowhere else.

    Returns:
        The commit, or None if the package does not run from its checkout: it may be installed within a
        repository of the user's, whose commit is not the package's.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or _name_of_project(root) != "pyrovae":
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "-c", "core.fsmonitor=false"]
    command += ["-c", f"core.hooksPath={os.devnull}", "describe", "--always", "--dirty", "--abbrev=40"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(root.parent)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _name_of_project(root: Path) -> str | None:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text()).get("project", {})
    except (OSError, ValueError):
        return None
    name: str | None = project.get("name")
    return name
