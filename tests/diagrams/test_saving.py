"""Files of plate diagrams appear whole or not at all."""

import os
from pathlib import Path

import pytest

from pyrovae.diagrams import FORMATS, PlateDiagram
from pyrovae.errors import InputError


@pytest.mark.parametrize("suffix", FORMATS)
def test_save(diagram: PlateDiagram, suffix: str, tmp_path: Path) -> None:
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".dot": b"digraph"}
    path = tmp_path / f"diagram{suffix}"
    path.write_text("old")
    diagram.save(path)
    assert path.read_bytes().startswith(starts.get(suffix, b"\\documentclass"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_save_refuses_other_formats(diagram: PlateDiagram, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.foo'.*\.png, \.svg, \.pdf, \.dot, \.tex"):
        diagram.save(tmp_path / "diagram.foo")
    assert not list(tmp_path.iterdir())


def test_save_into_a_missing_folder(diagram: PlateDiagram, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        diagram.save(tmp_path / "missing" / "diagram.png")
    assert not list(tmp_path.iterdir())


def test_failed_save_leaves_the_old_file(
    diagram: PlateDiagram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path / "diagram.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        diagram.save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
