"""pyrovae.data: the named data sets, a user's own files, splits and binarisation."""

import gzip
import hashlib
import http.server
import os
import struct
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.data import (
    DATASETS,
    Images,
    binarise,
    binarise_static,
    data_root,
    from_levels,
    labels_per_class,
    load,
    random_shift,
    stratified_split,
    to_levels,
)
from pyrovae.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


@pytest.fixture(autouse=True)
def global_state_stays_put():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays)
        return path

    return write


def write_images(folder, shape=(4, 3), n=5, mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new(mode, shape, i * 10 if mode == "L" else (i * 10, 0, 255)).save(folder / f"{i}.png")


def idx(array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files(n_train=6, n_test=3):
    files = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        files[f"{part}-images-idx3-ubyte"] = idx(GREY[:n])
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n, dtype=np.uint8))
    return files


def write_mnist(root, **kwargs):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files(**kwargs).items():
        (raw / name).write_bytes(content)
    return raw


# --- named data sets ---


def test_digits():
    data = load("digits")
    assert data.shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.name == "digits"
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert data.x_train.dtype == torch.float32
    assert data.y_train.dtype == torch.int64
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    sixteenths = data.x_train * 16
    assert torch.equal(sixteenths, sixteenths.round())
    again, other = load("digits"), load("digits", seed=1)
    assert torch.equal(data.x_train, again.x_train)
    assert torch.equal(data.y_test, again.y_test)
    assert not torch.equal(data.x_test, other.x_test)


def test_digits_keeps_images_beside_their_labels():
    from sklearn.datasets import load_digits

    truth = {x.tobytes(): y for x, y in zip(*load_digits(return_X_y=True), strict=True)}
    data = load("digits")
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        rows = (x * 16).double().reshape(len(x), -1).numpy()
        assert [truth[row.tobytes()] for row in rows] == y.tolist()


def test_idx_files_are_read_with_their_official_split(tmp_path):
    write_mnist(tmp_path)
    data = load("mnist", root=tmp_path)
    assert data.x_train.shape == (6, 1, 6, 5)
    assert data.x_test.shape == (3, 1, 6, 5)
    assert torch.equal(data.x_train[:, 0], torch.from_numpy(GREY[:6]).float() / 255)
    assert data.y_train.tolist() == list(range(6))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_absent_data_set_says_the_ways_out(name, tmp_path):
    with pytest.raises(InputError, match="No such file") as caught:
        load(name, root=tmp_path / "nowhere")
    message = str(caught.value)
    for part in (str(tmp_path / "nowhere"), "PYROVAE_DATA", "--download", "'digits'", ".npz"):
        assert part in message
    assert not (tmp_path / "nowhere").exists()


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(InputError, match=str(tmp_path)):
        load("mnist")
    monkeypatch.delenv("PYROVAE_DATA")
    assert data_root() == Path.home() / ".cache" / "pyrovae"


@pytest.mark.parametrize("download", [False, True])
def test_root_that_is_a_file(tmp_path, download):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        load("mnist", root=tmp_path / "file", download=download)


@pytest.mark.parametrize("download", [False, True])
def test_root_that_may_not_be_read(tmp_path, monkeypatch, download):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match=r"mnist cannot be read .*Permission denied"):
        load("mnist", root=tmp_path, download=download)


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_truncated_idx_file(tmp_path, keep):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"mnist cannot be read from .*raw: \S.*--download"):
        load("mnist", root=tmp_path)


def test_missing_idx_file(tmp_path):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="not found"):
        load("mnist", root=tmp_path)


def test_cifar_arrays_become_channels_first(tmp_path, monkeypatch):
    from torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    class Small:
        def __init__(self, root, train):
            self.data, self.targets = (pixels, [3, 1, 0, 2]) if train else (pixels[:2], [3, 1])

    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr(datasets, "CIFAR10", Small)
    data = load("cifar10", root=tmp_path)
    assert data.x_test.shape == (2, 3, 32, 32)
    assert np.allclose(data.x_train[2, 1].numpy() * 255, pixels[2, :, :, 1], atol=1e-4)
    assert data.y_train.tolist() == [3, 1, 0, 2]


