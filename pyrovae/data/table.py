"""The data sets that `pyrovae.data.load` knows by name, in plain words and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        md5: the published MD5 sum of each file in that folder, for files that torchvision does not verify.
    """

    class_names: tuple[str, ...] = ()
    torchvision: str = ""
    folder: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)


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
            md5={
                "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
                "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
                "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
                "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
            },
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
            md5={
                "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
                "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
                "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
            },
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
