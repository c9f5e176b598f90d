"""The data sets that `pyrovae.data.load` knows by name, in plain words and without torch."""

from __future__ import annotations

from dataclasses import dataclass

from pyrovae.tables import Component, Table


@dataclass(frozen=True)
class DataSet(Component):
    """One row of `DATASETS`.

    Attributes:
        summary: the data set in one line of help.
        where: the function that reads it, `"package.module:name"`. It is called with the name of the data
            set, the folder `root` of all data sets and whether a download is allowed, and returns arrays
            with the keys that `pyrovae.data.load` documents for a `.npz` file.
        class_names: the names of the classes; empty where classes are called by their numbers.
        torchvision: the name of its class in `torchvision.datasets`, if torchvision reads it.
        folder: the folder below `root` that torchvision reads.
    """

    class_names: tuple[str, ...] = ()
    torchvision: str = ""
    folder: str = ""


_TORCHVISION = "pyrovae.data.torchvision_sets:read_torchvision"

DATASETS: Table[DataSet] = Table(
    "data set",
    {
        "digits": DataSet(
            "1,797 grey 8x8 digits, 10 classes; part of scikit-learn, needs no download",
            "pyrovae.data.digits:read_digits",
        ),
        "mnist": DataSet(
            "60,000 + 10,000 grey 28x28 digits, 10 classes; through torchvision",
            _TORCHVISION,
            torchvision="MNIST",
            folder="MNIST/raw",
        ),
        "fashion-mnist": DataSet(
            "60,000 + 10,000 grey 28x28 clothes, 10 classes; through torchvision",
            _TORCHVISION,
            class_names=(
                *("T-shirt", "trouser", "pullover", "dress", "coat"),
                *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
            ),
            torchvision="FashionMNIST",
            folder="FashionMNIST/raw",
        ),
        "cifar10": DataSet(
            "50,000 + 10,000 colour 32x32 photographs, 10 classes; through torchvision",
            _TORCHVISION,
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            torchvision="CIFAR10",
            folder="cifar-10-batches-py",
        ),
    },
)
