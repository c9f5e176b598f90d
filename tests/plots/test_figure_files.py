"""Files of figures appear whole or not at all."""

import errno
import os

import pytest
import torch
from matplotlib.figure import Figure

from pyrovae import plots

NAMES = ["cat", "dog", "eel"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_says_the_format_and_folders_are_made(suffix, start, tmp_path):
    path = plots.save(Figure(), tmp_path / "figures" / f"figure.{suffix}")
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    def disk_full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = plots.save(Figure(), tmp_path / "figure.png")
    former = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full)
        with pytest.raises(OSError, match="No space left"):
            plots.save(plots.image_grid(torch.zeros(1, 3, 1, 8, 8)), path)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]
