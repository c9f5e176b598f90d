"""The dimensions of a pair's plates are found once, and found again when the programs have changed."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED
from pyro import poutine
from small_programs import IN_PARALLEL, parameter

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO, SupervisedELBO
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs import Pair

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).double()
OBJECTIVES = {
    "elbo": lambda: ELBO(3),
    "elbo with particles": lambda: ELBO(3, vectorize_particles=True),
    "iwae": lambda: IWAE(3),
    "dreg": lambda: IWAE(3, True),
    "free bits": lambda: FreeBits(0.2),
    "score function": lambda: ScoreFunctionELBO(),
    "supervised": lambda: SupervisedELBO(1.0),
}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


class Switched:
    """A model that opens an inner plate, and a class, when it is told to."""

    def __init__(self):
        self.inner, self.classes = False, False

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            if self.classes:
                y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
                z = z + parameter("centres", -1.0, 1.2)[y]
            if self.inner:
                with pyro.plate("views", 3):
                    pyro.sample("x", dist.Normal(z, 0.8), obs=x.T)
            else:
                pyro.sample("x", dist.Normal(z[..., None], 0.8).to_event(1), obs=x)

    def guide(self, x):
        w = parameter("w", 0.4, -0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(w[0] * x.mean(1), w[1].exp()))
            if self.classes:
                pyro.sample("y", dist.Categorical(logits=x[:, :2]), infer=IN_PARALLEL)


def loss(objective, pair, *args, **kwargs):
    torch.manual_seed(SEED)
    return objective.evaluate(pair, *args, **kwargs).loss.detach()


@every_objective
def test_plates_that_open_later_are_found(make, param_store):
    """The inner plate says of the densities what the event's dimensions said."""
    pair, objective = Switched(), make()
    before = loss(objective, pair, X)
    for inner in (True, False):
        pair.inner = inner
        assert loss(objective, pair, X).isfinite()  # finds the plates, after it has drawn once
        torch.testing.assert_close(loss(objective, pair, X), before)


@pytest.mark.parametrize("make", [OBJECTIVES["elbo"], OBJECTIVES["iwae"], OBJECTIVES["free bits"]])
def test_a_class_that_joins_later_is_summed_out(make, param_store):
    pair, objective = Switched(), make()
    loss(objective, pair, X)
    for pair.classes, pair.inner in ((True, False), (True, True), (False, True)):
        loss(objective, pair, X)
        assert loss(objective, pair, X) == loss(make(), pair, X)


@every_objective
def test_data_may_be_given_by_name_beside_arguments_that_are_none(make, param_store):
    pair = Switched()

    def named(program):
        return lambda *, x, mask=None: program(x)

    def positional(program):
        return lambda x, mask: program(x)

    expected = loss(make(), pair, X)
    by_name = Pair(named(pair.model), named(pair.guide))
    assert loss(make(), by_name, x=X) == expected
    assert loss(make(), by_name, mask=None, x=X) == expected
    assert loss(make(), Pair(positional(pair.model), positional(pair.guide)), X, None) == expected


def test_weights_that_change_at_each_step_need_no_new_layout(param_store):
    pair, runs, objective = Switched(), [], ELBO()

    def model(x):
        runs.append(1)
        pair.model(x)

    program = Pair(model, pair.guide)
    for beta in (0.1, 0.2, 0.3):
        objective.evaluate(reweight_pair(program, {"z": beta}), X)
    assert len(runs) == 3 + 1


@every_objective
def test_an_objective_can_be_pickled_after_its_use(make, param_store):
    pair, objective = Switched(), make()
    expected = loss(objective, pair, X)
    assert loss(pickle.loads(pickle.dumps(objective)), pair, X) == expected


def test_errors_of_the_program_are_its_own(param_store):
    class Failing(Switched):
        def guide(self, x):
            raise ValueError("no such guide")

    pair, objective = Switched(), ELBO()
    loss(objective, pair, X)
    pair.__class__ = Failing
    with pytest.raises(ValueError, match="no such guide"):
        loss(objective, pair, X)


def test_the_datas_plate_may_stand_left_of_others(param_store):
    """The same programs with their plates in either order have the same bound and gradient."""

    def programs(dim):
        def along(values):
            return values if dim == -1 else values.mT

        def model(x):
            with pyro.plate("data", len(x), dim=dim):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                with pyro.plate("views", 3, dim=-3 - dim):
                    pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=along(x.T))

        def guide(x):
            w = parameter("w", 0.4, -0.5)
            mean = along(x.mean(1)[None]) if dim == -2 else x.mean(1)
            with pyro.plate("data", len(x), dim=dim):
                pyro.sample("z", dist.Normal(w[0] * mean, w[1].exp()))

        return Pair(model, guide)

    for make in OBJECTIVES.values():
        losses, gradients = [], []
        for dim in (-1, -2):
            torch.manual_seed(SEED)
            bound = make().evaluate(programs(dim), X)
            losses.append(bound.loss.detach())
            gradients.append(torch.autograd.grad(bound.loss, [parameter("w"), parameter("slope")]))
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients)


def test_a_call_without_data_is_refused(param_store):
    def program():
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0))

    with pytest.raises(InputError, match="no argument of the programs is a tensor of data"):
        FreeBits(0.1).evaluate(Pair(program, program))
    assert ELBO().evaluate(Pair(program, program)).loss == 0
    assert poutine.trace(program).get_trace().nodes
