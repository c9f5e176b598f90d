"""The plate diagram of a random program is the graph that the program was made from."""

from hypothesis import HealthCheck, Phase, given, settings
from program_source import pair_of, script
from program_strategy import programs
from program_weights import weights_and_data

from pyrovae.diagrams import plate_diagram


@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_the_diagram_is_the_graph_that_made_the_program(program):
    weights, x = weights_and_data(program)
    found = plate_diagram(pair_of(program, weights), x)
    what = script(program, weights, x)
    generative = {(parent, site.name) for site in program.sites for parent in site.parents}
    inference = {
        (parent, site.name)
        for site in program.guide_order
        if site.treatment != "point"  # a point is a parameter
        for parent in site.guide_parents
    }
    assert found.generative_edges == generative, what
    assert found.inference_edges == inference, what
    status = {
        site.name: "observed"
        if site.role == "observed"
        else "predicted"
        if program.is_without_effect(site)
        else "latent"
        for site in program.sites
    }
    assert {name: node.status for name, node in found.nodes.items()} == status, what
    for site in program.sites:
        assert set(found.nodes[site.name].plates) == set(site.plates), what
    sizes = {plate.name: plate.size for plate in program.plates} | {"data": len(x)}
    assert found.plates == {name: sizes[name] for name in found.plates}, what
    assert set(found.plates) == {name for site in program.sites for name in site.plates}, what
