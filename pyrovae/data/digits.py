"""The handwritten digits that are part of scikit-learn: the default data set, which needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_digits(name: str, root: Path, download: bool) -> dict[str, np.ndarray]:
    """Read scikit-learn's digits: images `x` `(1797, 1, 8, 8)` in [0, 1] and classes `y` `(1797,)`.

    Args:
        name: the name in `DATASETS`, not used.
        root: the folder of all data sets, not used: the digits come with scikit-learn.
        download: whether a download is allowed, not used.
    """
    from sklearn.datasets import load_digits  # slow to import

    images, classes = load_digits(return_X_y=True)
    return {"x": images.reshape(-1, 1, 8, 8) / 16, "y": classes}
