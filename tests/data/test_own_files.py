"""A user's own NumPy files: shapes, values, classes, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae.data import DATASETS, Images, load
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
        (np.full((3, 2), -1), r"\[-1, -1\], expected \[0, 255\]"),
        (np.array([[0.0, 1], [np.nan, np.inf]]), "2 NaN or infinite values, the first in row 1"),
        (np.array([[0.0], [1e39]]), "1 NaN or infinite values, the first in row 1"),
        (np.zeros((0, 4)), r"empty, of shape \(0, 4\)"),
        (np.zeros((4, 0, 3)), "empty"),
        (np.zeros((4, 3), dtype=complex), "dtype complex128"),
        (np.array([["a"], ["b"]]), "dtype <U1"),
        (np.zeros((1, 3)), "1 data cannot be split"),
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
        (np.arange(20) % 2 * 1.0, "dtype float64, expected integer classes"),
        (np.array(["cat"] * 20), "expected integer classes"),
        (np.zeros((20, 2), dtype=int), r"shape \(20, 2\)"),
        (np.arange(20) % 2 - 1, "label -1"),
        (np.arange(20) // 19, "class 1 has a single member"),
    ],
)
def test_bad_labels(save, y, match):
    with pytest.raises(InputError, match=match):
        load(save(x=GREY, y=y))


def test_parts_that_do_not_fit(save):
    with pytest.raises(InputError, match=r"\(1, 6, 5\) in x_train but \(1, 5, 5\) in x_test"):
        load(save(x_train=GREY, x_test=GREY[:, 1:]))
    with pytest.raises(InputError, match="x_test has 20 data but 3 labels"):
        load(save(x_train=GREY, x_test=GREY, y_test=np.zeros(3, dtype=int)))
    x = torch.zeros(2, 3)
    with pytest.raises(InputError, match="x_train has 2 data but 3 labels"):
        Images("own", x, torch.zeros(3, dtype=torch.int64), x, None)


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


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seed(seed):
    with pytest.raises(InputError, match=f"seed is {seed}"):
        load("digits", seed=seed)
