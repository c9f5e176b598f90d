"""The library's numbers for a random program, held against exact answers or brute force."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import brute_force
import exact_answers
import pyro
import torch
from program_description import PLAIN, Program
from program_source import pair_of, script
from program_weights import weights_and_data
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import inference_gaps, marginal_likelihood
from pyrovae.generation import latent_means
from pyrovae.objectives import ELBO, IWAE
from pyrovae.programs.layout import layout_of, run_under_particles
from pyrovae.programs.log_weights import weights_of
from pyrovae.programs.rows import Arguments

MOST = 6.0  # standard errors
COPIES = 200  # copies of the data in one call of an objective
CALLS = 40  # calls of an objective where data cannot be copied
BRUTE = 4000  # draws of brute force
PYROS_LIMIT = r"no more global than guide enumeration"
LEAST_ESS = 60  # effective draws from which on an error bar is taken at its word


# What may be refused


def has_several_classes(program: Program) -> bool:
    """Several enumerated sites, or one that is not directly under the data's plate."""
    found = program.enumerated
    return len(found) > 1 or any(len(site.plates) != 1 for site in found)


def has_hard_classes(program: Program) -> bool:
    """Several, or nested, enumerated sites beside a network that takes no leading dimensions."""
    return has_several_classes(program) and not is_plain(program)


def has_draws_of_classes_and_others(program: Program) -> bool:
    """Draws that depend on different enumerated sites of the guide."""
    drawn = [s for s in program.sites if s.role == "latent" and s.is_normal and s.treatment == "drawn"]
    classes = {frozenset(_classes_before(program, site.name)) for site in drawn}
    return len(classes) > 1


def _classes_before(program: Program, name: str) -> set[str]:
    """The enumerated sites on which a site of the guide depends."""
    found: set[str] = set()
    for parent in program[name].guide_parents:
        if program[parent].in_guide:
            found |= _classes_before(program, parent)
            found |= {parent} if program[parent].treatment == "enumerated" else set()
    return found


def has_class_of_the_model_outside_of_one_of_the_guide(program: Program) -> bool:
    """A class of the model alone, and an enumerated one of the guide in a plate within the first one."""
    alone = [set(site.plates) for site in program.sites if site.role == "summed"]
    in_guide = [set(site.plates) for site in program.enumerated if site.in_guide]
    return any(outer < inner for outer in alone for inner in in_guide)


def is_plain(program: Program) -> bool:
    """Whether every network takes leading dimensions."""
    return all(s.network == PLAIN and s.guide_network == PLAIN for s in program.sites)


def has_drawn_class(program: Program) -> bool:
    return any(s.role == "latent" and not s.is_normal and s.treatment == "drawn" for s in program.sites)


def draws_beside_enumerated(program: Program) -> bool:
    """A site neither reparameterised nor enumerated beside an enumerated one."""
    return has_drawn_class(program) and bool(program.enumerated)


@dataclass(frozen=True)
class Cause:
    """A cause for which a program may be refused.

    Attributes:
        name: the cause, for the counts.
        text: a pattern that the message contains.
        holds: whether a program has the property that the message speaks of.
        quantities: the quantities that may be refused.
    """

    name: str
    text: str
    holds: Callable[[Program], bool]
    quantities: tuple[str, ...]


EVALUATION = ("evidence", "gaps", "posterior mean", "posterior mean by weights")
TRAINING = ("ELBO", "TraceEnum_ELBO", "training", "gradient", "IWAE", "IWAE gradient")
CAUSES = (
    Cause(
        "several or nested enumerated sites beside a network that takes no leading dimensions",
        r"leading dimension",
        has_hard_classes,
        (*EVALUATION, *TRAINING),
    ),
    Cause(
        "a site neither reparameterised nor enumerated beside an enumerated one",
        r"reparameteri[sz]ed",
        draws_beside_enumerated,
        (*TRAINING, "gaps"),
    ),
    Cause(
        "a latent neither reparameterised nor enumerated, for an objective or search that needs a gradient",
        r"reparameteri[sz]ed",
        has_drawn_class,
        ("IWAE", "gaps"),
    ),
    Cause(
        "draws that depend on different enumerated sites, for the doubly reparameterised gradient",
        r"drawn and before others",
        has_draws_of_classes_and_others,
        ("IWAE gradient",),
    ),
    Cause(
        "a class of the model alone outside of a plate of the guide's class, which Pyro refuses as well",
        PYROS_LIMIT,
        has_class_of_the_model_outside_of_one_of_the_guide,
        TRAINING,
    ),
    Cause(
        "a global latent at a point, for the search of a best guide",
        r"Delta",
        lambda program: program.has_points,
        ("gaps",),
    ),
    Cause(
        "a global latent that is drawn, for a figure per datum",
        r"joint=True|not under a plate of",
        lambda program: program.is_joint,
        ("gaps", "posterior mean", "evidence per datum"),
    ),
)


