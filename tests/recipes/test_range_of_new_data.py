"""Data that a model was not trained on: refused, or clipped, as the likelihood's range demands."""

import warnings

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_small

from pyrovae.errors import InputError
from pyrovae.recipes import About, Data, Run, Training, load_recipe
from pyrovae.recipes.presentation import Presentation

RANGED = ["bernoulli", "continuous-bernoulli", "categorical"]


def presentation(likelihood, **settings):
    plan = load_recipe("vae")(About((4,)), likelihood=likelihood, width=4, latent_dim=2)
    return Presentation.of(plan.pixels, Data(**settings))


@pytest.mark.parametrize("likelihood", RANGED)
@pytest.mark.parametrize("value", [-0.11, 1.11, 16.0, 255.0])
def test_values_outside_of_the_range_are_refused(likelihood, value):
    x = torch.tensor([[0.5, 0.2, value, 1.0]])
    with pytest.raises(InputError, match=r"the values of X go from .* trained on values in \[0, 1\]"):
        presentation(likelihood).within_range(x, "X")


@pytest.mark.parametrize("likelihood", RANGED)
def test_values_up_to_a_tenth_beyond_are_clipped_with_a_warning(likelihood):
    x = torch.tensor([[-0.1, 0.0, 0.3, 1.0], [0.2, 1.1, 1.0, 0.5]])
    with pytest.warns(UserWarning, match="2 values of X lie outside .* clipped") as caught:
        clipped = presentation(likelihood).within_range(x, "X")
    assert torch.equal(clipped, x.clamp(0, 1))
    assert len(caught) == 1


def test_values_in_the_range_and_real_values_stay_as_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.rand(3, 4)
        assert presentation("bernoulli", binarise="none").within_range(x, "X") is x
        x = 1000 * torch.randn(3, 4)
        assert presentation("gaussian").within_range(x, "X") is x


@pytest.mark.parametrize("likelihood", RANGED)
def test_training_on_real_values_names_the_likelihood_that_takes_them(likelihood):
    x = torch.tensor([[0.1, 1680.0]]).repeat(20, 1)
    plan = load_recipe("vae")(About.of(x), likelihood=likelihood, width=4, latent_dim=2)
    with pytest.raises(InputError, match=r"from 0\.1 to 1\.68e\+03, .*choose likelihood='gaussian'"):
        plan.fit(x, training=Training(epochs=1))


def test_other_data_of_a_run_are_held_against_the_range(tmp_path):
    x = np.random.default_rng(0).random((60, 4))
    np.savez(tmp_path / "mine.npz", x_train=x[:40], x_test=x[40:] * 1.05)
    np.savez(tmp_path / "levels.npz", x=x * 255.0)
    run = train_small(tmp_path / "run", data={"data": str(tmp_path / "mine.npz")}).folder
    with pytest.warns(UserWarning, match="values of the test data lie outside"):
        assert Run.open(run).scored.x.max() == 1
    with pytest.raises(InputError, match=r"values of .*levels\.npz go from .* scale them"):
        pyrovae("encode", run, "--data", tmp_path / "levels.npz", "--out", tmp_path / "z.npz")
