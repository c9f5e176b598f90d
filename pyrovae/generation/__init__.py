"""Images, samples and codes of a trained pair: everything here runs the programs and knows no particular
model.

Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pyrovae.generation.classes import (
        analogies,
        class_samples,
        classes_behind,
        num_classes,
        samples_of_classes,
    )
    from pyrovae.generation.codes import code_site, latent_codes, latent_means, posterior_draws
    from pyrovae.generation.generator import Codes, Generator
    from pyrovae.generation.images import decode, images_of, reconstruct, sample_images
    from pyrovae.generation.interpolation import interpolate, interpolate_grid
    from pyrovae.generation.prior import draw_latents, prior_density, prior_quantiles, prior_site
    from pyrovae.generation.traversal import LEVELS, manifold, traverse

# No file bears the name of a function: the import of one would hide the function.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classes": ["analogies", "class_samples", "classes_behind", "num_classes", "samples_of_classes"],
        "codes": ["code_site", "latent_codes", "latent_means", "posterior_draws"],
        "generator": ["Codes", "Generator"],
        "images": ["decode", "images_of", "reconstruct", "sample_images"],
        "interpolation": ["interpolate", "interpolate_grid"],
        "prior": ["draw_latents", "prior_density", "prior_quantiles", "prior_site"],
        "traversal": ["LEVELS", "manifold", "traverse"],
    },
)

__all__ = [
    "LEVELS",
    "Codes",
    "Generator",
    "analogies",
    "class_samples",
    "classes_behind",
    "code_site",
    "decode",
    "draw_latents",
    "images_of",
    "interpolate",
    "interpolate_grid",
    "latent_codes",
    "latent_means",
    "manifold",
    "num_classes",
    "posterior_draws",
    "prior_density",
    "prior_quantiles",
    "prior_site",
    "reconstruct",
    "sample_images",
    "samples_of_classes",
    "traverse",
]