# One program


@dataclass
class Outcome:
    """What became of one program.

    Attributes:
        agreed: the quantities that agree.
        refused: the cause by quantity.
        failures: a line for each disagreement, error, or refusal for no good cause.
        z_scores: the differences over their standard errors, by quantity.
        uncertain: the quantities whose weights vary so much that an error bar says little.
        absent: the quantities that the program does not have.
    """

    program: Program
    agreed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    z_scores: dict[str, list[float]] = field(default_factory=dict)
    uncertain: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @contextmanager
    def quantity(self, name: str) -> Iterator[None]:
        """Note the end of a comparison, and any error in it."""
        before = len(self.failures)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except InputError as error:
            self._note_refusal(name, str(error))
        except Exception as error:
            line = next(iter(str(error).splitlines()), "")
            self.failures.append(f"{name}: raw {type(error).__name__}: {line}")
        else:
            if len(self.failures) == before and name not in (*self.uncertain, *self.absent):
                self.agreed.append(name)

    def _note_refusal(self, name: str, message: str) -> None:
        for cause in CAUSES:
            if name in cause.quantities and re.search(cause.text, message) and cause.holds(self.program):
                self.refused[name] = cause.name
                return
        self.failures.append(f"{name}: refused: {message}")

    def compare(
        self, name: str, found: Tensor, expected: Tensor, error: Tensor | float, slack: float = 1e-4
    ) -> None:
        """Compare numbers whose standard error is known."""
        found, expected = torch.broadcast_tensors(found.detach().double(), expected.detach().double())
        error = torch.as_tensor(error, dtype=torch.double).expand(found.shape)
        difference = found - expected
        beyond = (difference.abs() - slack).clamp(min=0.0) / error.clamp(min=1e-12)
        known = error > 1e-6
        self.z_scores.setdefault(name, []).extend((difference / error)[known].tolist())
        if not bool((beyond <= MOST).all()):  # NaN is beyond
            worst = int((beyond.nan_to_num(math.inf)).argmax())
            numbers = (t.flatten()[worst].item() for t in (found, expected, error))
            self.failures.append("{}: {:.5f}, exact {:.5f}, standard error {:.5f}".format(name, *numbers))


@dataclass(frozen=True)
class Case:
    """A program with all that its comparisons need."""

    program: Program
    weights: dict[str, Tensor]
    x: Tensor
    pair: Any
    draws: brute_force.Draws
    exact: exact_answers.Posterior

    @property
    def samples(self) -> int:
        """The number of the library's draws: fewer where it may have to run one copy at a time."""
        if not is_plain(self.program) and (self.program.globals or has_several_classes(self.program)):
            return 200
        return 4000 if self.program.is_joint else 1000

    @property
    def points(self) -> Tensor:
        return exact_answers.log_prior_of_points(self.program, self.weights)


def case_of(program: Program) -> Case:
    weights, x = weights_and_data(program)
    joint = program.is_joint
    draws = brute_force.draw(program, weights, x, BRUTE, joint, seed=program.seed + 1)
    exact = exact_answers.posterior(program, weights, x, joint)
    return Case(program, weights, x, pair_of(program, weights), draws, exact)


def check(program: Program, quantities: Callable[[str], bool] = lambda name: True) -> Outcome:
    """Compute everything for a program, and compare.

    Args:
        program: the program.
        quantities: which of `CHECKS` are wanted.
    """
    outcome, case = Outcome(program), case_of(program)
    for name, compare in CHECKS.items():
        if quantities(name):
            torch.manual_seed(program.seed)
            with outcome.quantity(name):
                compare(outcome, case)
            pyro.clear_param_store()
    return outcome


def report(outcome: Outcome) -> str:
    """The failures of a program, its description and its source with weights and data."""
    weights, x = weights_and_data(outcome.program)
    return "\n".join([*outcome.failures, repr(outcome.program), script(outcome.program, weights, x)])


# Each quantity


