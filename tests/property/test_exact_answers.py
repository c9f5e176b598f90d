"""The exact answers for random programs, held against brute force, quadrature and Pyro's own objective."""

import math
import warnings

import pytest
import torch
from brute_force import draw
from comparisons import MOST, case_of, copied, elbo_by, is_plain
from exact_answers import Node, posterior
from hypothesis import HealthCheck, Phase, assume, given, settings
from program_description import Plate, Program, Site
from program_source import pair_of
from program_strategy import programs
from program_weights import weights_and_data
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine.util import prune_subsample_sites

few = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@few
@given(programs())
def test_evidence_and_posterior_means_are_those_of_brute_force(program):
    weights, x = weights_and_data(program)
    draws = draw(program, weights, x, 4000, program.is_joint, seed=program.seed + 1)
    exact = posterior(program, weights, x, program.is_joint)
    log_weights = draws.log_weights
    shares = (log_weights - exact.log_px).exp()  # their mean is 1
    assume(bool((4000 / shares.square().mean(0) > 200).all()))
    assert_near(shares.mean(0), torch.ones(shares.shape[1]), shares.std(0) / 4000**0.5)
    if program.enumerated:
        return
    for node, mean in exact.means.items():
        if program[node.name].is_normal:
            value = draws.values[node].expand(4000, shares.shape[1], -1)
            terms = shares.unsqueeze(-1) * (value - mean)
            assert_near(terms.mean(0), torch.zeros_like(mean), terms.std(0) / 4000**0.5)


def assert_near(found, expected, error):
    assert bool(((found - expected).abs() <= MOST * error + 1e-6).all()), (found, expected, error)


@few
@given(programs())
def test_the_elbo_is_that_of_pyro(program):
    """Pyro enumerates for networks that take leading dimensions, and knows no latent of the model alone."""
    assume(is_plain(program) or not program.enumerated)
    assume(all(site.role != "left_out" for site in program.sites))
    case = case_of(program)
    pyros = TraceEnum_ELBO(max_plate_nesting=1 + len(program.plates))
    model, guide = case.pair.model, case.pair.guide
    torch.manual_seed(program.seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, copies = copied(case, lambda x: -pyros.differentiable_loss(model, guide, x).detach())
    except ValueError as error:  # classes of the model alone, beside plates or chains of the guide's
        assume("enumeration" not in str(error).lower())
        raise
    expected, error = elbo_by(case)
    spread = case.draws.elbo.var(0).sum() / copies
    assert_near(found, expected.sum(), (spread + error.square().sum()).sqrt())


LATENTS = (
    Site("y", "categorical", 2, "latent", treatment="enumerated"),
    Site("z", "normal", 1, "latent", ("y",), network="concatenate"),
)
BY_QUADRATURE = {
    "a class and a normal": Program(
        (*LATENTS, Site("x", "normal", 2, "observed", ("z", "y"), network="conv")), seed=3
    ),
    "observed in a plate inside": Program(
        (*LATENTS, Site("x", "normal", 2, "observed", ("z",), plates=("data", "plate0"), network="view")),
        plates=(Plate("plate0", 3, -1),),
        data_dim=-2,
        seed=4,
    ),
}


@pytest.mark.parametrize("program", BY_QUADRATURE.values(), ids=BY_QUADRATURE)
def test_evidence_and_posterior_means_are_those_of_quadrature(program):
    weights, x = weights_and_data(program)
    grid = torch.linspace(-12.0, 12.0, 4001, dtype=torch.double)
    step = math.log(float(grid[1] - grid[0]))
    exact = posterior(program, weights, x, joint=False)
    model = pair_of(program, weights).model
    for datum in range(len(x)):
        rows = x[datum : datum + 1].expand(len(grid), -1)
        log_joint = torch.stack([log_density(program, model, rows, grid, label) for label in range(2)])
        log_px = log_joint.logsumexp((0, 1)) + step
        mean = ((log_joint + step - log_px).exp() * grid).sum()
        assert exact.log_px[datum].item() == pytest.approx(log_px.item(), abs=1e-8)
        assert exact.means[Node("z")][datum].item() == pytest.approx(mean.item(), abs=1e-8)


def log_density(program, model, x, z, label):
    """log p(x, y, z) of one datum at each z, by Pyro."""
    shape = (-1, 1, 1) if program.plates else (-1, 1)
    y = torch.full((len(z),), label).reshape(shape[:-1])
    trace = poutine.trace(poutine.condition(model, {"z": z.reshape(shape), "y": y})).get_trace(x)
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    return sum(trace.nodes[name]["log_prob"].reshape(len(z), -1).sum(1) for name in ("y", "z", "x"))
