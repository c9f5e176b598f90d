"""A user's own folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.data import load
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")


def write_images(folder, shape=(4, 3), n=5, mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new(mode, shape, i * 10 if mode == "L" else (i * 10, 0, 255)).save(folder / f"{i}.png")


def test_class_folders(tmp_path):
    for folder, shade in (("b", 200), ("a", 100)):
        (tmp_path / folder).mkdir()
        for i in range(10):
            Image.new("L", (4, 3), shade).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    data = load(tmp_path)
    assert data.name == tmp_path.name
    assert data.shape == (1, 3, 4)
    assert data.num_classes == 2
    assert torch.equal(data.x_train[:, 0, 0, 0], (100 + 100 * data.y_train) / 255)
    assert torch.bincount(data.y_test).tolist() == [2, 2]


def test_flat_folder_in_colour(tmp_path):
    write_images(tmp_path / "flat", mode="RGB")
    data = load(tmp_path / "flat")
    assert data.shape == (3, 3, 4)
    assert data.y_train is None
    x = torch.cat([data.x_train, data.x_test])
    assert sorted((x[:, 0, 0, 0] * 255).round().tolist()) == [0, 10, 20, 30, 40]
    assert (x[:, 1] == 0).all()
    assert (x[:, 2] == 1).all()


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("P", 3), ("RGBA", 3), ("LA", 1)])
def test_other_modes(tmp_path, mode, channels):
    for i in range(5):
        Image.new("L", (4, 3), 255).convert(mode).save(tmp_path / f"{i}.png")
    data = load(tmp_path)
    assert data.shape == (channels, 3, 4)
    assert (data.x_train == 1).all()


def test_images_that_differ(tmp_path):
    write_images(tmp_path)
    Image.new("L", (8, 3)).save(tmp_path / "3.png")
    Image.new("L", (9, 3)).save(tmp_path / "4.png")
    with pytest.raises(InputError, match=r"3.png is 8x3 grey, but .*0.png is 4x3 grey"):
        load(tmp_path)
    Image.new("RGB", (4, 3)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"1.png is 4x3 colour, but .*0.png is 4x3 grey"):
        load(tmp_path)


def test_unreadable_images(tmp_path):
    write_images(tmp_path, shape=(40, 30))
    file = tmp_path / "2.png"
    content = file.read_bytes()
    for broken in (b"", b"not an image", content[: len(content) // 2]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"2.png cannot be read as an image: \S"):
            load(tmp_path)
    Image.new("RGBA", (40, 30), (0, 0, 0, 9)).save(file)
    with pytest.raises(InputError, match=r"2.png has transparent pixels"):
        load(tmp_path)
    Image.fromarray(np.full((30, 40), 60_000, dtype=np.uint16)).save(file)
    with pytest.raises(InputError, match=r"2.png has more than 8 bits"):
        load(tmp_path)


def test_folders_that_hold_no_images(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        load(tmp_path)
    write_images(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b holds no images"):
        load(tmp_path)
    write_images(tmp_path)
    with pytest.raises(InputError, match=r"both images .* and folders"):
        load(tmp_path)
