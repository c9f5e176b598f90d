"""The structure of small programs, fact by fact, against what is written in them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae.errors import InputError
from pyrovae.programs.classes import categorical_latents, class_site
from pyrovae.programs.layout import layout_of
from pyrovae.programs.pair import Pair
from pyrovae.programs.rows import Arguments, Whole
from pyrovae.programs.structure import Structure, structure

N, PIXELS = 5, 4


def standard(size=2, loc=0.0):
    return dist.Normal(torch.zeros(size) + loc, 1.0).to_event(1)


def model(x):
    """A global w, a class k, z around w, a doubled z, a factor, and pixels in a plate of their own."""
    w = pyro.sample("w", standard())
    with pyro.plate("data", len(x), dim=-1):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        z = pyro.sample("z", standard(loc=w))
        doubled = pyro.deterministic("doubled", 2 * z, event_dim=1)
        pyro.factor("evidence", -z.square().sum(-1))
        with pyro.plate("pixels", PIXELS, dim=-2):
            level = pyro.sample("level", dist.Poisson(doubled.sum(-1).exp()))
            pyro.sample("x", dist.Normal(level + k, 1.0), obs=x.T)


def guide(x):
    """As the model, with an auxiliary latent that only the guide has."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("w", standard(loc=a))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("k", dist.Categorical(logits=x[:, :3]), infer={"enumerate": "parallel"})
        pyro.sample("z", standard(loc=x[:, :2]))
        with pyro.plate("pixels", PIXELS, dim=-2):
            pyro.sample("level", dist.Poisson(torch.ones(())))


@pytest.fixture
def x():
    return torch.randn(N, PIXELS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def found(x):
    return structure(Pair(model, guide), x)


# Facts of the run


def test_sites_come_in_order_with_their_roles(found):
    assert list(found.sites) == ["w", "k", "z", "doubled", "evidence", "level", "x", "a"]
    assert found.latents == ("w", "k", "z", "level")
    assert found.observed == ("x",)
    assert found.factors == ("evidence",)
    assert found.deterministic == ("doubled",)
    assert found.auxiliary == ("a",)
    assert found["a"].program == "guide"
    assert all(site.program == "model" for name, site in found.sites.items() if name != "a")


def test_distributions_are_named_without_their_wrappers(found):
    assert found["z"].distribution == "Normal"
    assert found["k"].distribution == "Categorical"
    masked = structure(lambda: pyro.sample("m", standard().mask(True).expand([3]).to_event(1)))
    assert masked["m"].distribution == "Normal"


def test_sites_are_local_nested_or_global(found):
    assert found.in_scope("local") == ("k", "z", "doubled", "evidence")
    assert found.in_scope("nested") == ("level", "x")
    assert found.in_scope("global") == ("w", "a")
    assert found["level"].plates == ("data", "pixels")


def test_plates_have_sizes_and_dimensions_and_one_is_the_datas(found):
    data, pixels = found.plates["data"], found.plates["pixels"]
    assert (data.size, data.dim, data.is_data) == (N, -1, True)
    assert (pixels.size, pixels.dim, pixels.is_data) == (PIXELS, -2, False)
    assert found.data_plate == data


def test_latents_are_enumerated_or_drawn_and_reparameterised_or_not(found):
    assert found.enumerated == ("k",)
    assert found.drawn == ("w", "z", "level", "a")
    assert found.unreparameterised == ("level",)
    assert found.continuous == ("w", "z")  # the Poisson level is a whole number, if of a float type
    assert found["x"].reparameterised is None


def test_a_model_without_a_guide_may_mark_its_own_latents(x):
    def marked(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("x", standard(PIXELS), obs=x)

    assert structure(marked, x).enumerated == ("k",)

    def drawing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(3)))

    assert structure(Pair(marked, drawing), x).unreparameterised == ("k",)  # the guide decides


# Dependence


def test_edges_are_those_of_the_programs(found):
    assert found.generative_edges == {
        ("w", "z"),
        ("z", "evidence"),
        ("z", "level"),  # through the deterministic site
        ("level", "x"),
        ("k", "x"),
    }
    assert found.inference_edges == {("a", "w"), ("x", "k"), ("x", "z")}


