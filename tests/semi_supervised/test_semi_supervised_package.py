"""The package loads its names when they are used."""

import subprocess
import sys

import pyrovae.semi_supervised


def test_labels_and_weights_need_no_scikit_learn():
    code = (
        "import sys; from pyrovae.semi_supervised import only_labels_of, data_per_label, per_label\n"
        "print(sorted({'sklearn'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


def test_every_name_is_there():
    assert set(pyrovae.semi_supervised.__all__) <= set(dir(pyrovae.semi_supervised))
    for name in pyrovae.semi_supervised.__all__:
        getattr(pyrovae.semi_supervised, name)
