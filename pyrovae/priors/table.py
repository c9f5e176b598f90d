"""The table of priors of z. Each is called as `Prior(latent_dim)`."""

from pyrovae.tables import Component, Table

PRIORS = Table(
    "prior",
    {
        "normal": Component("Standard normal N(0, I).", "pyrovae.priors:StandardNormal"),
        "mixture": Component("Mixture of Gaussians.", "pyrovae.priors.by_name:mixture", ("components",)),
        "vamp": Component(
            "VampPrior, the posterior's mixture over pseudo-inputs.",
            "pyrovae.priors.by_name:vamp",
            ("components",),
        ),
        "realnvp": Component("RealNVP, affine coupling layers.", "pyrovae.priors:RealNVP"),
        "spline": Component("Coupling layers of splines.", "pyrovae.priors:SplineCoupling"),
        "autoregressive": Component("Masked autoregressive flow.", "pyrovae.priors:MaskedAutoregressive"),
    },
)
