"""What an objective is: its bound is returned, and nothing is left on the objective."""

import copy
import gc
import weakref

import pytest
import torch
from by_hand import SEED
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceMeanField_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)

from pyrovae.errors import InputError
from pyrovae.objectives import (
    ELBO,
    IWAE,
    Bound,
    FreeBits,
    ScoreFunctionELBO,
    SupervisedELBO,
    as_objective,
    description,
)
from pyrovae.programs import Pair

OBJECTIVES = {
    "elbo": ELBO(2),
    "supervised": SupervisedELBO(1.0),
    "iwae": IWAE(3),
    "dreg": IWAE(3, doubly_reparameterised=True),
    "score function": ScoreFunctionELBO(),
    "free bits": FreeBits(0.2),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_all_methods_give_the_loss_of_the_bound(objective, vae, x):
    found = []
    for method in (objective.differentiable_loss, objective.loss, objective.loss_and_grads):
        torch.manual_seed(SEED)
        found.append(float(torch.as_tensor(method(vae.model, vae.guide, x)).detach()))
    torch.manual_seed(SEED)
    bound = objective.evaluate(vae, x)
    assert isinstance(bound, Bound)
    assert bound.loss.requires_grad
    assert not any(term.requires_grad for term in bound.terms.values())
    assert set(bound.terms) == {"kl", "reconstruction", "x"}
    assert found == pytest.approx([bound.loss.item()] * 3)


@every_objective
def test_an_evaluation_leaves_no_result_on_the_objective(objective, vae, x):
    objective = copy.deepcopy(objective)
    first = objective.evaluate(vae, x)
    before = {name: value for name, value in vars(objective).items() if name != "_layouts"}
    kept = {name: value.clone() for name, value in first.terms.items()}
    objective.evaluate(vae, 1 - x)
    after = {name: value for name, value in vars(objective).items() if name != "_layouts"}
    assert before == after
    assert all(torch.equal(first.terms[name], value) for name, value in kept.items())


def test_importance_weights_do_not_keep_a_pair_alive(make_vae, x):
    objective, vae = IWAE(2), make_vae().double()
    gone = weakref.ref(vae)
    objective.evaluate(vae, x)
    objective.evaluate(Pair(vae.model, vae.guide), x)
    del vae
    gc.collect()
    assert gone() is None
    assert objective.evaluate(make_vae(x_shape=(1, 2, 2)).double(), x[..., :2, :2]).loss.isfinite()


def test_the_layout_is_found_once_for_a_pair(vae, x):
    objective, runs = IWAE(2), []
    hook = vae.posterior.register_forward_hook(lambda *args: runs.append(args))
    counts = []
    for _ in range(3):
        objective.evaluate(vae, x)
        counts.append(len(runs))
    hook.remove()
    assert counts[0] > 1
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_pyros_objectives_are_wrapped_without_terms(vae, x):
    pyros = TraceMeanField_ELBO()
    torch.manual_seed(SEED)
    bound = as_objective(pyros).evaluate(vae, x)
    torch.manual_seed(SEED)
    torch.testing.assert_close(bound.loss, pyros.differentiable_loss(vae.model, vae.guide, x))
    assert not bound.terms
    assert description(as_objective(pyros)) == description(pyros)
    assert description(pyros).startswith("TraceMeanField_ELBO(num_particles=1")
    elbo = ELBO()
    assert as_objective(elbo) is elbo


def test_a_subclass_that_training_would_pass_by_is_refused():
    with pytest.raises(InputError, match=r"Mine overrides differentiable_loss.*evaluate"):

        class Mine(ELBO):
            def differentiable_loss(self, model, guide, *args, **kwargs):
                return 0.0


@pytest.mark.parametrize("objective", [JitTrace_ELBO(), JitTraceEnum_ELBO(), JitTraceMeanField_ELBO()])
def test_an_objective_that_compiles_itself_is_refused(objective):
    with pytest.raises(InputError, match=r'use ELBO\(\) with fit\(..., compile="on"\)'):
        as_objective(objective)


def test_an_objective_whose_loss_is_infinite_by_design_is_refused():
    with pytest.raises(InputError, match=r"TraceTailAdaptive_ELBO.*no loss to differentiate"):
        as_objective(TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True))