def test_altered_cifar_pickle_is_not_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    code = b"cos\nmkdir\n(V" + str(tmp_path / "ran").encode() + b"\ntR."
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]:
        (folder / name).write_bytes(code)
    with pytest.raises(InputError, match="not found or corrupted"):
        load("cifar10", root=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "failure", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('gone')"]
)
def test_broken_torchvision(tmp_path, monkeypatch, failure):
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {failure}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"torchvision cannot be imported.*pip install"):
        load("mnist", root=tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local mirror of a small MNIST."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, content in idx_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        md5 = hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()
        resources.append((f"{name}.gz", md5))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_download(mirror, tmp_path):
    root = tmp_path / "new" / "root"
    data = load("mnist", root=root, download=True)
    assert len(data.x_train) == 6
    assert len(data.x_test) == 3
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == sorted(idx_files())
    assert [p.name for p in root.iterdir()] == ["MNIST"]


def test_download_repairs_a_truncated_file(mirror, tmp_path):
    raw = write_mnist(tmp_path / "root")
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    assert len(load("mnist", root=tmp_path / "root", download=True).x_train) == 6


@pytest.mark.parametrize("fault", ["no network", "altered"])
def test_failed_download_leaves_nothing(mirror, tmp_path, monkeypatch, fault):
    from torchvision.datasets import MNIST

    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    if fault == "no network":
        monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    root = tmp_path / "root"
    with pytest.raises(InputError, match="mnist could not be downloaded") as caught:
        load("mnist", root=root, download=True)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert list(root.iterdir()) == []


MNIST_ROOT = Path(os.environ.get("PYROVAE_DATA") or "/nonexistent")


@pytest.mark.mnist
@pytest.mark.skipif(not (MNIST_ROOT / "MNIST" / "raw").is_dir(), reason="PYROVAE_DATA holds no MNIST")
def test_real_mnist():
    data = load("mnist")
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert data.x_test.shape == (10_000, 1, 28, 28)
    assert data.num_classes == 10
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.x_train.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert torch.bincount(data.y_test)[:3].tolist() == [980, 1135, 1032]


# --- a user's own arrays ---


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


# --- image folders ---


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


# --- splits ---


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.37, 0.8])
def test_stratified_split(fraction):
    y = torch.tensor([0] * 57 + [1] * 20 + [4] * 11)
    train, test = stratified_split(y, fraction, seed=3)
    assert train.dtype == test.dtype == torch.int64
    assert sorted(train.tolist() + test.tolist()) == list(range(88))
    for part, share in ((train, 1 - fraction), (test, fraction)):
        for label in (0, 1, 4):
            assert abs((y[part] == label).sum() - share * (y == label).sum()) <= 1
    again, other = stratified_split(y, fraction, seed=3), stratified_split(y, fraction, seed=4)
    assert torch.equal(test, again[1])
    assert not torch.equal(test, other[1])
    assert not torch.equal(train, train.sort().values)


def test_split_without_labels():
    train, test = stratified_split(None, 0.25, n=20)
    assert len(test) == 5
    assert sorted(torch.cat([train, test]).tolist()) == list(range(20))
    with pytest.raises(InputError, match="needs n"):
        stratified_split(None)


def test_split_errors():
    for fraction in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"test_fraction is {fraction}"):
            stratified_split([0, 0, 1, 1], fraction)
    with pytest.raises(InputError, match="class 7 has a single member"):
        stratified_split([0, 0, 7])
    with pytest.raises(InputError, match=r"4 data cannot be split, with a fraction of 0.2 held out"):
        stratified_split([0, 0, 1, 1])
    with pytest.raises(InputError, match="0 data cannot be split"):
        stratified_split(None, n=0)


