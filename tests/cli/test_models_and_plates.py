"""The list of models, and plate diagrams of models and runs."""

import pytest
from small_runs import pyrovae

from pyrovae.data import DATASETS
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.objectives.table import OBJECTIVES
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes import RECIPES


@pytest.mark.parametrize("model", RECIPES)
def test_plates_prints_a_models_diagram(model):
    printed = pyrovae("plates", model)
    assert "data" in printed
    assert "x" in printed


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "dot", "tex"])
def test_plates_draws_a_models_or_a_runs_diagram(suffix, trained, tmp_path):
    for number, source in enumerate(("vae", trained)):
        path = tmp_path / "new" / f"{number}.{suffix}"
        assert f"written: {path}" in pyrovae("plates", source, "--out", path)
        assert path.stat().st_size > 100


def test_models_lists_all_there_is():
    printed = pyrovae("models")
    for table in (RECIPES, DATASETS, POSTERIORS, PRIORS, LIKELIHOODS, NETWORKS, OBJECTIVES):
        for name, row in table.items():
            assert f"  {name} " in printed
            assert row.summary in printed
    assert "(--flow-steps)" in printed
