"""What a trained model makes, and where its latents lie."""

from pyrovae.generation.images import (
    analogies,
    class_samples,
    classes_behind,
    decode,
    interpolate,
    interpolate_grid,
    manifold,
    reconstruct,
    sample_images,
    samples_of_classes,
    traverse,
)
from pyrovae.generation.latents import latent_codes, latent_means, posterior_draws

__all__ = [
    "analogies",
    "class_samples",
    "classes_behind",
    "decode",
    "interpolate",
    "interpolate_grid",
    "latent_codes",
    "latent_means",
    "manifold",
    "posterior_draws",
    "reconstruct",
    "sample_images",
    "samples_of_classes",
    "traverse",
]
