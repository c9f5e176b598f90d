"""The versions and the commit, on which results depend beside their configuration."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Tell the versions of Python, of this package and of the packages that change its numbers."""
    packages = ("pyrovae", "torch", "pyro-ppl", "numpy", "arviz", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def git_commit() -> str | None:
    """Tell the commit of the checkout that the package runs from, with "-dirty" if it has changes.

    Returns:
        The commit, or None if the package does not run from a checkout.
    """
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
