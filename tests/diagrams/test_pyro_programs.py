"""Diagrams of programs with the structure of Pyro's examples, against their graphs and Pyro's relations."""

import re

import pyro
import pyro_autoencoders
import pyro_regressions
import pyro_sequences
import pytest
from diagram_geometry import faults
from pyro.infer.inspect import get_model_relations
from pyro_programs import EXAMPLES, Arrows, arrows

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.programs.pair import programs_of

MODULES = (pyro_autoencoders, pyro_regressions, pyro_sequences)  # they register their programs

CONDITION = "an argument that no site observes: Pyro does not know arguments"
DATA = "the guide takes the data as an argument, which Pyro does not know"
LABELS = "the guide takes the given classes as an argument, which Pyro does not know"
PAST = "the mask of the animals caught before is computed from the argument, which Pyro does not know"
WRITTEN = "the latent is written into a new tensor of transitions, where Pyro loses it"

DIFFERENCES = [
    # program, p (model) or q (guide), arrows that Pyro's relations lack, why
    ("vae", "q", "x > z", DATA),
    ("ss_vae_unlabelled", "q", "x > y, z", DATA),
    ("ss_vae_labelled", "q", "x > z", DATA),
    ("ss_vae_labelled", "q", "y > z", LABELS),
    ("ss_vae_auxiliary_loss", "p", "xs > y_aux", CONDITION),
    ("cvae", "p", "xs > z, y", CONDITION),
    ("cvae", "q", "xs > z", CONDITION),
    ("cvae", "q", "y > z", DATA),
    ("cvae_baseline", "p", "x > y", CONDITION),
    ("air", "q", "obs > z_pres_0, z_where_0, z_what_0, z_pres_1, z_where_1, z_what_1", DATA),
    ("scanvi", "q", "x > l, z2", DATA),
    ("scanvi", "q", "y > z1, classification_loss", LABELS),
    ("cevae", "q", "x > t, y, z", DATA),
    ("prodlda", "q", "obs > logtheta", DATA),
    ("lda", "q", "doc_words > doc_topics", DATA),
    ("dmm", "q", pyro_sequences.BACKWARDS, DATA),
    ("dmm_of_ragged_sequences_with_iaf", "q", pyro_sequences.BACKWARDS, DATA),
    ("dmm_of_ragged_sequences_with_iaf", "q", "lengths > z_1, z_2, z_3", CONDITION),
    ("capture_recapture_1", "p", pyro_sequences.CAUGHT, PAST),
    ("capture_recapture_2", "p", pyro_sequences.CAUGHT, PAST),
    ("forecast_of_a_trend", "p", "covariates > y", CONDITION),
    ("profile_hmm", "p", "insert, delete > sequence", WRITTEN),
    ("baseball_pooled", "p", "at_bats > obs", CONDITION),
    ("baseball_not_pooled", "p", "at_bats > obs", CONDITION),
    ("baseball_partly_pooled", "p", "at_bats > obs", CONDITION),
    ("baseball_partly_pooled_with_logits", "p", "at_bats > obs", CONDITION),
    ("bayesian_regression", "p", "x > obs", CONDITION),
    ("ruggedness", "p", "africa, rugged > log_gdp", CONDITION),
    ("eight_schools", "p", "sigma > y", CONDITION),
    ("gaussian_process_regression", "p", "X > y", CONDITION),
    ("sparse_gaussian_process", "p", "X > f", CONDITION),
    ("sparse_gaussian_process", "q", "X > f", CONDITION),
    ("sparse_regression", "p", "X > Y", CONDITION),
    ("working_memory", "p", "length > y", CONDITION),
    ("ab_test", "p", "design > y", CONDITION),
    ("compiled_inference", "q", "x_0 > z_0; x_1 > z_1", DATA),
]


@pytest.fixture(scope="module")
def diagrams() -> dict[str, PlateDiagram]:
    with pyro.get_param_store().scope():
        return {name: plate_diagram(each.program, *each.args) for name, each in EXAMPLES.items()}


def of_side(diagram: PlateDiagram, side: str) -> Arrows:
    """The edges of the model or of the guide, with those to its factors."""
    origin = {"p": "model", "q": "guide"}[side]
    factors = {edge for edge in diagram.factor_edges if diagram.nodes[edge[1]].origin == origin}
    return (diagram.generative_edges if side == "p" else diagram.inference_edges) | factors


def test_there_are_as_many_as_were_compared_before() -> None:
    assert len(EXAMPLES) >= 42
    assert all(any(hasattr(module, name) for module in MODULES) for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_diagram_is_the_known_graph(name: str, diagrams: dict[str, PlateDiagram]) -> None:
    assert of_side(diagrams[name], "p") == EXAMPLES[name].generative
    assert of_side(diagrams[name], "q") == EXAMPLES[name].inference


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_differs_from_pyros_relations_only_as_explained(
    name: str, diagrams: dict[str, PlateDiagram], param_store
) -> None:
    found = diagrams[name]
    for side, program in zip("pq", programs_of(EXAMPLES[name].program), strict=True):
        if program is None:
            continue
        pyros = get_model_relations(program, EXAMPLES[name].args)
        computed = {site for site, kind in pyros["sample_dist"].items() if kind == "Deterministic"}
        theirs = {(a, b) for b, parents in pyros["sample_sample"].items() for a in parents}
        theirs = {edge for edge in theirs if not computed & set(edge)}  # dependence passes through these
        explained: Arrows = set().union(
            *(arrows(e) for n, s, e, _ in DIFFERENCES if (n, s) == (name, side))
        )
        ours = of_side(found, side)
        assert ours - theirs == explained
        assert theirs <= ours
        variables = pyros["sample_sample"].keys() - computed
        if side == "p":
            seen = {site for site in variables if found.nodes[site].status != "latent"}
            assert seen == set(pyros["observed"]) - computed
        for plate, sites in pyros["plate_sample"].items():
            assert set(sites) - computed <= set(found.members(plate.removesuffix("__CLONE")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_arrow_goes_through_a_node_and_none_hides_another(
    name: str, diagrams: dict[str, PlateDiagram]
) -> None:
    assert faults(diagrams[name]) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_texts_have_the_same_arrows(name: str, diagrams: dict[str, PlateDiagram]) -> None:
    found = diagrams[name]
    directed = found.generative_edges | found.inference_edges
    dot, tikz = found.to_dot(), found.to_tikz()
    written = re.findall(r'"(.+?)" -> "(.+?)"(.*);', dot)
    assert sorted((a, b) for a, b, style in written if "dir=none" not in style) == sorted(
        [*found.generative_edges, *found.inference_edges]
    )
    assert {frozenset((a, b)) for a, b, s in written if "dir=none" in s} == set(
        map(frozenset, found.factor_edges)
    )
    dashed = {(a, b) for a, b, style in written if "style=dashed" in style and "dir=none" not in style}
    assert dashed == found.inference_edges
    drawn = re.findall(r"\\draw\[(\w*)\] \((.+?)\) to\[.*?\] \((.+?)\);", tikz)
    ids = {f"node {i}": name for i, name in enumerate(found.nodes)}
    ends = [(kind, ids.get(a, a), ids.get(b, b)) for kind, a, b in drawn]
    assert sorted(end for end in ends if end[0] in ("generative", "inference")) == sorted(
        [("generative", *edge) for edge in found.generative_edges]
        + [("inference", *edge) for edge in found.inference_edges]
    )
    assert len(ends) == len(found.generative_edges) + len(found.inference_edges) + len(found.factor_edges)
    assert directed <= {(a, b) for _, a, b in ends}
