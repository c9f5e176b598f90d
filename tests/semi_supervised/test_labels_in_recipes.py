"""The recipes of models with classes train the right programs, and weigh the labels as means over them."""

import pytest
import torch

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.objectives import SupervisedELBO
from pyrovae.recipes import About, load_recipe
from pyrovae.semi_supervised import per_label


@pytest.fixture
def y():
    """4 labelled of 20."""
    return torch.cat([torch.arange(4) % 2, torch.full((16,), -1)])


def built(name, **options):
    return load_recipe(name)(About((6,), num_classes=2), latent_dim=2, width=4, **options)


def at(epoch, weights):
    return {name: weight(epoch) for name, weight in weights.items()}


def test_weights_are_of_means_over_the_labelled(y):
    objective = built("m2", alpha=0.1).stages[-1].supervised(y)["objective"]
    assert isinstance(objective, SupervisedELBO)
    assert objective.alpha == pytest.approx(0.1 * 20 / 4)
    weights = built("pcvae", prediction=3.0).stages[-1].supervised(y)["weights"]
    assert at(0.0, weights) == {"y": pytest.approx(15)}


def test_the_cpcvae_is_constrained_and_the_pcvae_is_not(y):
    plan = built("cpcvae", prediction=2.0, consistency=3.0, aggregate=4.0)
    stage = plan.stages[-1]
    assert stage.pair.model == plan.pair.constrained_model
    assert at(0.0, stage.supervised(y)["weights"]) == {
        "y": 10,
        "y_again": 10,
        "consistency": 3,
        "aggregate": 4,
    }
    every = stage.supervised(torch.zeros(20, dtype=torch.long))["weights"]
    assert every.keys() == {"y", "y_again"}, "the others are for unlabelled data"
    unconstrained = built("pcvae")
    assert unconstrained.stages[-1].pair.model == unconstrained.pair.model


def test_constraints_wait_for_their_delay(y):
    stage = built("cpcvae", consistency=8.0, constraint_delay=2.0, constraint_warm_up=4.0).stages[-1]
    weights = stage.supervised(y)["weights"]
    assert [weights["consistency"](epoch) for epoch in (0, 2, 3, 6, 9)] == [0, 0, 2, 8, 8]


def test_of_m1m2_the_upper_model_is_trained_on_draws_of_latents():
    plan = built("m1m2")
    lower, upper = plan.stages
    assert lower.pair is plan.pair.vae
    assert upper.pair is plan.pair.m2
    assert upper.transform == plan.pair.draw_z1
    assert not lower.classes
    assert upper.classes


def test_both_layers_of_m1m2_learn_jointly(y):
    stack = built("m1m2").pair
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    objective = SupervisedELBO(per_label(0.1, y))
    fit(stack, torch.rand(20, 6).round(), y, epochs=2, progress=False, objective=objective)
    moved = {
        name.split(".")[0] for name, value in stack.state_dict().items() if (value != before[name]).any()
    }
    assert moved == {"vae", "m2"}


@pytest.mark.parametrize("classes", [None, torch.full((20,), -1)])
@pytest.mark.parametrize("name", ["m2", "m1m2", "pcvae", "cpcvae"])
def test_a_model_with_classes_needs_some(name, classes):
    plan = built(name, spread=False)
    with pytest.raises(InputError, match="class"):
        plan.fit(torch.rand(20, 6).round(), classes)
