"""Classes keep their names, in the order of their numbers, in all figures and results."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import pyrovae, train_small

from pyrovae import generation
from pyrovae.cli import figures
from pyrovae.errors import InputError
from pyrovae.recipes import Run

NAMES = ["702", "703", "7010"]  # as text, 7010 would come second


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """An M2 on folders of images that are called by numbers with gaps, to be read only."""
    folder, rng = tmp_path_factory.mktemp("numbered"), np.random.default_rng(0)
    for grey, name in enumerate(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(12):
            pixels = 80 * grey + rng.integers(0, 60, (4, 4))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / name / f"{number}.png")
    training = {"epochs": 1, "batch_size": 8}
    return train_small(folder / "run", "m2", data={"data": str(folder / "data")}, training=training)


@pytest.fixture
def shown(monkeypatch):
    """The figures that commands draw."""
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda run, figure, *name: drawn.append(figure))
    return drawn


def texts(figure):
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize("command", ["confusion", "class-samples", "analogies", "latent", "histograms"])
def test_figures_show_the_names(command, numbered, shown):
    pyrovae(command, numbered.folder, *(["--count", 2] if command == "analogies" else []))
    found = dict.fromkeys(text for text in texts(shown[0]) if text in NAMES)
    assert [*found] == NAMES


def test_a_class_is_asked_for_by_its_name(numbered, shown):
    pyrovae("manifold", numbered.folder, "--label", "703", "--steps", 3)
    assert "y = 703]" in shown[0].axes[0].get_title()
    expected = generation.only_site(generation.manifold(numbered.pair, 3, 1))
    other = generation.only_site(generation.manifold(numbered.pair, 3, 2))
    assert not torch.equal(expected, other)
    found = torch.from_numpy(np.asarray(shown[0].axes[0].images[0].get_array()))
    for pixels in expected.flatten(0, 1):
        assert any(torch.allclose(found[r : r + 4, c : c + 4], pixels[0]) for r, c in corners(found))
    with pytest.raises(InputError, match="unknown class '1'; choose from 702, 703, 7010"):
        pyrovae("manifold", numbered.folder, "--label", "1")


def corners(image):
    height, width = image.shape[:2]
    return [(r, c) for r in range(height - 3) for c in range(width - 3)]


def test_the_run_folder_and_its_results_hold_the_names(numbered, tmp_path):
    assert json.loads((numbered.folder / "config.json").read_text())["config"]["class_names"] == NAMES
    pyrovae("encode", numbered.folder, "--out", tmp_path / "z.npz")
    found = np.load(tmp_path / "z.npz")
    assert found["class_names"].tolist() == NAMES
    data = Run.open(numbered.folder).images
    assert str(data).endswith("3 classes: 702, 703, 7010")
    assert (data.x_train.flatten(1).mean(1) * 255 // 80).tolist() == data.y_train.tolist()


def test_no_escape_in_a_name_reaches_the_terminal(tmp_path):
    for name in ("cat\x1b[31m", "dog\n"):
        (tmp_path / "da\x1bta" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.full((4, 4), 40 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "da\x1bta" / name / f"{number}.png")
    words = ["--epochs", 1, "--width", 8, "--latent-dim", 2, "--device", "cpu", "--quiet"]
    folder = tmp_path / "r\x1bn"
    printed = pyrovae("train", "vae", "--data", tmp_path / "da\x1bta", "--out", folder, *words)
    printed += pyrovae("latent", folder)
    assert all(line.isprintable() for line in printed.splitlines())
    assert r"2 classes: cat\x1b[31m, dog" in printed
