"""The plate diagram says what the programs do, and drawing it leaves no trace."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn

from pyrovae.diagrams.diagram import FORMATS, PlateDiagram, plate_diagram
from pyrovae.errors import InputError
from pyrovae.programs.pair import Pair

N, PIXELS, LATENT, CLASSES = 6, 5, 2, 3


class VAE(nn.Module):
    """A VAE with batch normalisation, whose edges can be cut."""

    def __init__(self, decodes: bool = True, encodes: bool = True) -> None:
        super().__init__()
        self.decodes, self.encodes = decodes, encodes
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, LATENT)
        )
        self.decoder = nn.Linear(LATENT, PIXELS)

    def model(self, x: Tensor) -> None:
        pyro.module("vae", self, update_module_params=True)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal())
            logits = self.decoder(z) if self.decodes else torch.zeros(PIXELS)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.view(-1, PIXELS))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.encoder(x.view(-1, PIXELS))
            pyro.sample("z", normal(loc if self.encodes else torch.zeros(len(x), LATENT)))


class ClassVAE(nn.Module):
    """y -> x <- z, with q(y | x) and q(z | x, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(PIXELS, CLASSES)
        self.encoder = nn.Linear(PIXELS + CLASSES, LATENT)
        self.decoder = nn.Linear(LATENT + CLASSES, PIXELS)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            drawn = pyro.sample("y", dist.OneHotCategorical(torch.ones(CLASSES)), obs=y)
            z = pyro.sample("z", standard_normal())
            label = drawn if y is None else y
            logits = self.decoder(torch.cat([z, label], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            pyro.sample("z", normal(self.encoder(torch.cat([x, y], -1))))


def standard_normal() -> dist.Distribution:
    return dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)


def normal(loc: Tensor) -> dist.Distribution:
    return dist.Normal(loc, 1.0).to_event(1)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, PIXELS, generator=torch.Generator().manual_seed(0)).round()


@pytest.fixture
def diagram(x: Tensor) -> PlateDiagram:
    vae = VAE()
    return plate_diagram(vae, x)


# ---------------------------------------------------------------- what is read off


def test_vae(diagram: PlateDiagram) -> None:
    assert {n.name: n.status for n in diagram.nodes.values()} == {"z": "latent", "x": "observed"}
    assert diagram.nodes["x"].observed
    assert not diagram.nodes["z"].observed
    assert [n.distribution for n in diagram.nodes.values()] == ["Normal", "Bernoulli"]
    assert diagram.plates == {"data": N}
    assert diagram.members("data") == ("z", "x")
    assert diagram.generative_edges == {("z", "x")}
    assert diagram.inference_edges == {("x", "z")}


def test_vae_in_words(diagram: PlateDiagram) -> None:
    lines = str(diagram).splitlines()
    assert lines[0].startswith(f"plate data (N = {N})")
    assert lines[-2:] == ["p: z -> x", "q: x -> z (dashed)"]


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


def nested_model(x: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", x.shape[0], dim=-2):
        theta = pyro.sample("theta", dist.Normal(alpha, 1.0))
        with pyro.plate("data", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


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


def overlapping_model(x: Tensor) -> None:
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-1)
    with rows:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with columns:
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with rows, columns:
        pyro.sample("x", dist.Normal(u * v, 1.0), obs=x)


def pca_model(x: Tensor) -> None:
    weights = pyro.sample("W", dist.Normal(torch.zeros(LATENT, PIXELS), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", standard_normal())
        pyro.sample("x", normal(z @ weights), obs=x)


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


# ---------------------------------------------------------------- nothing moves


@pytest.mark.parametrize("as_function", [False, True])
def test_modules_and_random_state_stay(x: Tensor, as_function: bool) -> None:
    vae = VAE()
    vae.decoder.eval()  # a mixture of modes must survive
    modes = [part.training for part in vae.modules()]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    model, guide = vae.model, vae.guide
    if as_function:  # nothing tells beforehand which modules these will call
        model, guide = (lambda x: vae.model(x)), (lambda x: vae.guide(x))
    random_state = torch.get_rng_state()
    plate_diagram(Pair(model, guide), x)
    assert [part.training for part in vae.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(type(value) is nn.Parameter for value in vae.parameters())


def test_modes_return_when_a_program_fails(x: Tensor) -> None:
    vae = VAE()
    with pytest.raises(RuntimeError):
        plate_diagram(vae, x[:, :-1])
    assert all(part.training for part in vae.modules())


def test_parameter_store_stays(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        pyro.param("new", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("old", torch.zeros(())), 1.0), obs=x)

    store = pyro.get_param_store()
    with store.scope():
        kept = pyro.param("old", torch.tensor(3.0))
        plate_diagram(model, x[:, 0])
        plate_diagram(VAE().model, x)
        assert set(store.keys()) == {"old"}
        assert store.get_param("old") is kept


def test_module_keeps_its_parameters_beside_another_of_the_same_name(x: Tensor) -> None:
    with pyro.get_param_store().scope():
        pyro.module("vae", VAE())
        vae = VAE()
        before = [value.clone() for value in vae.parameters()]
        plate_diagram(vae, x)
        assert all(map(torch.equal, before, vae.parameters()))


# ---------------------------------------------------------------- renderings


def circles(figure: Figure) -> list[Circle]:
    return [patch for patch in axes(figure).patches if isinstance(patch, Circle)]


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def styles(figure: Figure) -> list[str]:
    arrows = [patch for patch in axes(figure).patches if isinstance(patch, FancyArrowPatch)]
    return [str(arrow.get_linestyle()) for arrow in arrows]


def test_vae_is_drawn_with_one_solid_and_one_dashed_arrow(diagram: PlateDiagram) -> None:
    figure = diagram.draw()
    assert sorted(styles(figure)) in (["-", "--"], ["dashed", "solid"])
    assert axes(figure).get_legend() is not None
    assert "data: 6" in [text.get_text() for text in axes(figure).texts]
    z, observed = circles(figure)
    assert z.center[1] > observed.center[1]  # generative order runs downwards
    assert z.get_facecolor()[:3] == (1, 1, 1)
    assert observed.get_facecolor()[0] < 0.95


def test_no_legend_without_guide(x: Tensor) -> None:
    figure = plate_diagram(VAE().model, x).draw()
    assert axes(figure).get_legend() is None
    assert len(styles(figure)) == 1


@pytest.mark.parametrize(
    "model", [pca_model, nested_model, overlapping_model], ids=["pca", "nested", "overlapping"]
)
def test_no_overlap_and_plates_hold_their_members_only(model: Callable[[Tensor], None], x: Tensor) -> None:
    data = torch.rand(3, 4) if model is overlapping_model else x
    found = plate_diagram(model, data)
    figure = found.draw()
    drawn = dict(zip(found.nodes, circles(figure), strict=True))
    centres = torch.tensor([circle.center for circle in drawn.values()])
    apart = torch.cdist(centres, centres) + 10 * torch.eye(len(centres))
    assert apart.min() > 2 * next(iter(drawn.values())).radius
    radius = next(iter(drawn.values())).radius
    frames = [patch for patch in axes(figure).patches if isinstance(patch, FancyBboxPatch)]
    touched = {
        frozenset(name for name, circle in drawn.items() if meets(frame, circle.center, radius))
        for frame in frames
    }
    assert touched == {frozenset(found.members(plate)) for plate in found.plates}
    assert len(frames) == len(found.plates)


def meets(frame: FancyBboxPatch, centre: tuple[float, float], radius: float) -> bool:
    x, y = centre[0] - frame.get_x(), centre[1] - frame.get_y()
    width, height = frame.get_width(), frame.get_height()
    return -radius < x < width + radius and -radius < y < height + radius


def test_draws_into_given_axes(diagram: PlateDiagram) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert diagram.draw(right) is figure
    assert not left.patches
    assert right.patches


def test_draws_into_a_subfigure(diagram: PlateDiagram) -> None:
    figure = Figure()
    part, _ = figure.subfigures(1, 2)
    assert diagram.draw(part.subplots()) is figure


def test_a_program_without_sites_is_drawn_empty() -> None:
    empty = plate_diagram(lambda: None)
    assert not circles(empty.draw())
    assert "digraph" in empty.to_dot()
    assert "tikzpicture" in empty.to_tikz()


def test_arrows_back_and_forth_bend_apart(diagram: PlateDiagram) -> None:
    """Seen from above, z -> x passes on one side and the dashed arrow on the other."""
    figure = diagram.draw()
    arrows = [patch for patch in axes(figure).patches if isinstance(patch, FancyArrowPatch)]
    (down, _), (up, _) = (arrow.get_path().vertices[1] for arrow in arrows)  # control points
    assert abs(down - up) > 0.2


def test_dot(diagram: PlateDiagram) -> None:
    text = diagram.to_dot()
    assert '"z" -> "x";' in text
    assert '"x" -> "z" [style=dashed, constraint=false];' in text
    assert '"x" -> "z";' not in text
    assert 'subgraph "cluster_data" {' in text
    assert f'label="data: {N}"' in text
    assert re.search(r'"x" \[style="filled"', text)
    assert not re.search(r'"z" \[style="filled"', text)
    assert text.count("{") == text.count("}")


def test_nested_clusters_in_dot(x: Tensor) -> None:
    text = plate_diagram(nested_model, x).to_dot()
    outer, inner = text.index('"cluster_groups"'), text.index('"cluster_groups/data"')
    assert text.index('"alpha"') < outer < text.index('"theta"') < inner < text.index('"z"')


def test_tikz(diagram: PlateDiagram) -> None:
    text = diagram.to_tikz()
    assert text.startswith(r"\documentclass[tikz")
    assert text.rstrip().endswith(r"\end{document}")
    assert r"\node[latent] (z)" in text
    assert r"\node[observed] (x)" in text
    assert r"\draw[generative] (z) to[] (x);" in text
    assert re.search(r"\\draw\[inference\] \(x\) to\[bend right=\d+\] \(z\);", text)
    assert re.search(r"inference/.style=\{.*dashed", text)
    assert "fit=(z) (x)" in text
    assert f"data: {N}" in text


def test_names_are_escaped() -> None:
    name = 'a_"b"\\$%'

    def model() -> None:
        with pyro.plate("50%_{i}", 2):
            pyro.sample(name, dist.Normal(0.0, 1.0))

    found = plate_diagram(model)
    assert r'"a_\"b\"\\$%";' in found.to_dot()
    assert r'a\_"b"\textbackslash{}\$\%' in found.to_tikz()
    assert r"50\%\_\{i\}: 2" in found.to_tikz()
    found.draw().canvas.draw()


@pytest.mark.parametrize("suffix", FORMATS)
def test_save(diagram: PlateDiagram, suffix: str, tmp_path: Path) -> None:
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".dot": b"digraph"}
    path = tmp_path / f"diagram{suffix}"
    path.write_text("old")
    diagram.save(path)
    assert path.read_bytes().startswith(starts.get(suffix, b"\\documentclass"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_save_refuses_other_formats(diagram: PlateDiagram, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.foo'.*\.png, \.svg, \.pdf, \.dot, \.tex"):
        diagram.save(tmp_path / "diagram.foo")
    assert not list(tmp_path.iterdir())


def test_save_into_a_missing_folder(diagram: PlateDiagram, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        diagram.save(tmp_path / "missing" / "diagram.png")
    assert not list(tmp_path.iterdir())


def test_failed_save_leaves_the_old_file(
    diagram: PlateDiagram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path / "diagram.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        diagram.save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
