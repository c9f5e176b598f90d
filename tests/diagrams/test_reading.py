"""The plate diagram says what the programs do."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from plate_programs import (
    CLASSES,
    LATENT,
    PIXELS,
    VAE,
    ClassVAE,
    N,
    nested_model,
    normal,
    pca_model,
    rows,
    standard_normal,
)
from torch import Tensor, nn

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.errors import InputError
from pyrovae.programs.pair import Pair


@pytest.fixture
def x() -> Tensor:
    return rows()


def test_vae(diagram: PlateDiagram) -> None:
    assert {n.name: n.status for n in diagram.nodes.values()} == {"z": "latent", "x": "observed"}
    assert diagram.nodes["x"].observed
    assert not diagram.nodes["z"].observed
    assert [n.distribution for n in diagram.nodes.values()] == ["Normal", "Bernoulli"]
    assert diagram.plates == {"data": N}
    assert diagram.members("data") == ("z", "x")
    assert diagram.generative_edges == {("z", "x")}
    assert diagram.inference_edges == {("x", "z")}


def test_decoder_that_ignores_z_has_no_edge(x: Tensor) -> None:
    vae = VAE(decodes=False)
    assert plate_diagram(vae, x).generative_edges == set()


def test_guide_that_ignores_x_has_no_edge(x: Tensor) -> None:
    vae = VAE(encodes=False)
    assert plate_diagram(vae, x).inference_edges == set()


def test_model_without_guide(x: Tensor) -> None:
    found = plate_diagram(VAE().model, x)
    assert found.generative_edges == {("z", "x")}
    assert found.inference_edges == set()
    assert "q:" not in str(found)


def test_keyword_and_nested_arguments(x: Tensor) -> None:
    vae = VAE()
    assert plate_diagram(vae, x=x).inference_edges == {("x", "z")}

    def model(batch: dict[str, Tensor]) -> None:
        vae.model(batch["pixels"])

    def guide(batch: dict[str, Tensor]) -> None:
        vae.guide(batch["pixels"])

    found = plate_diagram(Pair(model, guide), {"pixels": x, "unused": torch.ones(2)})
    assert set(found.nodes) == {"z", "x"}
    assert found.inference_edges == {("x", "z")}


def test_convolutions(x: Tensor) -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, 16), nn.Unflatten(1, (1, 4, 4)))

    def model(images: Tensor) -> None:
        with pyro.plate("data", len(images)):
            z = pyro.sample("z", standard_normal())
            pyro.sample("x", dist.ContinuousBernoulli(logits=decoder(z)).to_event(3), obs=images)

    def guide(images: Tensor) -> None:
        with pyro.plate("data", len(images)):
            pyro.sample("z", normal(encoder(images)))

    found = plate_diagram(Pair(model, guide), torch.rand(N, 1, 4, 4))
    assert found.generative_edges == {("z", "x")}
    assert found.inference_edges == {("x", "z")}


def test_class_is_latent_without_labels(x: Tensor) -> None:
    m2 = ClassVAE()
    found = plate_diagram(m2, x, None)
    assert found.nodes["y"].status == "latent"
    assert found.generative_edges == {("y", "x"), ("z", "x")}
    assert found.inference_edges == {("x", "y"), ("x", "z"), ("y", "z")}


def test_class_is_observed_with_labels(x: Tensor) -> None:
    m2 = ClassVAE()
    found = plate_diagram(m2, x, torch.eye(CLASSES)[torch.arange(N) % CLASSES])
    assert found.nodes["y"].observed
    assert found.generative_edges == {("y", "x"), ("z", "x")}
    assert found.inference_edges == {("x", "z"), ("y", "z")}


def ladder_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=x)


def ladder_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(x, 1.0))
        pyro.sample("z2", dist.Normal(2 * z1, 1.0))


def test_ladder_has_direct_edges_only(x: Tensor) -> None:
    found = plate_diagram(Pair(ladder_model, ladder_guide), x[:, 0])
    assert found.generative_edges == {("z2", "z1"), ("z1", "x")}
    assert found.inference_edges == {("x", "z1"), ("z1", "z2")}


def test_point_estimate_passes_dependence_on_like_any_site(x: Tensor) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Delta(x))
            pyro.sample("z2", dist.Normal(z1, 1.0))

    found = plate_diagram(Pair(ladder_model, guide), x[:, 0])
    assert found.inference_edges == {("x", "z1"), ("z1", "z2")}


def test_nested_plates(x: Tensor) -> None:
    found = plate_diagram(nested_model, x)
    assert found.plates == {"groups": N, "data": PIXELS}
    assert found.nodes["alpha"].plates == ()
    assert found.nodes["theta"].plates == ("groups",)
    assert found.nodes["x"].plates == ("groups", "data")
    assert found.generative_edges == {("alpha", "theta"), ("theta", "z"), ("z", "x")}


def test_particles_are_a_plate(x: Tensor) -> None:
    vae = VAE()

    def model(x: Tensor) -> None:
        with pyro.plate("particles", 3, dim=-2):
            vae.model(x)

    found = plate_diagram(Pair(model, vae.guide), x)
    assert found.nodes["z"].plates == ("particles", "data")
    assert found.inference_edges == {("x", "z")}


def test_global_latent_is_outside_the_plate(x: Tensor) -> None:
    found = plate_diagram(pca_model, x)
    assert found.nodes["W"].plates == ()
    assert found.members("data") == ("z", "x")
    assert found.generative_edges == {("W", "x"), ("z", "x")}


def test_subsampled_plate_has_its_full_size(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = plate_diagram(model, x[:, 0])
    assert found.plates == {"data": 1000}
    assert set(found.nodes) == {"z", "x"}


def test_deterministic_site_passes_dependence_through(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = pyro.deterministic("mean", 2 * z)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    found = plate_diagram(model, x[:, 0])
    assert set(found.nodes) == {"z", "x"}
    assert found.generative_edges == {("z", "x")}


def conditional_model(x: Tensor, c: Tensor, step: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + c, 1.0), obs=x)


def conditional_guide(x: Tensor, c: Tensor, step: Tensor) -> None:
    with pyro.plate("data", len(x)):
        helper = pyro.sample("helper", dist.Normal(c, 1.0))
        pyro.sample("z", dist.Normal(x + helper, 1.0))


def test_conditioning_argument_and_guide_only_site_are_nodes(x: Tensor) -> None:
    found = plate_diagram(Pair(conditional_model, conditional_guide), x[:, 0], x[:, 1], torch.ones(()))
    assert set(found.nodes) == {"z", "x", "c", "helper"}  # `step` is not used
    assert found.nodes["c"].origin == "argument"
    assert found.nodes["c"].observed
    assert found.nodes["c"].plates == ("data",)
    assert found.nodes["helper"].origin == "guide"
    assert found.generative_edges == {("z", "x"), ("c", "x")}
    assert found.inference_edges == {("c", "helper"), ("x", "z"), ("helper", "z")}
    assert "helper ~ Normal (guide only)" in str(found)
    assert "c (argument)" in str(found)


def test_argument_without_the_plates_size_is_outside_it(x: Tensor) -> None:
    args = x[:, 0], torch.ones(()), torch.ones(())
    assert plate_diagram(conditional_model, *args).nodes["c"].plates == ()


def test_flow_that_cannot_be_inverted(x: Tensor) -> None:
    """A planar flow scores only the very tensor that it has just returned."""

    def guide(x: Tensor) -> None:
        flow = dist.transforms.conditional_planar(LATENT, PIXELS, [4]).condition(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(standard_normal(), [flow]))

    assert plate_diagram(Pair(VAE().model, guide), x).inference_edges == {("x", "z")}


def test_latent_that_the_guide_lacks_is_drawn(x: Tensor) -> None:
    found = plate_diagram(Pair(VAE().model, lambda x: None), x)
    assert found.nodes["z"].status == "latent"
    assert found.has_guide


def test_data_in_place_of_the_guide_is_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="guide of a Pair is a Tensor"):
        plate_diagram(Pair(VAE().model, x))


@pytest.mark.parametrize(
    "family",
    [
        lambda loc: dist.Laplace(loc, loc.exp()),
        lambda loc: dist.Cauchy(loc, loc.exp()),
        lambda loc: dist.HalfCauchy(loc.exp()),
    ],
    ids=["Laplace", "Cauchy", "HalfCauchy"],
)
def test_distributions_that_draw_into_a_new_tensor(family) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            b = pyro.sample("b", family(a).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    found = plate_diagram(model, torch.zeros(3, 5))
    assert found.generative_edges == {("a", "b"), ("b", "x")}


def test_a_missing_event_dimension_is_refused_where_a_datum_has_as_many_values_as_there_are_data() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(3, 3), 1.0), obs=x)

    with pytest.raises(InputError, match=r"site 'x' .* shape \(3, 3\).*plate 'data'.*\.to_event\(1\)"):
        plate_diagram(model, torch.zeros(3, 3))
