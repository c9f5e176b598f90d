"""Files of figures appear whole or not at all."""

import errno
import os

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from pyrovae import plots
from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError

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


@pytest.mark.parametrize("name", ["figure.png", "plates.png"])
def test_latex_that_is_asked_for_and_missing_is_told_with_a_remedy(name, tmp_path, monkeypatch, make_vae):
    def save():
        if name == "plates.png":
            plate_diagram(make_vae(), torch.zeros(3, 1, 4, 4)).save(tmp_path / name)
        else:
            y = torch.tensor([0, 1, 2])
            plots.save(plots.confusion_matrix(y, y, NAMES), tmp_path / name)

    monkeypatch.setenv("PATH", str(tmp_path))  # there is no LaTeX
    with matplotlib.rc_context({"text.usetex": True}):
        with pytest.raises(InputError, match=r"text\.usetex asks for: .*Install LaTeX, or set .* = False"):
            save()
        assert not list(tmp_path.iterdir())
        matplotlib.rcParams["text.usetex"] = False
        save()
    assert (tmp_path / name).exists(), "the remedy"
