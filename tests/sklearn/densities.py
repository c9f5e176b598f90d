"""Small estimators of densities for tests."""

from typing import Any

from pyrovae import PPCAOutlierDetector, PPCATransformer, VAEOutlierDetector, VAETransformer

SMALL = {"latent_dim": 2, "width": 8, "epochs": 1, "num_samples": 5, "device": "cpu", "random_state": 0}
"""Options of a small VAE that is trained for one epoch, which is not enough to learn."""

ESTIMATORS = {
    "vae": lambda **options: VAETransformer(**(SMALL | options)),
    "hvae": lambda **options: VAETransformer("hvae", **(SMALL | options)),
    "ppca": lambda **options: PPCATransformer(2, random_state=0, **options),
    "vae outliers": lambda **options: VAEOutlierDetector(**(SMALL | options)),
    "ppca outliers": lambda **options: PPCAOutlierDetector(2, random_state=0, **options),
}


def make(name: str, **options: Any) -> Any:
    """Make a small estimator by name."""
    return ESTIMATORS[name](**options)
