"""The table of objectives. Each is called without positional arguments."""

from pyrovae.tables import Component, Table

_DRAWS = ("particles",)
_FLOOR = ("free_bits",)

OBJECTIVES = Table(
    "objective",
    {
        "elbo": Component("The ELBO.", "pyrovae.objectives.by_name:elbo", _DRAWS),
        "iwae": Component("The importance-weighted bound.", "pyrovae.objectives.by_name:iwae", _DRAWS),
        "dreg": Component(
            "The importance-weighted bound with the doubly reparameterised gradient.",
            "pyrovae.objectives.by_name:dreg",
            _DRAWS,
        ),
        "free-bits": Component(
            "The ELBO with a floor under each dimension's KL.",
            "pyrovae.objectives.by_name:free_bits_by_dimension",
            _FLOOR,
        ),
        "free-bits-total": Component(
            "The ELBO with a floor under the whole KL of a latent.",
            "pyrovae.objectives.by_name:free_bits_total",
            _FLOOR,
        ),
        "score-function": Component(
            "The ELBO without reparameterisation, for comparison.",
            "pyrovae.objectives.by_name:score_function",
            _DRAWS,
        ),
    },
)
