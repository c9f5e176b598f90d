"""Models are compared by the paired differences of their evidence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyrovae import plots
from pyrovae.errors import InputError
from pyrovae.evaluation import compare, marginal_likelihood
from pyrovae.models import PPCA

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 6.0))


def result_of(latent_dim, x=X):
    ppca = PPCA((5,), latent_dim)
    ppca.fit_closed_form(X)
    return marginal_likelihood(ppca, x, num_samples=20, bounds=())


@pytest.fixture(scope="module")
def results():
    return {f"M = {size}": result_of(size) for size in (1, 2, 4)}


def test_differences_and_their_errors_are_those_of_paired_data(results):
    found = compare(results)
    assert [model.name for model in found.models] == ["M = 4", "M = 2", "M = 1"]
    best, values = found.models[0], {name: result.log_px.numpy() for name, result in results.items()}
    assert (best.difference, best.difference_std_error) == (0, 0)
    for model in found.models[1:]:
        differences = values[best.name] - values[model.name]
        assert model.difference == pytest.approx(differences.mean(), rel=1e-12)
        expected = np.std(differences, ddof=1) / np.sqrt(len(differences))
        assert model.difference_std_error == pytest.approx(expected, rel=1e-12)
        assert model.difference_std_error < model.data_std_error
    assert found.num_data == 60


def test_it_prints_and_draws_every_model(results, tmp_path):
    found = compare(results)
    for name in results:
        assert name in str(found)
    figure = plots.comparison(found)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        f"{model.name}  ({model.mean:.2f})" for model in found.models
    ]
    found.to_json(tmp_path / "comparison.json")
    assert '"M = 4"' in (tmp_path / "comparison.json").read_text()


def test_a_run_is_scored_first():
    class Trained:
        def evidence(self, *, num_samples):
            assert num_samples == 7
            return result_of(1)

    found = compare({"run": Trained(), "result": result_of(2)}, num_samples=7)
    assert {model.name for model in found.models} == {"run", "result"}


def test_what_cannot_be_compared_is_refused(results):
    first = results["M = 1"]
    with pytest.raises(InputError, match="'one' and 'other' were scored on different data"):
        compare({"one": first, "other": result_of(2, X + 1)})
    with pytest.raises(InputError, match="at least two results, and is given 1"):
        compare({"one": first})
    with pytest.raises(InputError, match="evidence of all data together"):
        compare({"one": first, "joint": replace(first, joint=True)})
    with pytest.raises(InputError, match="is a float; expected what marginal_likelihood returns"):
        compare({"one": first, "number": 1.0})
    with pytest.raises(InputError, match="a single datum"):
        compare({str(size): result_of(size, X[:1]) for size in (1, 2)})