def test_parents_ancestors_and_descendants(found):
    assert found.parents("x") == {"level", "k"}
    assert found.ancestors("x") == {"level", "k", "z", "w"}
    assert found.ancestors("x", given={"z"}) == {"level", "k", "z"} - {"z"}
    assert found.descendants("w") == {"z", "evidence", "level", "x"}


# Densities


def test_densities_are_per_datum_and_without_scales(x):
    def scaled(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample=torch.arange(len(x))), pyro.poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            with pyro.plate("pixels", PIXELS, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def its_guide(x):
        pyro.sample("w", dist.Delta(torch.tensor(0.5)))
        with pyro.plate("data", 100, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Delta(x[:, 0]))

    found = structure(Pair(scaled, its_guide), x)
    assert found.plates["data"].full_size == 100
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(found.log_p["w"], normal.log_prob(torch.tensor(0.5)))
    torch.testing.assert_close(found.log_p["z"], normal.log_prob(x[:, 0] - 0.5))
    torch.testing.assert_close(found.log_p["x"], normal.log_prob(x - x[:, :1]).sum(1))
    assert found.log_q["w"].shape == ()
    assert found.log_q["z"].shape == (N,)


def test_a_data_plate_at_another_dimension_keeps_its_data(x):
    def nested(x):
        with pyro.plate("pixels", PIXELS, dim=-1), pyro.plate("rows", len(x), dim=-2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    found = structure(Pair(nested, nested, data_plate="rows"), x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(found.log_p["x"], expected)
    assert found["x"].scope == "nested"


# The data's plate


def two_of_a_size(x):
    with pyro.plate("places", len(x)):
        pyro.sample("s", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", standard(PIXELS), obs=x)


def test_the_pair_may_name_its_data_plate(x):
    named = structure(Pair(two_of_a_size, two_of_a_size, data_plate="rows"), x)
    assert named.data_plate.name == "rows"
    assert named.in_scope("local") == ("z", "x")
    assert named.in_scope("global") == ("s",)
    with pytest.raises(InputError, match="data_plate is 'row', but the programs have 'places', 'rows'"):
        _ = structure(Pair(two_of_a_size, two_of_a_size, data_plate="row"), x).plates


def test_without_a_name_a_plate_of_the_datas_size_at_the_right_dimension_is_it(x):
    assert structure(two_of_a_size, x).data_plate.name == "places"
    assert structure(two_of_a_size, x).in_scope("global") == ()


def test_programs_without_a_data_plate(x):
    def without(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", standard(PIXELS).expand([N]).to_event(1), obs=x)

    found = structure(without, x)
    assert found.data_plate is None
    assert found.in_scope("global") == ("z", "x")
    assert found.log_p["x"].shape == ()
    with pytest.raises(InputError, match="site 'z' is not under a plate of 5 data"):
        layout_of(Pair(without, lambda x: pyro.sample("z", dist.Normal(0.0, 1.0))), Arguments((x,)))


# Laziness and side effects


def test_nothing_is_run_before_it_is_asked_for_and_only_once(x):
    runs = {"model": 0, "guide": 0}

    def counted(name, program):
        def run(x):
            runs[name] += 1
            program(x)

        return run

    found = structure(Pair(counted("model", model), counted("guide", guide)), x)
    assert runs == {"model": 0, "guide": 0}
    _ = found.latents, found.plates, found.enumerated, found.log_p, str(found)
    assert runs == {"model": 2, "guide": 2}  # the second on fewer data, for the plates
    _ = found.generative_edges, found.inference_edges, found.ancestors("x")
    assert runs == {"model": 4, "guide": 3}  # the model once more, to find what it observes


def test_nothing_moves(x, param_store):
    net = nn.Sequential(nn.Linear(PIXELS, 2), nn.BatchNorm1d(2), nn.Dropout())

    def encoding(x):
        pyro.param("scale", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(loc=net(x)))

    def decoding(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard())
            pyro.sample("x", standard(PIXELS), obs=x)

    means, before = net[1].running_mean.clone(), torch.get_rng_state()
    found = structure(Pair(decoding, encoding), x)
    assert found.inference_edges == {("x", "z")}
    assert found.latents == ("z",)
    assert torch.equal(net[1].running_mean, means)
    assert net.training
    assert net[1].training
    assert torch.equal(torch.get_rng_state(), before)
    assert list(param_store.keys()) == []


# The table, and what is refused


def test_the_table(found):
    lines = str(found).splitlines()
    assert lines[0] == "plate data: 5 members, dimension -1, the data"
    rows = {line.split()[0]: " ".join(line.split()) for line in lines[3:]}
    assert rows["w"] == "w latent Normal - global drawn, reparameterised"
    assert rows["k"] == "k latent Categorical data local enumerated"
    assert rows["level"] == "level latent Poisson data, pixels nested drawn, not reparameterised"
    assert rows["x"] == "x observed Normal data, pixels nested -"
    assert rows["a"] == "a latent (guide only) Normal - global drawn, reparameterised"


def test_a_model_alone_has_a_structure_and_two_programs_have_not(x):
    assert structure(model, x).latents == ("w", "k", "z", "level")
    assert structure(model, x).log_q == {}
    with pytest.raises(InputError, match=r"structure\(Pair\(model, guide\), x, ...\)"):
        structure(model, guide, x)
    with pytest.raises(InputError, match="was given a Tensor"):
        structure(x)


def test_what_is_given_goes_to_both_programs(x):
    def conditional(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(loc=c.mean(0)))
            pyro.sample("x", standard(PIXELS, loc=z.sum(-1, keepdim=True)), obs=x)

    def its_guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(loc=x[:, :2] + c[0]))

    pair, c = Pair(conditional, its_guide), torch.arange(2.0 * N).view(N, 2)
    found = structure(pair, x, given={"c": Whole(c)})
    assert (found.latents, found.observed, found.data_plate.name) == (("z",), ("x",), "data")
    assert found.generative_edges == {("z", "x")}
    assert found.log_p["x"].shape == (N,)
    z = found.traces.model.nodes["z"]["value"]
    expected = torch.distributions.Normal(c.mean(0), 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(found.log_p["z"], expected)
    assert str(structure(pair, x, given={"c": c})) == str(structure(pair, x, c=c)) == str(found)


# Library models, and the class site


def test_library_models(make_vae, make_m2, make_cpcvae, binary_images):
    assert structure(make_vae(), binary_images).inference_edges == {("x", "z")}
    x, y = binary_images.double(), torch.zeros(24, dtype=torch.long)
    m2 = structure(make_m2(), x)
    assert (m2.latents, m2.enumerated) == (("y", "z"), ("y",))
    assert structure(make_m2(), x, y).observed == ("y", "x")
    pcvae = make_cpcvae()
    constrained = structure(Pair(pcvae.constrained_model, pcvae.guide), x)
    assert constrained.factors == ("consistency", "aggregate")


def test_the_class_site_is_where_the_model_observes_classes(make_vae, make_m2, make_cpcvae, binary_images):
    x = binary_images.double()
    assert class_site(make_m2(classes=5), x[:1]) == ("y", 5)
    pcvae = make_cpcvae()
    assert class_site(pcvae, x[:1]) == ("y", 3)
    assert class_site(pcvae.constrained_model, x[:1]) == ("y", 3)  # not y_again
    assert class_site(make_vae(), binary_images[:1]) is None
    assert categorical_latents(structure(make_m2(), x)) == ["y"]


def test_traces_that_are_there_already_are_used(x):
    first = structure(Pair(model, guide), x)
    again = Structure(Pair(model, guide), (x,), traces=first.traces)
    assert again.traces is first.traces
    assert math.isclose(again.log_p["w"].item(), first.log_p["w"].item())


def test_a_value_that_is_not_given_is_a_prediction_and_no_latent():
    """`obs=y` with y = None: the guide lacks the site, and no other site depends on it."""

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z + c[..., None], 1.0).to_event(1), obs=x)
            y = pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)
            pyro.sample("after", dist.Normal(y, 1.0))

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.zeros(3, 2)
    found = structure(Pair(model, guide), x)
    assert (found.predicted, found.latents, found.continuous) == (("y", "after"), ("z", "c"), ("z",))
    assert found.model_only == ("c", "y", "after")
    assert "predicted" in str(found)
    assert structure(Pair(model, guide), x, torch.zeros(3)).predicted == ("after",)
    assert structure(model, x).predicted == ()  # nothing tells what a model alone predicts


def test_one_hot_classes_are_not_continuous():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert structure(model, torch.zeros(2, 1)).continuous == ("z",)
