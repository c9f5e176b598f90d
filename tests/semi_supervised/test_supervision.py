"""Which programs, objective and weights train each model with classes."""

import pytest
import torch

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.objectives import SupervisedELBO
from pyrovae.recipes.build import build_model
from pyrovae.semi_supervised import Supervision, training_task


@pytest.fixture
def y():
    """4 labelled of 20."""
    return torch.cat([torch.arange(4) % 2, torch.full((16,), -1)])


def built(name):
    return build_model(name, (6,), latent_dim=2, width=4, num_classes=2)


def test_weights_are_of_means_over_the_labelled(y):
    task = training_task(built("m2"), y, Supervision(alpha=0.1))
    assert isinstance(task.objective, SupervisedELBO)
    assert task.objective.alpha == pytest.approx(0.1 * 20 / 4)
    weights = training_task(built("pcvae"), y, Supervision(prediction=3.0)).weights
    assert {name: weight(0.0) for name, weight in weights.items()} == {"y": pytest.approx(15)}


def test_the_cpcvae_is_constrained_and_the_pcvae_is_not(y):
    supervision = Supervision(prediction=2.0, consistency=3.0, aggregate=4.0)
    model = built("cpcvae")
    task = training_task(model, y, supervision)
    assert task.model == model.constrained_model
    weights = {name: weight(0.0) for name, weight in task.weights.items()}
    assert weights == {"y": 10, "y_again": 10, "consistency": 3, "aggregate": 4}
    every = training_task(model, torch.zeros(20, dtype=torch.long), supervision).weights
    assert every.keys() == {"y", "y_again"}, "the others are for unlabelled data"


def test_of_m1m2_the_upper_model_is_trained_and_of_a_vae_all(y):
    stack, vae = built("m1m2"), built("vae")
    assert training_task(stack, y, Supervision()).model == stack.m2.model
    assert training_task(stack, y, Supervision(), jointly=True).model == stack.model
    task = training_task(vae, None, Supervision())
    assert (task.model, task.objective, task.weights) == (vae.model, None, None)


def test_both_layers_of_m1m2_learn_jointly(y):
    stack = built("m1m2")
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    task = training_task(stack, y, Supervision(), jointly=True)
    fit(task, torch.rand(20, 6).round(), y, epochs=2, progress=False, **task.options())
    moved = {
        name.split(".")[0] for name, value in stack.state_dict().items() if (value != before[name]).any()
    }
    assert moved == {"vae", "m2"}


@pytest.mark.parametrize("classes", [None, torch.full((20,), -1)])
@pytest.mark.parametrize("name", ["m2", "m1m2", "pcvae", "cpcvae"])
def test_a_model_with_classes_needs_some(name, classes):
    with pytest.raises(InputError, match="learns classes: give the class of some data"):
        training_task(built(name), classes, Supervision())
