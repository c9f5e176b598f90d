"""The table of posteriors. Each is called as `Posterior(network, latent_dim)`."""

from pyrovae.tables import Component, Table

_STEPS = ("flow_steps",)

POSTERIORS = Table(
    "posterior",
    {
        "normal": Component("Normal with a diagonal covariance.", "pyrovae.posteriors:DiagonalNormal"),
        "full-covariance": Component(
            "Normal with a full covariance.", "pyrovae.posteriors:FullCovarianceNormal"
        ),
        "planar": Component("Planar flow.", "pyrovae.posteriors.by_name:planar", _STEPS),
        "radial": Component("Radial flow.", "pyrovae.posteriors.by_name:radial", _STEPS),
        "householder": Component("Householder flow.", "pyrovae.posteriors.by_name:householder", _STEPS),
        "sylvester-orthogonal": Component(
            "Sylvester flow with orthogonalised matrices.",
            "pyrovae.posteriors.by_name:sylvester_orthogonal",
            _STEPS,
        ),
        "sylvester-householder": Component(
            "Sylvester flow with Householder reflections.",
            "pyrovae.posteriors.by_name:sylvester_householder",
            _STEPS,
        ),
        "sylvester-triangular": Component(
            "Sylvester flow with triangular matrices.",
            "pyrovae.posteriors.by_name:sylvester_triangular",
            _STEPS,
        ),
        "iaf": Component("Inverse autoregressive flow.", "pyrovae.posteriors.by_name:iaf", _STEPS),
        "cclinear-iaf": Component(
            "Convex combination linear inverse autoregressive flow.",
            "pyrovae.posteriors.by_name:cclinear_iaf",
            _STEPS,
        ),
        "spline": Component("Coupling flow of splines.", "pyrovae.posteriors.by_name:spline", _STEPS),
    },
)
