"""Several, nested, dependent and Markov enumerated sites, against TraceEnum_ELBO and exact answers."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED
from enumerated_programs import (
    DEPTHS,
    PAIRS,
    T,
    data,
    forward,
    hidden_markov,
    loss_and_gradients,
    nothing,
)
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from small_programs import IN_PARALLEL, parameter

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs import Pair
from pyrovae.programs.densities import trace_log_probs

pytestmark = pytest.mark.cpu

every_pair = pytest.mark.parametrize("name", PAIRS)


@every_pair
@pytest.mark.parametrize("particles", [1, 3])
def test_the_bound_and_its_gradient_are_those_of_trace_enum_elbo(name, particles, param_store):
    settings = {"num_particles": particles, "vectorize_particles": particles > 1}
    pyros = TraceEnum_ELBO(max_plate_nesting=DEPTHS.get(name, 1), **settings)
    x = data()
    expected = loss_and_gradients(pyros, PAIRS[name], x)
    torch.testing.assert_close(loss_and_gradients(ELBO(**settings), PAIRS[name], x), expected)


@every_pair
def test_the_terms_add_up_to_the_bound(name, param_store):
    bound = ELBO(2).evaluate(Pair(*PAIRS[name]), data())
    terms = bound.terms
    torch.testing.assert_close(terms["reconstruction"] - terms["kl"], -bound.loss.detach())
    observed = [value for term, value in terms.items() if term not in ("kl", "reconstruction")]
    torch.testing.assert_close(sum(observed), terms["reconstruction"])
    assert not any(value.requires_grad for value in terms.values())


def test_the_terms_are_sums_over_all_paths_of_the_chain(param_store):
    """E_q[log p(x | k)] and KL(q || p) of the chain, path by path."""
    x = data(3)
    model, guide = PAIRS["markov"]
    terms = ELBO().evaluate(Pair(model, guide), x).terms
    kl, observed = torch.zeros(()).double(), torch.zeros(T).double()
    for path in itertools.product(range(2), repeat=T):
        states = {f"k{t}": torch.full((3,), k) for t, k in enumerate(path)}
        log_p, log_q = (
            trace_log_probs(poutine.trace(poutine.condition(program, data=states)).get_trace(x))
            for program in (model, guide)
        )
        q = sum(log_q.values()).exp()
        kl = kl + (q * sum(log_q[k] - log_p[k] for k in states)).sum().detach()
        observed += torch.stack([(q * log_p[f"x{t}"]).sum().detach() for t in range(T)])
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(torch.stack([terms[f"x{t}"] for t in range(T)]), observed)


@pytest.mark.parametrize("infer", [IN_PARALLEL, None], ids=["marked", "unmarked"])
@pytest.mark.parametrize("objective", [ELBO(), IWAE(3), FreeBits(0.2)], ids=["elbo", "iwae", "free bits"])
def test_a_chain_that_the_guide_lacks_is_summed_out_exactly(infer, objective, param_store):
    x = data()
    pair = Pair(hidden_markov(pyro.markov, infer), nothing)
    bound = objective.evaluate(pair, x)
    torch.testing.assert_close(-bound.loss, forward(x).sum())
    torch.testing.assert_close(bound.terms["reconstruction"], forward(x).sum().detach())
    assert bound.terms["kl"] == 0
    parameters = [parameter("p moves"), parameter("means")]
    found, expected = (torch.autograd.grad(v, parameters) for v in (-bound.loss, forward(x).sum()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["markov", "chain without markov"])
def test_importance_weights_sum_the_chain_out_exactly(name, param_store):
    """Without a draw every weight is p(x), and q plays no part."""
    x = data()
    bound = IWAE(2).evaluate(Pair(*PAIRS[name]), x)
    torch.testing.assert_close(-bound.loss, forward(x).sum())
    elbo = ELBO().evaluate(Pair(*PAIRS[name]), x).terms
    torch.testing.assert_close(bound.terms, elbo)


@pytest.mark.parametrize("name", ["inner plate", "the data's plate outermost"])
def test_the_doubly_reparameterised_gradient_has_the_mean_of_the_plain_one(name, param_store):
    x, pair = data(4).repeat(100, 1), Pair(*PAIRS[name])
    torch.manual_seed(SEED)
    IWAE(3).evaluate(pair, x[:4])  # shows the parameters
    parameters = [p for _, p in pyro.get_param_store().named_parameters()]
    means, errors = [], []
    for double in (False, True):
        losses = (IWAE(3, double).evaluate(pair, x).loss for _ in range(25))
        found = [torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in losses]
        every = torch.stack([torch.cat([g.flatten() for g in of_call]) for of_call in found])
        means.append(every.mean(0))
        errors.append(every.var(0) / len(every))
    # Few calls give a rough error, hence half as much again.
    assert ((means[0] - means[1]).abs() <= 6 * (errors[0] + errors[1]).sqrt() + 1e-6).all()
    assert means[1].abs().max() > 1


@pytest.mark.parametrize("name", ["inner plate", "the data's plate outermost"])
def test_importance_weights_of_nested_plates_are_the_evidence_for_many_particles(name, param_store):
    x, pair = data(4), Pair(*PAIRS[name])
    with torch.no_grad():
        bound = IWAE(40_000).evaluate(pair, x)
        priors = parameter("class").log_softmax(0)
        slope, centres = parameter("slope"), parameter("centres")
        scores = dist.Normal(slope * centres, (slope**2 + 0.49).sqrt()).log_prob(x[:, :3, None]).sum(1)
        exact = (priors + scores).logsumexp(1).sum()
    assert abs(-bound.loss - exact) < 0.1
    assert abs(exact) > 10


def test_weights_of_sites_that_depend_on_a_class_of_the_model_alone_are_refused(param_store):
    x = data()
    pair = Pair(*PAIRS["classes of both programs"])
    for weights in ({"x": 2.0}, {"c": 0.5}):
        with pytest.raises(
            InputError, match=r"depend on \['c'\], which the guide lacks.*different weights"
        ):
            ELBO().evaluate(reweight_pair(pair, weights), x)
    weighted = ELBO().evaluate(reweight_pair(pair, {"z": 0.5, "y": 0.5}), x)  # beta reaches neither c nor x
    torch.manual_seed(SEED)
    plain = ELBO().evaluate(pair, x)
    torch.manual_seed(SEED)
    weighted = ELBO().evaluate(reweight_pair(pair, {"z": 0.5, "y": 0.5}), x)
    torch.testing.assert_close(plain.terms, weighted.terms)
    expected = 0.5 * plain.terms["kl"] - plain.terms["reconstruction"]
    torch.testing.assert_close(weighted.loss.detach(), expected)


def test_a_plates_scale_multiplies_the_logarithm_of_the_sum(param_store):
    x = data()

    def model(x):
        with pyro.plate("data", 50, subsample=torch.arange(5)):
            c = pyro.sample("c", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
            pyro.sample("x", dist.Normal(parameter("centres", -1.0, 1.2)[c], 0.7), obs=x[:, 0])

    bound = ELBO().evaluate(Pair(model, nothing), x)
    score = dist.Normal(parameter("centres"), 0.7).log_prob(x[:, :1])
    exact = (parameter("class").log_softmax(0) + score).logsumexp(1).sum()
    torch.testing.assert_close(-bound.loss, 10 * exact)
    torch.testing.assert_close(bound.terms["reconstruction"], exact.detach())


def test_an_inference_of_pyro_steps_along_the_exact_gradient(param_store):
    x = data()
    model = hidden_markov(pyro.markov, None)
    log_p = forward(x).sum()
    names = ["p start", "p moves", "means"]
    steps = torch.autograd.grad(log_p, [parameter(name) for name in names])
    expected = [parameter(name).detach() + 0.01 * step for name, step in zip(names, steps, strict=True)]
    loss = SVI(model, nothing, pyro.optim.SGD({"lr": 0.01}), ELBO()).step(x)
    assert loss == pytest.approx(-log_p.item())
    torch.testing.assert_close([parameter(name).detach() for name in names], expected)


def test_free_bits_floor_each_of_several_classes(param_store):
    x, pair = data(), Pair(*PAIRS["markov"])
    elbo = ELBO().evaluate(pair, x)
    torch.testing.assert_close(FreeBits(0.0).evaluate(pair, x).loss, elbo.loss)
    floored = FreeBits(5.0).evaluate(pair, x)
    torch.testing.assert_close(-floored.loss, elbo.terms["reconstruction"] - T * 5 * len(x))
    torch.testing.assert_close(floored.terms, elbo.terms)
    with pytest.raises(InputError, match=r"'k0' has no single floor.*per='site'"):
        FreeBits(0.1, "dimension").evaluate(pair, x)


def test_a_site_outside_of_an_enumerated_sites_plates_must_not_depend_on_it(param_store):
    """Enumerated values stand side by side in one dimension, so a mean over them is none over the data."""

    def programs(inside, infer):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(logits=parameter("lean", 0.3, -0.3)), infer=infer)

        def model(x):
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
                pyro.sample("x", dist.Normal(y.double(), 1.0), obs=x[:, 0])
            pyro.factor("size", (y if inside else x).double().mean())

        return Pair(model, guide)

    x = data(3)
    for objective in (ELBO(), FreeBits(0.1)):
        with pytest.raises(
            InputError, match=r"'size' depends on the enumerated site 'y'.*\(data\).*or draw"
        ):
            objective.evaluate(programs(True, IN_PARALLEL), x)
    ScoreFunctionELBO().evaluate(programs(True, {}), x)  # the remedy
    drawn, enumerated = (programs(False, infer) for infer in ({}, IN_PARALLEL))
    exact = ELBO().evaluate(enumerated, x)
    torch.testing.assert_close(exact.terms["size"], x.mean())
    torch.testing.assert_close(ELBO().evaluate(drawn, x).terms["size"], x.mean())


def test_drawn_sites_beside_enumerated_ones_are_refused_by_name(param_store):
    model, guide = PAIRS["two classes"]

    def drawn(x):
        with poutine.infer_config(
            config_fn=lambda site: {"enumerate": None} if site["name"] == "a" else {}
        ):
            guide(x)

    with pytest.raises(InputError, match=r"'a' \(Categorical\) is neither reparameterised nor enumerated"):
        ELBO().evaluate(Pair(model, drawn), data())
