"""The table of networks. Each is called as `Network(in_shape, out_shape)`."""

from pyrovae.tables import Component, Table

NETWORKS = Table(
    "network",
    {
        "mlp": Component("Multi-layer perceptron with two hidden layers.", "pyrovae.networks.by_name:mlp"),
        "gated": Component("Multi-layer perceptron with gated layers.", "pyrovae.networks.by_name:gated"),
        "residual": Component(
            "Multi-layer perceptron of residual blocks.", "pyrovae.networks.by_name:residual"
        ),
        "conv": Component("Convolutions, for images.", "pyrovae.networks.by_name:conv"),
    },
)
