"""Random programs: every number agrees with an exact answer, or the program is refused by name.

A failure prints the smallest failing program that hypothesis finds: its description, which can be pasted
into `check(...)`, and its source with weights and data. `experiments/random_programs.py` tries thousands.
"""

from dataclasses import replace

import pytest
from comparisons import check, report
from hypothesis import HealthCheck, Phase, given, settings
from program_description import Plate, Program, Site
from program_strategy import programs

several = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@settings(several, max_examples=6)
@given(programs("local"))
def test_programs_with_local_latents(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)


@settings(several, max_examples=3)
@given(programs("points"))
def test_programs_with_global_latents_at_a_point(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)


@settings(several, max_examples=3)
@given(programs("joint"))
def test_programs_with_global_latents(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)


CLASS = Site("y", "categorical", 2, "latent", treatment="enumerated")
BY_CLASS = Site("z", "normal", 2, "latent", ("y",), guide_parents=("y", "x1"))
ALONE = Site("z", "normal", 1, "latent", guide_parents=("x1",))
UNUSED = Site("u", "normal", 1, "left_out")
SUMMED = Site("k", "categorical", 2, "summed")


def observed(*parents: str, network: str = "plain") -> Site:
    return Site("x1", "normal", 2, "observed", parents, network=network)


SMALL = {
    "a class before a network that takes dimension 1": (CLASS, BY_CLASS, observed("z", network="centre")),
    "two classes before a network that takes dimension 1": (
        CLASS,
        Site("c", "categorical", 2, "latent", treatment="enumerated"),
        replace(BY_CLASS, parents=("y", "c")),
        observed("z", network="centre"),
    ),
    "a class before a network that flips dimension 1": (CLASS, BY_CLASS, observed("z", network="flip")),
    "a class before a convolution": (CLASS, BY_CLASS, observed("z", network="conv")),
    "a network that takes two dimensions": (ALONE, observed("z", network="view")),
    "two classes, and probabilities over dimension 1": (
        CLASS,
        Site("c", "categorical", 2, "latent", ("y",), network="softmax", treatment="enumerated"),
        observed("c"),
    ),
    "probabilities over dimension 1, given a class of the model alone": (
        SUMMED,
        Site("y", "categorical", 2, "latent", ("k",), network="softmax", treatment="enumerated"),
        observed("y"),
    ),
    "a drawn latent without effect": (Site("u", "categorical", 2, "left_out"), ALONE, observed("z")),
    "a class of the model alone, and a drawn latent without effect": (
        SUMMED,
        replace(UNUSED, parents=("k",)),
        ALONE,
        observed("k", "z"),
    ),
    "two classes of the model alone, one without effect": (
        SUMMED,
        Site("l", "categorical", 3, "summed", ("k",)),
        ALONE,
        observed("k", "z"),
    ),
    "a class, and a normal in a plate inside": (
        CLASS,
        replace(BY_CLASS, plates=("data", "plate0")),
        observed("y"),
    ),
    "a global latent at a point": (
        Site("g", "normal", 1, "latent", plates=(), treatment="point"),
        ALONE,
        observed("g", "z"),
    ),
    "a nested class of the model alone beside a network that takes two dimensions": (
        ALONE,
        Site("v", "normal", 1, "latent", ("z",), network="view", guide_parents=("x1",)),
        replace(SUMMED, plates=("data", "plate0")),
        observed("z"),
        Site("x2", "normal", 1, "observed", ("k",), plates=("data", "plate0")),
    ),
    "a chain of classes beside a network that flips dimension 1": (
        replace(ALONE, plates=("data", "plate0")),
        replace(observed("z", network="flip"), plates=("data", "plate0")),
        replace(CLASS, guide_parents=("x1",), step=0),
        Site("x2", "normal", 1, "observed", ("y",), step=0),
        Site("c", "categorical", 2, "latent", ("y",), treatment="enumerated", step=1),
        Site("x3", "normal", 1, "observed", ("c",), step=1),
    ),
    "two points, and a class before a network that takes two dimensions": (
        Site("g", "normal", 1, "latent", plates=(), treatment="point"),
        Site("h", "normal", 2, "latent", plates=(), treatment="point"),
        CLASS,
        observed("y", network="concatenate"),
    ),
    "a drawn global latent, and a class before a network that takes two dimensions": (
        Site("g", "normal", 1, "latent", plates=()),
        CLASS,
        replace(BY_CLASS, parents=("y", "g")),
        observed("z", network="view"),
    ),
    "a chain of the model alone, and a drawn latent without effect": (
        UNUSED,
        ALONE,
        observed("z"),
        replace(SUMMED, step=0),
        replace(observed("k"), name="x2", step=0),
        Site("l", "categorical", 2, "summed", ("k",), step=1),
        replace(observed("l"), name="x3", step=1),
    ),
}


# Programs that run one copy at a time are slow, so only some quantities are computed for them.
SOME = {
    "a nested class of the model alone beside a network that takes two dimensions": ("gaps",),
    "a chain of classes beside a network that flips dimension 1": ("gaps",),
    "a drawn global latent, and a class before a network that takes two dimensions": ("ELBO", "evidence"),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_programs(name):
    sites, some = SMALL[name], SOME.get(name)
    plates = {name for site in sites for name in site.plates} - {"data"}
    program = Program(sites, plates=tuple(Plate(name, 2, -2) for name in plates), seed=62)
    outcome = check(program, lambda quantity: some is None or quantity in some)
    assert not outcome.failures, report(outcome)
    assert some is None or set(some) <= {*outcome.agreed}, outcome


def test_a_class_in_a_plate_of_data_that_is_not_the_innermost():
    sites = (CLASS, BY_CLASS, observed("z"))
    outcome = check(Program(sites, plates=(Plate("plate0", 2, -1),), data_dim=-2, seed=62))
    assert not outcome.failures, report(outcome)


def test_a_drawn_class_beside_an_enumerated_one_that_depends_on_it():
    sites = (
        Site("c", "categorical", 2, "latent", guide_parents=("y",)),
        replace(CLASS, parents=("c",)),
        observed("c"),
    )
    outcome = check(Program(sites, reverse_guide=True, seed=5790))
    assert not outcome.failures, report(outcome)