def test_labels_per_class():
    y = load("digits").y_train
    few, more = labels_per_class(y, 3, seed=1), labels_per_class(y, 10, seed=1)
    assert few.dtype == torch.int64
    assert torch.equal(few, few.sort().values)
    assert torch.bincount(y[few]).tolist() == [3] * 10
    assert len(set(more.tolist())) == 100
    assert set(few.tolist()) < set(more.tolist())
    assert torch.equal(few, labels_per_class(y, 3, seed=1))
    assert not torch.equal(few, labels_per_class(y, 3, seed=2))
    assert labels_per_class(np.array([5, 2, 5, 2]), 2).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("per_class", [0, 3])
def test_labels_per_class_errors(per_class):
    with pytest.raises(InputError, match=f"per_class is {per_class}, but class 1 has 2 members"):
        labels_per_class(torch.tensor([1, 1, 2, 2, 2]), per_class)


# --- pixels ---


@pytest.fixture
def forked_rng():
    with torch.random.fork_rng():
        yield


def test_binarise_is_a_fresh_draw_with_the_grey_value_as_mean(forked_rng):
    torch.manual_seed(0)
    x, n = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]), 20_000
    draws = binarise(x.expand(n, 5))
    assert draws.dtype == x.dtype
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((draws.mean(0) - x).abs() <= 4 * (x * (1 - x) / n).sqrt()).all()
    assert not torch.equal(draws, binarise(x.expand(n, 5)))
    torch.manual_seed(0)
    assert torch.equal(draws, binarise(x.expand(n, 5)))


def test_binarise_static_is_one_draw():
    x = torch.full((50, 4), 0.5, dtype=torch.float64)
    draw = binarise_static(x, seed=3)
    assert draw.dtype == x.dtype
    assert torch.equal(draw, binarise_static(x, seed=3))
    assert not torch.equal(draw, binarise_static(x, seed=4))
    assert torch.equal(draw, binarise(x, generator=torch.Generator().manual_seed(3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_binarise_on_the_gpu():
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(binarise_static(x.cuda()).cpu(), binarise_static(x))


def test_levels():
    levels = torch.arange(256.0)
    assert torch.equal(to_levels(from_levels(levels)), levels)
    assert torch.equal(to_levels(torch.arange(256) / 255), levels)
    x = torch.linspace(0, 1, 1001)
    assert (from_levels(to_levels(x)) - x).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("bad", [-0.1, 256.0, float("nan")])
@pytest.mark.parametrize("convert", [binarise, binarise_static, to_levels, from_levels])
def test_pixels_out_of_range(convert, bad):
    with pytest.raises(InputError, match=r"was given values in .*, expected \[0, "):
        convert(torch.tensor([0.5, bad]))
    with pytest.raises(InputError, match=r"was given torch.uint8, expected floats"):
        convert(torch.zeros(2, dtype=torch.uint8))


def test_shifted_images_are_the_image_elsewhere():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, 5, 7, generator=generator)
    shifted = random_shift(x, 2, generator)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    windows = {
        (down, across): padded[:, :, down : down + 5, across : across + 7]
        for down in range(5)
        for across in range(5)
    }
    found = [
        {place for place, window in windows.items() if torch.equal(window[n], shifted[n])}
        for n in range(200)
    ]
    assert all(len(places) == 1 for places in found)
    assert set().union(*found) == windows.keys(), "every place occurs"


def test_a_shift_by_nothing_changes_nothing():
    x = torch.arange(100.0).reshape(4, 1, 5, 5)
    assert torch.equal(random_shift(x, 0, torch.Generator()), x)


@pytest.mark.parametrize(("shape", "pixels"), [((4, 25), 1), ((4, 1, 5, 5), -1)])
def test_what_cannot_be_shifted_is_refused(shape, pixels):
    with pytest.raises(InputError, match="cannot be shifted"):
        random_shift(torch.zeros(shape), pixels)
