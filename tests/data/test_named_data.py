"""The data sets that are known by name: the table, the digits, and torchvision's."""

import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.data import DATASETS, Images, data_root, load
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")

GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


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


@pytest.fixture
def small_mnist(monkeypatch):
    """Small files are the published ones."""
    for name, content in idx_files().items():
        monkeypatch.setitem(DATASETS["mnist"].md5, name, hashlib.md5(content).hexdigest())


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


def test_idx_files_are_read_with_their_official_split(tmp_path, small_mnist):
    write_mnist(tmp_path)
    data = load("mnist", root=tmp_path)
    assert data.x_train.shape == (6, 1, 6, 5)
    assert data.x_test.shape == (3, 1, 6, 5)
    assert torch.equal(data.x_train[:, 0], torch.from_numpy(GREY[:6]).float() / 255)
    assert data.y_train.tolist() == list(range(6))


@pytest.mark.parametrize("name", sorted(idx_files()))
def test_a_flipped_bit_of_mnist_is_found(tmp_path, small_mnist, name):
    file = write_mnist(tmp_path) / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged: it is not the published file"):
        load("mnist", root=tmp_path)


def test_files_of_old_versions_of_torchvision_are_not_read(tmp_path, small_mnist):
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        stale = (torch.zeros(20, 6, 5, dtype=torch.uint8), torch.zeros(20, dtype=torch.long))
        torch.save(stale, tmp_path / "MNIST" / "processed" / name)
    assert len(load("mnist", root=tmp_path).x_train) == 6


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match=r"home directory\. .*Set PYROVAE_DATA"):
        load("mnist")


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


def test_missing_idx_file(tmp_path, small_mnist):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="No such file"):
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


def test_torchvision_that_is_not_installed_is_told_with_the_extra(tmp_path, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [])
    for name in ("mnist", "fashion-mnist", "cifar10"):
        with pytest.raises(
            InputError, match=rf"^{name} is read .*: pip install 'pyrovae\[images\]', or use"
        ):
            load(name, root=tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch, small_mnist):
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
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
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


def test_every_row_of_the_table_reads_a_data_set():
    for name, row in DATASETS.items():
        assert callable(row.load())
        assert bool(row.torchvision) == bool(row.folder) == (name != "digits")
        assert len(row.class_names) in (0, 10)


def test_the_table_needs_no_torch():
    """Checked without the file `pyrovae/__init__.py`, so that this is about the data package alone."""
    code = f"""
import sys, types
sys.modules["pyrovae"] = types.ModuleType("pyrovae")
sys.modules["pyrovae"].__path__ = {list(pyrovae.__path__)}
import pyrovae.data as data
print(*data.DATASETS, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [*DATASETS, "False"], done.stderr


def test_classes_have_the_names_of_their_data_or_else_their_numbers(tmp_path):
    x, y = torch.zeros(3, 1, 2, 2), torch.arange(3)
    assert Images("mine", x, y, x, None).class_names == ("0", "1", "2")
    assert Images("mine", x, y, x, None, ("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
    assert Images("mine", x, None, x, None).class_names == ()
    with pytest.raises(InputError, match="holds the class 2, but names 2 classes"):
        Images("mine", x, y, x, y, ("a", "b"))


def test_own_data_that_are_called_like_a_known_set_keep_their_own_classes(tmp_path):
    y = np.arange(20) % 2
    np.savez(tmp_path / "cifar10.npz", x=GREY, y=y)
    assert load(tmp_path / "cifar10.npz").class_names == ("0", "1")
