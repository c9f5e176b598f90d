"""The functions in the table of objectives. They build objectives from the options of recipes.

Importing this file imports no torch, so that help can read the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from pyrovae.errors import InputError

if TYPE_CHECKING:
    from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO

Draws = Annotated[int, Ge(1)]
Nats = Annotated[float, Ge(0)]


def elbo(*, particles: Draws = 1) -> ELBO:
    """Make the ELBO.

    Args:
        particles: The number of draws of the latents for each datum in each step.
    """
    from pyrovae.objectives import ELBO

    return ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)


def score_function(*, particles: Draws = 1) -> ScoreFunctionELBO:
    """Make the ELBO with the score-function gradient.

    Args:
        particles: The number of draws of the latents for each datum in each step.
    """
    from pyrovae.objectives import ScoreFunctionELBO

    return ScoreFunctionELBO(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    )


def iwae(*, particles: Draws = 1) -> IWAE:
    """Make the importance-weighted bound.

    Args:
        particles: The number of draws of the latents for each datum in each step, at least 2.
    """
    from pyrovae.objectives import IWAE

    _check_several("iwae", particles)
    return IWAE(particles)


def dreg(*, particles: Draws = 1) -> IWAE:
    """Make the importance-weighted bound with the doubly reparameterised gradient.

    Args:
        particles: The number of draws of the latents for each datum in each step, at least 2.
    """
    from pyrovae.objectives import IWAE

    _check_several("dreg", particles)
    return IWAE(particles, doubly_reparameterised=True)


def free_bits_by_dimension(*, free_bits: Nats = 0.0) -> FreeBits:
    """Make the ELBO with a floor under the KL of each dimension of the latents.

    Args:
        free_bits: The floor in nats, above 0.
    """
    from pyrovae.objectives import FreeBits

    _check_floor("free-bits", free_bits)
    return FreeBits(free_bits, per="dimension")


def free_bits_total(*, free_bits: Nats = 0.0) -> FreeBits:
    """Make the ELBO with a floor under the whole KL of each latent.

    Args:
        free_bits: The floor in nats, above 0.
    """
    from pyrovae.objectives import FreeBits

    _check_floor("free-bits-total", free_bits)
    return FreeBits(free_bits, per="site")


def _check_several(name: str, particles: int) -> None:
    if particles == 1:
        raise InputError(
            f"particles is 1, but with 1 particle the objective '{name}' is the ELBO: set particles, for "
            "example to 50, or choose 'elbo'."
        )


def _check_floor(name: str, free_bits: float) -> None:
    if not free_bits:
        raise InputError(
            f"free_bits is 0, but the objective '{name}' needs a floor: set free_bits, for example to 0.5."
        )
