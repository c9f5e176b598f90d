"""A user's own folders of images."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.data import load
from pyrovae.data.image_folders import read_image_folder
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
    assert data.class_names == ("a", "b")
    assert torch.equal(data.x_train[:, 0, 0, 0], (100 + 100 * data.y_train) / 255)
    assert torch.bincount(data.y_test).tolist() == [2, 2]


def shades(folder, shade, n=5, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("L", (4, 3), shade).save(folder / f"{i}.{suffix}")


def grey(x):
    return (x[:, 0, 0, 0] * 255).round().tolist()


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "testing")])
def test_folders_train_and_test_are_the_split(tmp_path, names):
    shades(tmp_path / names[0], 10, 6)
    shades(tmp_path / names[1], 20, 3)
    data = load(tmp_path)
    assert (grey(data.x_train), grey(data.x_test)) == ([10] * 6, [20] * 3)
    assert data.y_train is None


def test_folders_train_and_test_hold_classes(tmp_path):
    for part in ("train", "test"):
        shades(tmp_path / part / "dog", 200, 3)
    shades(tmp_path / "train" / "ant", 50, 2)
    data = load(tmp_path)
    assert data.class_names == ("ant", "dog")
    assert data.y_train.tolist() == [0, 0, 1, 1, 1]
    assert grey(data.x_train) == [50] * 2 + [200] * 3
    assert data.y_test.tolist() == [1, 1, 1]
    shades(tmp_path / "test" / "cat", 60)
    with pytest.raises(InputError, match="test holds the class cat, and train does not"):
        load(tmp_path)


def test_folders_that_may_be_parts_are_refused_beside_others(tmp_path):
    shades(tmp_path / "train", 10)
    shades(tmp_path / "val", 10)
    for name in ("test", "dog"):
        with pytest.raises(InputError, match=r"holds the folders .*train, val: expected a folder for"):
            load(tmp_path)
        shades(tmp_path / name, 10)


def test_a_folder_train_beside_cars_is_a_class(tmp_path):
    shades(tmp_path / "train", 10)
    shades(tmp_path / "car", 20)
    assert load(tmp_path).class_names == ("car", "train")


def test_one_part_with_classes_and_one_without_are_refused(tmp_path):
    shades(tmp_path / "train" / "dog", 10)
    shades(tmp_path / "test", 10)
    with pytest.raises(InputError, match="give both, or none"):
        load(tmp_path)


def test_nested_images_are_read_and_those_of_other_formats_are_counted(tmp_path):
    shades(tmp_path / "dog", 10)
    shades(tmp_path / "dog" / "batch2" / "more", 10)
    shades(tmp_path / "cat", 20, suffix="jfif")
    (tmp_path / "dog" / "round").symlink_to(tmp_path / "dog")
    data = load(tmp_path)
    assert len(data.x_train) + len(data.x_test) == 15
    assert sum(grey(data.x_train) + grey(data.x_test)) == 10 * 10 + 5 * 20
    for name in ("a.jp2", "b.JP2", "c.heic", "notes.txt"):
        (tmp_path / "cat" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat: images of other formats are left out \(1 .heic, 2 .jp2\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["Zebra", "ant"], ("Zebra", "ant")),
        (["11", "2", "0", "10"], ("0", "2", "10", "11")),
        (["1", "10", "2b"], ("1", "10", "2b")),
    ],
)
def test_class_numbers_follow_the_names_on_every_system(tmp_path, monkeypatch, folders, expected):
    """Paths of Windows are compared without regard to case."""
    monkeypatch.setattr(type(tmp_path), "__lt__", lambda a, b: str(a).lower() < str(b).lower())
    for shade, name in enumerate(expected):
        shades(tmp_path / name, 10 * shade)
    assert set(folders) == set(expected)
    data = load(tmp_path)
    assert data.class_names == expected
    assert grey(data.x_train) == (10 * data.y_train).tolist()


def test_own_folders_that_are_called_like_a_known_set_keep_their_own_classes(tmp_path):
    shades(tmp_path / "fashion-mnist" / "bag", 10)
    shades(tmp_path / "fashion-mnist" / "ankle boot", 20)
    assert load(tmp_path / "fashion-mnist").class_names == ("ankle boot", "bag")


def test_persons_with_one_image_each_among_others(tmp_path):
    for name, n in (("ann", 6), ("bob", 1), ("cid", 1)):
        shades(tmp_path / name, 10, n)
    data = load(tmp_path)
    assert set(data.y_train.tolist()) == {0, 1, 2}
    assert data.y_test.tolist() == [0, 0]


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


def test_a_link_puts_no_image_into_two_classes(tmp_path):
    shades(tmp_path / "a", 10)
    shades(tmp_path / "b", 20)
    (tmp_path / "a" / "bb").symlink_to("../b")
    with pytest.raises(InputError, match=r"b/0\.png and an image in .*a are one file, by a link"):
        load(tmp_path)
    (tmp_path / "a" / "bb").unlink()
    (tmp_path / "a" / "one.png").symlink_to("../b/0.png")
    with pytest.raises(InputError, match="are one file, by a link"):
        load(tmp_path)


def test_a_link_puts_no_image_into_both_parts(tmp_path):
    shades(tmp_path / "train", 10)
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(InputError, match=r"test/0\.png and an image in .*train are one file"):
        load(tmp_path)


def test_images_outside_are_linked_and_each_is_read_once(tmp_path):
    shades(tmp_path / "store", 10, 6)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(6):
        place = tmp_path / "data" / "ab"[number % 2]
        (place / f"{number}.png").symlink_to(tmp_path / "store" / f"{number}.png")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "twice.png").symlink_to(tmp_path / "store" / "0.png")
    data = load(tmp_path / "data")
    assert len(data.x_train) + len(data.x_test) == 6


def test_loose_images_beside_train_and_test_are_refused(tmp_path):
    shades(tmp_path / "train", 10)
    shades(tmp_path / "test", 10)
    shades(tmp_path, 20, 1)
    with pytest.raises(InputError, match=r"holds both images \(0\.png\) and folders \(test\)"):
        load(tmp_path)


def test_a_folder_that_stands_alone_is_no_class(tmp_path):
    shades(tmp_path / "data" / "train", 10)
    with pytest.raises(InputError, match=r"no folder but train.* name .*train instead, or put train"):
        load(tmp_path / "data")
    assert load(tmp_path / "data" / "train").num_classes == 0, "the remedy"
    shades(tmp_path / "data" / "test", 10, 3)
    assert len(load(tmp_path / "data").x_test) == 3, "the other one"


@pytest.mark.parametrize("to_train", [True, False])
def test_a_folder_around_the_class_folders_is_no_class(tmp_path, to_train):
    for name in ("cat", "dog"):
        shades(tmp_path / "all" / "pets" / name, 10)
    (tmp_path / "all" / "__MACOSX").mkdir()
    with pytest.raises(InputError, match=r"no folder but pets, .*: name .*all/pets instead"):
        read_image_folder(tmp_path / "all", to_train)
    assert load(tmp_path / "all" / "pets").class_names == ("cat", "dog")
    for part in ("train", "test"):
        (tmp_path / "split" / part).mkdir(parents=True)
        (tmp_path / "split" / part / "pets").symlink_to(tmp_path / "all" / "pets")
    with pytest.raises(InputError, match=r"move what .*pets holds into"):
        read_image_folder(tmp_path / "split", to_train)


def test_images_of_a_single_class_can_be_scored(tmp_path):
    shades(tmp_path / "cat", 10)
    arrays, names = read_image_folder(tmp_path, to_train=False)
    assert (names, arrays["y"].tolist()) == (("cat",), [0] * 5)
    with pytest.raises(InputError, match=r"which would be the only class: name .*cat instead"):
        load(tmp_path)


def test_what_archives_and_systems_add_is_no_class_and_hidden_images_are_counted(tmp_path):
    for name in ("cat", "dog"):
        shades(tmp_path / name, 10)
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "cat" / "._0.png").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path).class_names == ("cat", "dog")
    shades(tmp_path / "cat" / ".old" / "more", 10, 3)
    shades(tmp_path / ".eel", 10, 2)
    with pytest.warns(UserWarning, match=r"5 images in hidden folders are left out \(\.eel, cat/\.old\)"):
        load(tmp_path)


def test_names_that_are_no_text_are_written_as_they_can_be(tmp_path):
    odd = os.fsencode(tmp_path) + b"/cat\xff"
    shades(tmp_path / "dog\x1b[31m", 10)
    os.mkdir(odd)
    shades(Path(os.fsdecode(odd)), 20)
    data = load(tmp_path)
    assert data.class_names == ("cat\\xff", "dog\x1b[31m")
    assert str(data).isprintable(), "no escape reaches the terminal"
    assert str(data).endswith(r"2 classes: cat\xff, dog\x1b[31m")
