"""What the diagrams of the library's models with classes show, of seven labelled and 17 unlabelled data."""

from types import SimpleNamespace

import pytest

from pyrovae.diagrams import PlateDiagram

LABELLED, UNLABELLED = 7, 17

# Of each program: generative edges, factors' edges, inference edges with and without labels, and what is
# observed or a factor, with and without labels.
M2 = SimpleNamespace(
    p={("y", "x"), ("z", "x")},
    labelled={("x", "z"), ("y", "z")},
    unlabelled={("x", "y"), ("x", "z"), ("y", "z")},
    statuses={"y": "partly", "z": "latent", "x": "observed"},
    sizes=["7 with y", "17 without y"],
)
M1M2 = SimpleNamespace(
    p={("y", "z1"), ("z2", "z1"), ("z1", "x")},
    labelled={("x", "z1"), ("z1", "z2"), ("y", "z2")},
    unlabelled={("x", "z1"), ("z1", "y"), ("z1", "z2"), ("y", "z2")},
    statuses={"y": "partly", "z2": "latent", "z1": "latent", "x": "observed"},
    sizes=["7 with y", "17 without y"],
)
PCVAE = SimpleNamespace(
    p={("z", "x"), ("z", "y")},
    labelled={("x", "z")},
    unlabelled={("x", "z")},
    statuses={"z": "latent", "x": "observed", "y": "partly"},
    sizes=["7 with y", "17 without y"],
)
CONSTRAINED = SimpleNamespace(
    p={("z", "x"), ("z", "y")},
    labelled={("x", "z")},
    unlabelled={("x", "z")},
    statuses=PCVAE.statuses | dict.fromkeys(("y_again", "consistency", "aggregate"), "factor"),
    sizes=["7 with y, y_again", "17 with consistency, aggregate"],
)
EXPECTED = {"M2": M2, "M1M2": M1M2, "PCVAE": PCVAE, "constrained CPCVAE": CONSTRAINED}


def statuses(diagram: PlateDiagram) -> dict[str, str]:
    return {name: node.status for name, node in diagram.nodes.items()}


every_pair = pytest.mark.parametrize(("pair", "name"), [(n, n) for n in EXPECTED], indirect=["pair"])
