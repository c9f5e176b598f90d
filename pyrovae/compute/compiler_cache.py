"""A folder of the user's own for compiled code.

The compiler loads what its cache holds. torch's own folder has a name in /tmp that anyone can guess, and
belongs to whoever makes it first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def use_private_cache() -> None:
    """Let torch's compiler keep its files in a folder that no other user can write to.

    It is `~/.cache/pyrovae/compiled`, or a new one for this process if that cannot be had. A folder that
    the user has named by TORCHINDUCTOR_CACHE_DIR stays.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # slow to import

    named = os.environ.get(_VARIABLE)
    if named and named != os.path.abspath(default_cache_dir()):  # torch sets the variable as well
        return
    folder = _own_folder()
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="pyrovae-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_VARIABLE] = str(folder)


def _own_folder() -> Path | None:
    try:
        folder = Path("~/.cache/pyrovae/compiled").expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except (OSError, RuntimeError):  # RuntimeError where there is no home
        return None
    return folder if stat.S_ISDIR(found.st_mode) and _is_private(found) else None


def _is_private(found: os.stat_result) -> bool:
    """Whether a folder belongs to this user, and no other may write to it."""
    if not hasattr(os, "geteuid"):  # on Windows a home is private
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022