def copied(case: Case, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """The mean of an objective's value over many copies of the data, and their number.

    The density of global points, which a call has once, is left out.
    """
    if case.program.is_joint:
        return torch.stack([value(case.x) for _ in range(CALLS)]).mean(), CALLS
    return (value(case.x.repeat(COPIES, 1)) - case.points) / COPIES, COPIES


def compare_elbo(outcome: Outcome, case: Case) -> None:
    with torch.no_grad():
        found, copies = copied(case, lambda x: -ELBO().evaluate(case.pair, x).loss)
    expected, error = elbo_by(case)
    spread = case.draws.elbo.var(0).sum()
    outcome.compare("ELBO", found, expected.sum(), (spread / copies + error.square().sum()).sqrt())


def elbo_by(case: Case) -> tuple[Tensor, Tensor]:
    """The ELBO of each datum in closed form, or by brute force where there is none; and its error."""
    terms = case.draws.elbo
    if any(site.role == "summed" for site in case.program.sites):
        return terms.mean(0), terms.std(0) / len(terms) ** 0.5
    return exact_answers.elbo(case.program, case.weights, case.x), torch.zeros(terms.shape[1])


def compare_trace_enum(outcome: Outcome, case: Case) -> None:
    if not is_plain(case.program) or any(s.role == "left_out" for s in case.program.sites):
        outcome.absent.append("TraceEnum_ELBO")
        return
    nesting = 1 + len(case.program.plates)
    pyros = TraceEnum_ELBO(max_plate_nesting=nesting)
    losses = []
    for objective in (ELBO(), pyros):
        torch.manual_seed(case.program.seed)
        try:
            losses.append(objective.differentiable_loss(case.pair.model, case.pair.guide, case.x))
        except ValueError as error:
            if objective is not pyros or not re.search(PYROS_LIMIT, str(error)):
                raise
            outcome.absent.append("TraceEnum_ELBO")  # Pyro has no value to compare with
            return
    outcome.compare("TraceEnum_ELBO", *losses, 0.0)


def compare_iwae(outcome: Outcome, case: Case, samples: int = 5) -> None:
    with torch.no_grad():
        found, copies = copied(case, lambda x: -IWAE(samples).evaluate(case.pair, x).loss)
    expected, spread = brute_force.bound(case.draws.log_weights, samples)
    groups = len(case.draws.log_weights) // samples
    error = (spread.sum() * (1 / copies + 1 / groups)).sqrt()
    outcome.compare("IWAE", found, expected.sum(), error)


def relative_error(case: Case) -> Tensor | None:
    """The standard error of log p(x) by importance sampling with the guide, `(B,)`.

    None if too few draws count, so that an error bar says little.
    """
    log_weights = case.draws.log_weights
    weights = (log_weights - log_weights.logsumexp(0) + math.log(len(log_weights))).exp()
    ess = case.samples / weights.square().mean(0)
    return None if bool((ess < LEAST_ESS).any()) else weights.std(0) / case.samples**0.5


def compare_evidence(outcome: Outcome, case: Case) -> None:
    joint = {"joint": True} if case.program.is_joint else {}
    result = marginal_likelihood(case.pair, case.x, num_samples=case.samples, **joint)
    error = relative_error(case)
    if error is None:
        outcome.uncertain.append("evidence")
        return
    log_px = torch.as_tensor(result.log_px).reshape(-1)
    reported = torch.as_tensor(result.std_error).reshape(-1).nan_to_num(0.0)
    # An error bar from few draws of a skewed weight may be too small by chance; one that is 0 by mistake
    # is found out by what brute force says.
    outcome.compare("evidence", log_px, case.exact.log_px, torch.maximum(error, reported), slack=1e-3)
    ratio = (reported / error.clamp(min=1e-12)).log()[error > 1e-3]
    outcome.compare("evidence: log of the error over its true size", ratio, torch.zeros(()), 0.15)
    if not joint:
        expected, by_brute_force = elbo_by(case)
        spread = case.draws.elbo.std(0) / case.samples**0.5
        error = (spread.square() + by_brute_force.square()).sum().sqrt() / len(case.x)
        outcome.compare("evidence: ELBO", torch.tensor(result.elbo), expected.mean(), error)


def compare_refused_per_datum(outcome: Outcome, case: Case) -> None:
    """With a drawn global latent there is no evidence for each datum."""
    if not case.program.is_joint:
        outcome.absent.append("evidence per datum")
        return
    marginal_likelihood(case.pair, case.x, num_samples=10)
    outcome.failures.append("evidence per datum: not refused, although a global latent is drawn")


def compare_gaps(outcome: Outcome, case: Case) -> None:
    program = case.program
    latents = {site.name for site in program.sites if site.in_guide and site.treatment != "point"}
    if program.is_joint or any(latents & set(site.guide_parents) for site in program.guide_order):
        outcome.absent.append("gaps")
        return
    gaps = inference_gaps(
        case.pair, case.x, num_samples=case.samples, steps=30, particles=5, learning_rate=0.03
    )
    error = relative_error(case)
    if error is None:
        outcome.uncertain.append("gaps")
        return
    errors = {name: value.nan_to_num(0.0) for name, value in gaps.std_error.items()}
    expected, by_brute_force = elbo_by(case)
    spread = case.draws.elbo.std(0) / case.samples**0.5
    outcome.compare("gaps: ELBO", gaps.elbo, expected, (spread.square() + by_brute_force.square()).sqrt())
    exact = case.exact.log_px
    outcome.compare("gaps: log p(x)", gaps.log_px_by_guide, exact, torch.maximum(error, spread), 1e-3)
    outcome.compare(
        "gaps: log p(x) by q*", gaps.log_px, exact, torch.maximum(errors["log_px"], error), 1e-3
    )
    total = gaps.approximation + gaps.amortisation
    outcome.compare("gaps: sum", total, gaps.total, 0.0, slack=1e-9)
    least = exact_answers.mean_field_gap(program, case.weights, case.x)
    below = -gaps.approximation if least is None else least - gaps.approximation
    outcome.compare(
        "gaps: approximation", below.clamp(min=0.0), torch.zeros_like(below), errors["approximation"], 1e-3
    )
    worse = (-gaps.amortisation).clamp(min=0.0)
    outcome.compare(
        "gaps: amortisation", worse, torch.zeros_like(worse), errors["amortisation"], slack=1e-3
    )


def compare_latent_means(outcome: Outcome, case: Case) -> None:
    """The guide's means, of latents that depend on no class."""
    program = case.program
    found = exact_answers.guide_means(program, case.weights, case.x) if not program.globals else {}
    names = [name for name in found if not _class_ancestors(program, name)]
    if not names:
        outcome.absent.append("posterior mean")
    pair = pair_of(program, case.weights)
    pair.likelihood = SimpleNamespace(x_shape=case.x.shape[1:])  # generation asks for the shape of a datum
    for name in names:
        means = latent_means(pair, case.x, name).reshape(len(case.x), -1)
        outcome.compare("posterior mean", means, found[name], 0.0)


def _class_ancestors(program: Program, name: str) -> bool:
    latents = [p for p in program[name].guide_parents if program[p].in_guide]
    return any(not program[p].is_normal or _class_ancestors(program, p) for p in latents)


def compare_posterior_means(outcome: Outcome, case: Case) -> None:
    """The means of local latents over the draws of evaluation, with their importance weights."""
    program, samples = case.program, case.samples
    local = [s for s in program.guide_order if s.is_normal and not s.is_global and len(s.plates) == 1]
    if program.enumerated or not local or relative_error(case) is None:
        outcome.absent.append("posterior mean by weights")
        return
    joint = program.is_joint
    with torch.no_grad():
        arguments = Arguments((case.x,))
        layout = layout_of(case.pair, arguments, joint=joint)
        model_trace, guide_trace = run_under_particles(case.pair, arguments, samples, layout)
        log_weights = weights_of(model_trace, guide_trace, case.x, layout)
    shares = (log_weights - log_weights.logsumexp(0)).exp() * samples  # (K, B), or (K, 1) if joint
    for site in local:
        values = guide_trace.nodes[site.name]["value"].reshape(samples, len(case.x), -1)
        means = [mean for node, mean in case.exact.means.items() if node.name == site.name]
        expected = torch.cat(means) if joint else means[0]
        terms = shares.unsqueeze(-1) * (values - expected)
        error = terms.std(0) / samples**0.5
        outcome.compare("posterior mean by weights", terms.mean(0) + expected, expected, error, slack=1e-3)


def compare_gradient(outcome: Outcome, case: Case) -> None:
    """The mean gradient of the ELBO's loss."""
    program = case.program

    def closed_form(leaves: Mapping[str, Tensor]) -> Tensor:
        return exact_answers.elbo(program, leaves, case.x).sum()

    if not any(site.role == "summed" for site in program.sites):
        expected, error = gradient_of(case, closed_form), torch.zeros(())
    elif has_drawn_class(program):  # whose gradient brute force does not have
        outcome.absent.append("gradient")
        return
    else:
        expected, error = gradient_by_brute_force(case, lambda draws: draws.elbo.mean(0).sum())
    compare_mean_gradient(outcome, case, "gradient", ELBO(), expected, error)


def compare_iwae_gradient(outcome: Outcome, case: Case, samples: int = 5) -> None:
    """The mean gradients of the importance-weighted bound's loss, plain and doubly reparameterised."""
    if has_drawn_class(case.program):
        outcome.absent.append("IWAE gradient")
        return
    expected, error = gradient_by_brute_force(
        case, lambda draws: brute_force.bound(draws.log_weights, samples)[0].sum()
    )
    for doubly in (False, True):
        compare_mean_gradient(outcome, case, "IWAE gradient", IWAE(samples, doubly), expected, error)


def compare_mean_gradient(
    outcome: Outcome, case: Case, name: str, objective: Any, expected: Tensor, error: Tensor
) -> None:
    """Compare an objective's mean gradient over many calls with the gradient of a bound of the data."""
    copies, calls = (1, CALLS) if case.program.is_joint else (30, 20)
    kept = [p for n, p in case.pair.w.items() if n in case.weights and p.requires_grad]
    found = []
    for _ in range(calls):
        loss = objective.evaluate(case.pair, case.x.repeat(copies, 1)).loss
        found.append(flat(torch.autograd.grad(loss, kept, materialize_grads=True)))
    every = torch.stack(found)
    # The prior of global points has its gradient once in a call.
    prior = gradient_of(case, lambda leaves: exact_answers.log_prior_of_points(case.program, leaves))
    spread = (every.var(0) / calls + (copies * error).square()).sqrt()
    # A few calls give a rough error, hence half as much again.
    outcome.compare(name, -every.mean(0), copies * expected + prior, 1.5 * spread, slack=1e-6 * copies)


def gradient_of(case: Case, bound: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
    """The gradient of a function of the weights, with respect to those that are trained."""
    leaves = {name: value.clone().requires_grad_() for name, value in case.weights.items()}
    kept = [value for name, value in leaves.items() if case.pair.w[name].requires_grad]
    value = bound(leaves)
    if not value.requires_grad:
        return flat([torch.zeros_like(leaf) for leaf in kept])
    return flat(torch.autograd.grad(value, kept, materialize_grads=True))


def gradient_by_brute_force(
    case: Case, bound: Callable[[brute_force.Draws], Tensor], batches: int = 20, samples: int = 500
) -> tuple[Tensor, Tensor]:
    """The mean gradient of a bound over brute force's draws, and its standard error."""
    program = case.program

    def drawn(leaves: Mapping[str, Tensor], batch: int) -> Tensor:
        seed = 1000 * program.seed + batch
        return bound(brute_force.draw(program, leaves, case.x, samples, program.is_joint, seed))

    every = torch.stack([gradient_of(case, partial(drawn, batch=batch)) for batch in range(batches)])
    return every.mean(0), every.std(0) / batches**0.5


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def compare_training(outcome: Outcome, case: Case, epochs: int = 12) -> None:
    """The history of training in minibatches at a learning rate of 0: the bound of all data, per datum."""
    copies = 1 if case.program.is_joint else 10
    x = case.x.repeat(copies, 1)
    history = fit(
        pair_of(case.program, case.weights),
        x,
        epochs=epochs,
        batch_size=max(1, len(x) // 2),
        optimizer=partial(torch.optim.SGD, lr=0.0),
        progress=False,
        compile="off",
    )
    found = torch.tensor(history["elbo"])
    expected, error = elbo_by(case)
    per_datum = (copies * expected.sum() + case.points) / len(x)
    # A few epochs give a rough error, hence half as much again.
    spread = 1.5 * found.std() / epochs**0.5
    error = (spread.square() + (error.square().sum().sqrt() / len(case.x)).square()).sqrt()
    outcome.compare("training", found.mean(), per_datum, error)


CHECKS: dict[str, Callable[[Outcome, Case], None]] = {
    "ELBO": compare_elbo,
    "TraceEnum_ELBO": compare_trace_enum,
    "IWAE": compare_iwae,
    "evidence": compare_evidence,
    "evidence per datum": compare_refused_per_datum,
    "gaps": compare_gaps,
    "posterior mean": compare_latent_means,
    "posterior mean by weights": compare_posterior_means,
    "gradient": compare_gradient,
    "IWAE gradient": compare_iwae_gradient,
    "training": compare_training,
}
