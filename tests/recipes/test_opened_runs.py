"""Runs that Python has begun are opened again, by the command line too."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae import fit
from pyrovae.errors import CheckpointError, InputError
from pyrovae.evaluation import compare, marginal_likelihood
from pyrovae.models import PPCA
from pyrovae.programs import Pair
from pyrovae.recipes import About, Run, Training, m2, vae

pytestmark = pytest.mark.filterwarnings("ignore:k-hat")

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).round()
Y = torch.arange(60) % 2
SMALL = Training(epochs=2, batch_size=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "m2"
    m2(About.of(X, Y), latent_dim=2, width=8).fit(X, Y, training=SMALL, folder=path)
    return path


def test_a_run_on_data_of_python_samples_without_them_and_asks_for_them_where_it_must(folder):
    run = Run.open(folder)
    assert len(run.history.rows) == 2
    assert run.pair is run.plan.pair
    with pytest.raises(InputError, match=r"given in Python.*--data FILE.*data=\(x, y\)"):
        _ = run.scored


def test_a_run_prints_in_one_line_without_its_data(folder, tmp_path):
    shown = repr(Run.open(folder, data=(X, Y)))
    assert shown.startswith(f"run {folder}: m2(latent_dim=2, likelihood=bernoulli, ")
    assert shown.endswith(") on the data given in Python, 2 epochs; asked about data of shape (60, 6)")
    assert "\n" not in shown
    fit(PPCA((6,), 2), X, epochs=1, folder=tmp_path / "ppca", progress=False)
    opened = Run.open(tmp_path / "ppca", pair=PPCA((6,), 2), data=X)
    expected = f"run {tmp_path / 'ppca'}: PPCA, {opened.checkpoint}; asked about data of shape (60, 6)"
    assert str(opened) == expected


def test_the_data_of_the_training_are_known_again_in_python_and_in_a_file(folder, tmp_path):
    own = Run.open(folder, data=(X, Y))
    assert own.scored.file is None
    assert "all of which were trained on" in own.scored.name
    np.savez(tmp_path / "mine.npz", x=X.numpy(), y=Y.numpy())
    by_file = Run.open(folder, data=tmp_path / "mine.npz")
    assert by_file.scored.file is None
    x, y, _ = by_file.training_data()
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    again = Run.open(folder, data=(X, Y)).evidence(num_samples=30)
    assert torch.equal(again.log_px, by_file.evidence(num_samples=30).log_px)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_data_are_known_again_as_they_were_given(likelihood, tmp_path):
    """A categorical likelihood is trained on levels 0..255, which are prepared from them."""
    how = {"latent_dim": 2, "width": 8, "likelihood": likelihood}
    x = X.unflatten(1, (1, 2, 3))
    vae(About.of(x), **how).fit(x, training=SMALL, folder=tmp_path / "run")
    resumed = Run.open(tmp_path / "run", data=x).resume(epochs=3, progress=False)
    assert len(resumed.history.rows) == 3


def test_other_data_are_scored_whole_and_never_trained_on(folder):
    other = Run.open(folder, data=(1 - X[:7], Y[:7]))
    assert other.scored.file == "the data given in Python"
    assert len(other.evidence(num_samples=30).log_px) == 7
    assert Run.open(folder, data=1 - X[:7]).scored.y is None
    with pytest.raises(CheckpointError, match="a run goes on with its own data alone"):
        other.resume(epochs=3, progress=False)
    with pytest.raises(InputError, match=r"has shape \(5,\), but the run was trained on data of shape"):
        _ = Run.open(folder, data=X[:, :5]).scored


def test_it_goes_on_with_its_own_data(tmp_path):
    plan = vae(About.of(X), latent_dim=2, width=8)
    plan.fit(X, training=SMALL, folder=tmp_path / "run")
    resumed = Run.open(tmp_path / "run", data=X).resume(epochs=3, progress=False)
    assert len(resumed.history.rows) == 3
    assert resumed.config.values == Run.open(tmp_path / "run").config.values


def test_runs_and_results_are_compared(tmp_path):
    runs = {}
    for size in (1, 2):
        plan = vae(About.of(X), latent_dim=size, width=8)
        plan.fit(X, training=SMALL, folder=tmp_path / f"{size}")
        runs[f"{size}"] = Run.open(tmp_path / f"{size}", data=X)
    found = compare(runs, num_samples=30)
    means = {name: run.evidence(num_samples=30).mean for name, run in runs.items()}
    assert {model.name: model.mean for model in found.models} == means


def test_a_pair_built_by_hand_gets_its_best_parameters_back(tmp_path):
    ppca = PPCA((6,), 2)
    fit(ppca, X, epochs=2, progress=False, validation=X[:20], folder=tmp_path / "ppca")
    opened = Run.open(tmp_path / "ppca", pair=PPCA((6,), 2), data=X)
    for name, value in ppca.state_dict().items():
        assert torch.equal(opened.pair.state_dict()[name], value)
    assert len(opened.history.rows) == 2
    expected = marginal_likelihood(ppca, X, num_samples=30)
    assert torch.equal(opened.evidence(num_samples=30).log_px, expected.log_px)
    with pytest.raises(CheckpointError, match="another model's"):
        Run.open(tmp_path / "ppca", pair=PPCA((6,), 3))
    with pytest.raises(InputError, match="give tensors"):
        Run.open(tmp_path / "ppca", pair=PPCA((6,), 2), data="digits")
    with pytest.raises(InputError, match="open the run with data=x"):
        Run.open(tmp_path / "ppca", pair=PPCA((6,), 2)).evidence()


def by_param():
    def model(x):
        loc = pyro.param("loc", torch.zeros(6))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.sum(-1), 0.5))

    return Pair(model, guide)


def test_parameters_that_programs_make_are_read_back_on_data(tmp_path):
    pyro.clear_param_store()
    fit(by_param(), X, epochs=2, progress=False, folder=tmp_path / "run")
    slope = pyro.param("slope").detach().clone()
    pyro.clear_param_store()
    with pytest.raises(InputError, match="give data to run them on"):
        Run.open(tmp_path / "run", pair=by_param())
    Run.open(tmp_path / "run", pair=by_param(), data=X)
    assert torch.equal(pyro.param("slope").detach(), slope)
    assert not torch.equal(slope, torch.tensor(0.1))
    pyro.clear_param_store()
