"""A user's own NumPy files: shapes, values, classes, and what is refused."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae.data import DATASETS, Images, labels_per_class, load, stratified_split
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")

GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


def test_npz_with_its_own_split(save):
    y = np.arange(20) % 3
    data = load(save(x_train=GREY[:15], x_test=GREY[15:], y_train=y[:15], y_test=y[15:]))
    assert data.name == "mine"
    assert data.shape == (1, 6, 5)
    assert data.num_classes == 3
    assert torch.equal(data.x_test[:, 0], torch.from_numpy(GREY[15:]).float() / 255)
    assert data.y_test.tolist() == y[15:].tolist()


def test_npz_is_split_by_class(save):
    y = np.arange(20) % 2
    data = load(save(x=GREY, y=y))
    assert len(data.x_train) == 16
    assert torch.bincount(data.y_test).tolist() == [2, 2]
    truth = {(x.astype(np.float32) / 255).tobytes(): c for x, c in zip(GREY, y, strict=True)}
    assert [truth[x.numpy().tobytes()] for x in data.x_train] == data.y_train.tolist()


def test_npy_has_no_labels(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    data = load(str(tmp_path / "a.npy"))
    assert data.y_train is None
    assert data.y_test is None
    assert data.num_classes == 0
    assert len(data.x_train) == 16
    assert not torch.equal(data.x_test, load(tmp_path / "a.npy", seed=1).x_test)


@pytest.mark.parametrize(
    ("shape", "event"),
    [
        ((4, 7), (7,)),
        ((4, 7, 6), (1, 7, 6)),
        ((4, 7, 6, 1), (1, 7, 6)),
        ((4, 7, 6, 3), (3, 7, 6)),
        ((4, 1, 7, 6), (1, 7, 6)),
        ((4, 3, 7, 6), (3, 7, 6)),
    ],
)
def test_shapes(save, shape, event):
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    data = load(save(x_train=x, x_test=x))
    assert data.shape == event
    assert data.x_train.is_contiguous()
    expected = np.moveaxis(x, -1, 1) if event[0] == shape[-1] and len(shape) == 4 else x
    assert np.array_equal(data.x_train.numpy().ravel(), expected.ravel())


@pytest.mark.parametrize("shape", [(4,), (4, 7, 6, 2), (4, 3, 7, 3), (4, 1, 7, 6, 1), ()])
def test_other_shapes_are_refused(save, shape):
    with pytest.raises(InputError, match=r"shape.*expected \(N, D\), \(N, H, W\)"):
        load(save(x=np.zeros(shape)))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.array([[[0, 51, 255]]] * 2, dtype=np.uint8), [0, 0.2, 1]),
        (np.array([[[0, 51, 255]]] * 2, dtype=np.int64), [0, 0.2, 1]),
        (np.array([[[0, 51, 255]]] * 2, dtype=">i4"), [0, 0.2, 1]),
        (np.array([[[0, 1, 1]]] * 2, dtype=np.uint8), [0, 1, 1]),
        (np.array([[[False, True, True]]] * 2), [0, 1, 1]),
        (np.array([[[0, 0.5, 1]]] * 2, dtype=">f8"), [0, 0.5, 1]),
        (np.array([[[0, 0.5, 1]]] * 2, dtype=np.float16), [0, 0.5, 1]),
        (np.array([[-7.5, 0, 300]] * 2), [-7.5, 0, 300]),
        (np.array([[0, 51, 255]] * 2, dtype=np.uint8), [0, 0.2, 1]),
        (np.array([[0, 51, 255]] * 2, dtype=np.int64), [0, 51, 255]),
        (np.array([[0, 1, 2]] * 2, dtype=np.int8), [0, 1, 2]),
        (np.array([[-1, 16800]] * 2, dtype=">i4"), [-1, 16800]),
    ],
)
def test_values(save, x, expected):
    data = load(save(x_train=x, x_test=x))
    assert data.x_train.dtype == torch.float32
    assert torch.allclose(data.x_train[1].flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.full((3, 2, 2), 200.0), r"lies in \[200, 200\], expected \[0, 1\].*divide"),
        (np.full((3, 2, 2), -0.5), r"\[-0.5, -0.5\]"),
        (np.full((3, 2, 2), 256), r"\[256, 256\], expected \[0, 255\]"),
        (np.array([[0.0, 1], [np.nan, np.inf]]), "2 NaN or infinite values .*the first in row 1"),
        (np.array([[0.0], [1e39]]), "1 NaN or infinite values as 32-bit floats, .* in row 1"),
        (np.zeros((0, 4)), r"empty, of shape \(0, 4\)"),
        (np.zeros((4, 0, 3)), "empty"),
        (np.zeros((4, 3), dtype=complex), "dtype complex128"),
        (np.array([["a"], ["b"]]), "dtype <U1"),
        (np.zeros((1, 3)), "one sample cannot be split"),
    ],
)
def test_bad_values(save, x, match):
    with pytest.raises(InputError, match=match):
        load(save(x=x))


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.arange(19) % 2, "20 data but 19 labels"),
        (np.arange(21) % 2, "20 data but 21 labels"),
        (np.zeros((0,), dtype=int), r"y has shape \(0,\)"),
        (np.zeros((0, 16), dtype=np.float32), r"y has shape \(0, 16\) and dtype float32"),
        (np.arange(20) / 2, "y holds 0.5, which is no class"),
        (np.where(np.arange(20) % 3, 1.0, np.nan), "y holds nan, which is no class"),
        (np.array([["cat"]] * 20), r"shape \(20, 1\)"),
        (np.zeros((20, 2), dtype=int), r"shape \(20, 2\)"),
        (np.arange(20) % 2 - 1, "label -1, which stands for an unlabelled datum"),
        (np.array(["-1", "cat"] * 10), "label -1, which stands for an unlabelled datum"),
    ],
)
def test_bad_labels(save, y, match):
    with pytest.raises(InputError, match=match):
        load(save(x=GREY, y=y))


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (["setosa", "virginica", "versicolor", "setosa"] * 5, ("setosa", "versicolor", "virginica")),
        ([b"no", b"yes"] * 10, ("no", "yes")),
        (np.array([1, 3, 5, 3] * 5), ("1", "3", "5")),
        (np.array([1.0, 0.0] * 10), ("0", "1")),
        (np.array([2.0, -7.0] * 10, np.float32), ("-7", "2")),
        (np.array([0, 2**64 - 1] * 10, np.uint64), ("0", str(2**64 - 1))),
    ],
    ids=["text", "bytes", "gaps", "floats", "negative floats", "uint64"],
)
def test_classes_are_called_by_their_values(save, y, names):
    x = np.arange(20)[:, None] * 10.0
    data = load(save(x=x, y=y))
    assert data.class_names == names
    told = np.asarray(y).astype(str if np.asarray(y).dtype.kind in "US" else object)
    for part, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for value, label in zip(part[:, 0].tolist(), labels.tolist(), strict=True):
            assert str(told[int(value) // 10]).removesuffix(".0") == names[label]


def test_class_names_put_text_in_order(save):
    y = np.array(["low", "high", "middle", "low"] * 5)
    data = load(save(x=GREY, y=y, class_names=np.array(["low", "middle", "high"])))
    assert data.class_names == ("low", "middle", "high")
    assert (torch.cat([data.y_train, data.y_test]) == 0).sum() == 10
    with pytest.raises(InputError, match="holds the class 'middle', but class_names are low, high"):
        load(save(x=GREY, y=y, class_names=np.array(["low", "high"])))
    with pytest.raises(InputError, match="3 classes up to 3, and none is 2: number the classes"):
        load(save(x=GREY, y=np.array([0, 1, 3, 0] * 5), class_names=np.array([*"abcd"])))
    x = {"x_train": GREY, "x_test": GREY[:2]}
    with pytest.raises(InputError, match="y_test holds the class huge, and y_train does not"):
        load(save(**x, y_train=y, y_test=np.array(["low", "huge"])))


def test_a_table_of_text_is_refused_with_the_way_to_a_npz(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("a,b\n" + "1.5,2\n" * 10)
    with pytest.raises(InputError, match=r"the suffix '\.csv'.* pandas.read_csv.* numpy.savez"):
        load("mine.csv")
    table = pandas.read_csv("mine.csv")
    np.savez("table.npz", x=table, column_names=table.columns.to_numpy(str))
    assert load("table.npz").column_names == ("a", "b")


def test_parts_that_do_not_fit(save):
    with pytest.raises(InputError, match=r"\(1, 6, 5\) in x_train but \(1, 5, 5\) in x_test"):
        load(save(x_train=GREY, x_test=GREY[:, 1:]))
    with pytest.raises(InputError, match="x_test has 20 data but 3 labels"):
        load(save(x_train=GREY, x_test=GREY, y_test=np.zeros(3, dtype=int)))
    x = torch.zeros(2, 3)
    with pytest.raises(InputError, match="x_train has 2 data but 3 labels"):
        Images("own", x, torch.zeros(3, dtype=torch.int64), x, None)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", ">i4", "uint64", "bool"])
def test_classes_of_any_integer_type(save, kind):
    data = load(save(x=GREY, y=(np.arange(20) % 2).astype(kind)))
    assert data.y_train.dtype == torch.int64
    assert sorted(data.y_train.tolist()) == [0] * 8 + [1] * 8


def test_a_class_that_only_test_data_have_is_refused(save):
    y = np.arange(20) % 3
    with pytest.raises(InputError, match="y_test holds the class 3, and y_train does not"):
        load(save(x_train=GREY, x_test=GREY, y_train=y, y_test=y + 1))
    data = load(save(x_train=GREY, x_test=GREY, y_train=y, y_test=y % 2))
    assert data.num_classes == 3


def test_what_was_read_is_said(save):
    y = np.arange(20) % 2
    assert str(load(save(x=GREY, y=y))) == (
        "mine: 16 data for training and 4 for testing, each 1x6x5, 2 classes: 0, 1"
    )
    assert str(load(save(x=GREY))).endswith("each 1x6x5, without classes")
    assert str(load("digits")).endswith("10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")


@pytest.mark.parametrize("kind", ["f4", "f8", "u1"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_loading_takes_little_more_memory_than_its_result(tmp_path, suffix, kind):
    """The peak of all NumPy's and torch's memory, beside the result: 1.5 times the tensors at most."""
    x = np.zeros((4000, 50, 50), dtype=kind)  # 40 MB as tensors
    path = tmp_path / f"a.{suffix}"
    np.save(path, x) if suffix == "npy" else np.savez_compressed(path, x=x)
    tracemalloc.start()
    data = load(path)
    size = sum(part.nbytes for part in (data.x_train, data.x_test))
    others = tracemalloc.get_traced_memory()[1]  # torch's own memory is not traced: the result itself
    tracemalloc.stop()
    assert size == 4 * x.size
    assert others < 0.5 * size


def test_a_large_array_is_read_in_blocks_of_rows(tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((50, 4, 4, 3), dtype=np.float32)
    y = np.arange(50) % 2
    expected = load_saved(tmp_path, x, y)
    monkeypatch.setattr("pyrovae.data.blocks._VALUES", 7 * 48)  # 7 rows
    found = load_saved(tmp_path, x, y)
    truth = {row.tobytes(): label for row, label in zip(np.moveaxis(x, -1, 1).copy(), y, strict=True)}
    for part in ("train", "test"):
        one, other = getattr(found, f"x_{part}"), getattr(expected, f"x_{part}")
        assert torch.equal(one, other)
        assert [truth[row.numpy().tobytes()] for row in one] == getattr(found, f"y_{part}").tolist()


def load_saved(folder, x, y):
    np.savez(folder / "a.npz", x=x, y=y)
    return load(folder / "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_by_rows_and_by_columns(save, order):
    x = np.asarray(np.random.default_rng(0).random((6, 4, 5)), order=order)
    data = load(save(x_train=x, x_test=x))
    assert torch.equal(data.x_train[:, 0], torch.from_numpy(np.ascontiguousarray(x)).float())


def claims(shape, kind="|u1", order=False):
    """An array of 8 bytes whose header claims another shape."""
    header = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)


@pytest.mark.parametrize("shape", [(10**12, 4), (2**40, 2**40), (9, 1), (-8, 1)])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_files_that_claim_more_than_they_hold_are_refused(tmp_path, suffix, shape):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(claims(shape))
    if suffix == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", claims(shape))
    with pytest.raises(InputError, match=r"a\.np. cannot be read: .*claims"):
        load(path)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_files_that_go_on_after_their_values_are_refused(tmp_path, suffix):
    """numpy.save writes several arrays into one open file, of which numpy.load reads the first."""
    path = tmp_path / f"a.{suffix}"
    with open(path, "wb") as file:
        np.save(file, GREY)
        np.save(file, GREY)
    if suffix == "npz":
        content = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    with pytest.raises(InputError, match=rf"a\.{suffix} cannot be read: .* goes on for 728 bytes after"):
        load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["x.npy", "x"])
def test_two_arrays_of_one_name_are_refused(save, other):
    path = save(x=GREY)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(other, archive.read("x.npy"))
    with pytest.raises(InputError, match="it holds two arrays of the name x"):
        load(path)


def test_arrays_that_are_not_read_are_named(save):
    with pytest.warns(UserWarning, match="only x_train, x_test are read, and x_val, mask are left out"):
        load(save(x_train=GREY, x_test=GREY, x_val=GREY, mask=GREY > 3))
    with pytest.warns(UserWarning, match="only x_train, x_test are read, and x, y are left out"):
        data = load(save(x_train=GREY[:9], x_test=GREY, x=GREY, y=np.zeros(20, int)))
    assert (len(data.x_train), data.y_train) == (9, None)
    with pytest.warns(UserWarning, match="only x are read, and y_train are left out"):
        load(save(x=GREY, y_train=np.zeros(20, int)))


def test_classes_of_an_npz_may_have_names(save):
    y = np.arange(20) % 2
    data = load(save(x=GREY, y=y, class_names=np.array(["cat", "dog"])))
    assert data.class_names == ("cat", "dog")
    assert "2 classes: cat, dog" in str(data)
    for names, message in (
        (np.array(["cat"]), "holds the class 1, but names 1 classes"),
        (np.array(["cat", "cat"]), "gives the name 'cat' to two classes"),
        (np.array([0, 1]), "dtype int64, expected text of shape"),
    ):
        with pytest.raises(InputError, match=message):
            load(save(x=GREY, y=y, class_names=names))


def test_an_archive_that_holds_too_much_for_the_memory_is_refused(save, monkeypatch):
    monkeypatch.setattr("pyrovae.compute.memory._most", lambda: 2000)
    with pytest.raises(InputError, match=r"mine: x needs 2.4 kB, and there are 2.0 kB in all"):
        load(save(x=GREY))


def test_members_that_are_no_arrays_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"just bytes, as long as a header")
    with pytest.raises(InputError, match=r"a.npz cannot be read: .*magic"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_fifo_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not an ordinary file"):
        load(tmp_path / name)


def test_homes_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match=r"~nosuchuser/x.npz cannot be found.*Give the whole path"):
        load("~nosuchuser/x.npz")


def test_masked_values_are_refused_and_masks_of_nothing_taken():
    hidden = np.ma.masked_array([0, 1, 1, 0], mask=[False, True, False, False])
    for take in (stratified_split, lambda y: labels_per_class(y, 1)):
        with pytest.raises(InputError, match="1 of whose 4 values are masked: leave out"):
            take(hidden)
    train, test = stratified_split(np.ma.masked_array([0, 0, 0, 0, 1, 1, 1, 1]), 0.5)
    assert len(train) == len(test) == 4


def test_other_keys(save):
    with pytest.raises(InputError, match=r"holds the arrays \['x_train', 'z'\]: name them"):
        load(save(x_train=GREY, z=GREY))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_pickled_objects_are_not_opened(tmp_path, suffix):
    path, array = tmp_path / f"a.{suffix}", np.array([Trap(str(tmp_path / "ran"))])
    np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
    with pytest.raises(InputError, match="holds Python objects"):
        load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("keep", [0, 5, 300])
def test_damaged_arrays(tmp_path, suffix, keep):
    path = tmp_path / f"a.{suffix}"
    np.save(path, GREY) if suffix == "npy" else np.savez(path, x=GREY)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"a.{suffix} cannot be read: .*damaged"):
        load(path)


def test_damaged_content_of_npz(save):
    path = save(x=GREY)
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read: .*damaged"):
        load(path)


def test_paths_that_are_not_data(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"suffix '.csv': give a .npz"):
        load(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"neither a data set .* nor an existing file"):
        load(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="nor an existing file"):
        load("")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(InputError, match=r"a.npz cannot be read: Permission denied"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "near"),
    [("MNIST", "mnist"), ("fashion_mnist", "fashion-mnist"), ("cifar", "cifar10")],
)
def test_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(InputError, match=f"Did you mean '{near}'") as caught:
        load(name)
    assert all(known in str(caught.value) for known in DATASETS)
    with pytest.raises(InputError) as caught:
        load("zzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_bad_seed(seed):
    with pytest.raises(InputError, match=f"seed is {seed}"):
        load("digits", seed=seed)
