"""The table of likelihoods. Each is called as `Likelihood(network)`."""

from pyrovae.tables import Component, Table

LIKELIHOODS = Table(
    "likelihood",
    {
        "auto": Component(
            "bernoulli; gaussian for vectors with values outside of [0, 1].",
            "pyrovae.likelihoods.by_name:gaussian",
            ("standardise",),
        ),
        "bernoulli": Component("Pixels that are 0 or 1.", "pyrovae.likelihoods:Bernoulli"),
        "continuous-bernoulli": Component(
            "Grey values in [0, 1].", "pyrovae.likelihoods:ContinuousBernoulli"
        ),
        "gaussian": Component(
            "Real values, with one learned scale.",
            "pyrovae.likelihoods.by_name:gaussian",
            ("standardise",),
        ),
        "categorical": Component("256 grey levels.", "pyrovae.likelihoods:Categorical"),
    },
)
