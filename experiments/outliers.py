"""Compare detectors of outliers on scikit-learn's breast cancer data: AUROC, with benign as normal.

In each of five splits, half of the benign data are the training data. The test data are the other half, and
all malignant data, which are the outliers. Columns are standardised by the training data. PPCA's number of
latent dimensions is chosen by the mean log p(x) of held-out training data, so no outlier is used to choose.

    python experiments/outliers.py                # about two minutes
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from reporting import RESULTS, command_line
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyrovae import PPCAOutlierDetector, VAEOutlierDetector
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

SPLITS = range(5)
LATENT_DIMS = (2, 5, 10, 15, 20, 25)
VAE: Mapping[str, Any] = {
    "latent_dim": 10,
    "width": 256,
    "epochs": 100,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "rate_warm_up": 5.0,
    "decay": "cosine",
    "warm_up": 50.0,
    "validation_fraction": 0.1,
    "num_samples": 500,
    "device": "cpu",
}

DETECTORS: dict[str, Callable[[int], Any]] = {
    "VAEOutlierDetector": lambda seed: VAEOutlierDetector(random_state=seed, **VAE),
    "PPCAOutlierDetector": lambda seed: GridSearchCV(
        PPCAOutlierDetector(), {"latent_dim": LATENT_DIMS}, cv=5, error_score="raise"
    ),
    "IsolationForest": lambda seed: IsolationForest(random_state=seed),
    "LocalOutlierFactor": lambda seed: LocalOutlierFactor(novelty=True),
}

app = command_line(__doc__)


def areas(make: Callable[[int], Any]) -> list[float]:
    """Return the area under the ROC curve of a detector in each split."""
    X, y = load_breast_cancer(return_X_y=True)
    benign, malignant = X[y == 1], X[y == 0]
    found = []
    for split in SPLITS:
        train, test = train_test_split(benign, test_size=0.5, random_state=split)
        detector = make_pipeline(StandardScaler(), make(split)).fit(train)
        is_outlier = np.repeat([0, 1], [len(test), len(malignant)])
        found.append(
            float(roc_auc_score(is_outlier, -detector.score_samples(np.concatenate([test, malignant]))))
        )
    return found


@app.default
def run() -> None:
    """Measure all detectors and write the table."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-hat is above")  # the ranks of scores need no error bars
        measured = {name: areas(make) for name, make in DETECTORS.items()}
    reference = measured["IsolationForest"]
    lines = [
        "# Outliers",
        "",
        "AUROC on scikit-learn's breast cancer data: benign data are normal, malignant ones are",
        "outliers. Mean and standard deviation over five splits, and the mean difference to",
        "IsolationForest with its standard error ([`outliers.py`](../outliers.py)).",
        "",
        "| detector | AUROC | difference |",
        "| --- | --- | --- |",
    ]
    for name, found in measured.items():
        differences = [a - b for a, b in zip(found, reference, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        shift = "" if found is reference else f"{statistics.mean(differences):+.3f} ± {error:.3f}"
        lines.append(f"| {name} | {statistics.mean(found):.3f} ± {statistics.stdev(found):.3f} | {shift} |")
    settings = ", ".join(f"{name}={value!r}" for name, value in VAE.items())
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines += [
        "",
        f"VAEOutlierDetector: {settings}.",
        f"PPCAOutlierDetector: latent_dim of {', '.join(map(str, LATENT_DIMS))}, by the log p(x) of",
        "held-out training data. The others have scikit-learn's defaults, and novelty=True.",
        "",
        f"Commit {git_commit()}; {known}.",
        "",
    ]
    write_atomically(RESULTS / "outliers.md", "\n".join(lines).encode())


if __name__ == "__main__":
    app()
