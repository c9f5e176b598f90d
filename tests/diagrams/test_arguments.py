"""An argument stays the argument it is: data, conditions, masks and parts of them in plate diagrams."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from partly_labelled import statuses
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from torch import Tensor, nn

from pyrovae.diagrams import plate_diagram
from pyrovae.programs.pair import Pair


def normal(loc: Tensor | float, like: Tensor) -> dist.Distribution:
    return dist.Normal(loc + torch.zeros(like.shape), 1.0).to_event(like.dim() - 1)


def of_model(edges: frozenset[tuple[str, str]]) -> set[str]:
    return {f"{parent} -> {child}" for parent, child in edges}


@pytest.mark.parametrize(
    "prior",
    [
        lambda x: dist.Normal(x.new_zeros(len(x), 2), 1.0),
        lambda x: dist.Normal(torch.zeros_like(x[:, :2]), x.new_ones(2)),
        lambda x: dist.Normal(torch.zeros(2).to(x).expand_as(x[:, :2]), torch.ones(2).type_as(x)),
        lambda x: dist.Normal(x.new_tensor([0.0, 1.0]), x.new_full((2,), 2.0)),
        lambda x: dist.Normal(torch.zeros(x[:, :2].shape, dtype=x.dtype, device=x.device), 1.0),
    ],
    ids=["new_zeros", "zeros_like", "to", "new_tensor", "shape"],
)
def test_a_prior_in_the_shape_of_the_data_does_not_depend_on_them(prior) -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x).to_event(1))
            y = pyro.sample("y", dist.Categorical(x.new_ones(3)), obs=y)
            pyro.sample("x", dist.Normal(z + y[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)))
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.rand(6, 2)
    for y in (None, torch.tensor([0, 1, 2, -1, -1, 0])):
        found = plate_diagram(Pair(model, guide), x, y)
        assert found.generative_edges == {("z", "x"), ("y", "x")}
        assert found.inference_edges == {("x", "z")}


def test_a_latent_written_into_a_new_tensor_keeps_its_arrow() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z, w = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "zw")
            mean, scale = torch.zeros(len(x), 3), x.new_ones(len(x), 3)
            mean[:, 0] = z
            scale[:, 1].copy_(w.exp())
            pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)

    assert of_model(plate_diagram(model, torch.rand(4, 3)).generative_edges) == {"z -> x", "w -> x"}


# The parts of one argument


def sequence_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z: Tensor | float = 0.0
        for t in range(x.shape[1]):
            z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[:, t])


@pytest.mark.parametrize("x", [torch.zeros(3, 5), torch.randn(3, 5)], ids=["equal", "different"])
def test_equal_slices_of_an_argument_are_different_data(x: Tensor) -> None:
    found = plate_diagram(sequence_model, x)
    assert {node.status for name, node in found.nodes.items() if name[0] == "x"} == {"observed"}
    steps = {f"z_{t} -> z_{t + 1}" for t in range(4)} | {f"z_{t} -> x_{t}" for t in range(5)}
    assert of_model(found.generative_edges) == steps


def test_rows_of_a_single_sequence_are_different_data() -> None:
    def model(x: Tensor) -> None:
        for t, row in enumerate(x > 0.5):
            pyro.sample(f"x_{t}", dist.Bernoulli(0.5).expand([3]).to_event(1), obs=row.float())

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x[1].sum(), 1.0))

    found = plate_diagram(Pair(model, guide), torch.zeros(4, 3))
    assert [node.status for node in found.nodes.values()] == ["observed"] * 4 + ["latent"]
    assert found.inference_edges == {("x_1", "z")}


def test_the_same_data_in_another_shape_are_one_variable_and_a_factor() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("first", dist.Normal(0.0, 1.0).expand([12]).to_event(1), obs=x.flatten())
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2), obs=x.double())
        pyro.sample("again", dist.Normal(0.0, 1.0).expand([4, 3]).to_event(2), obs=x.t().t().view(4, 3))
        pyro.sample(
            "turned", dist.Normal(0.0, 1.0).expand([4, 3]).to_event(2), obs=x.t()
        )  # in another order

    found = plate_diagram(model, torch.zeros(3, 4))
    assert statuses(found) == {"first": "factor", "x": "observed", "again": "factor", "turned": "observed"}
    assert found.factor_edges == {("x", "first"), ("x", "again")}


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_backward_recurrent_guide_sees_the_present_and_the_future(layer: type[nn.Module]) -> None:
    """q(z_t | z_t-1, x_t ... x_T) of the deep Markov model, for data with 2 dimensions and three steps."""
    rnn = layer(2, 4, batch_first=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(3):
                pyro.sample(f"z_{t}", dist.Normal(0.0, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x[:, t])

    def guide(x: Tensor) -> None:
        states = rnn(x.flip(1))[0].flip(1)
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x))
            for t in range(3):
                z = pyro.sample(f"z_{t}", dist.Normal(states[:, t].sum(-1) + z, 1.0))

    found = plate_diagram(Pair(model, guide), torch.rand(4, 3, 2))
    future = {
        ("x_0", "z_0"),
        ("x_1", "z_0"),
        ("x_2", "z_0"),
        ("x_1", "z_1"),
        ("x_2", "z_1"),
        ("x_2", "z_2"),
    }
    assert found.inference_edges == future | {("z_0", "z_1"), ("z_1", "z_2")}


def test_padding_behind_a_sequence_adds_no_arrow() -> None:
    """Sequences of several lengths, each reversed by itself: a masked step counts nothing."""
    rnn = nn.GRUCell(1, 3)

    def reversed_in_place(x: Tensor, lengths: Tensor) -> Tensor:
        order = (lengths[:, None] - 1 - torch.arange(x.shape[1])) % x.shape[1]
        return x.gather(1, order)

    def model(x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(3):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"z_{t}", dist.Normal(0.0, 1.0))
                    pyro.sample(f"x_{t}", dist.Normal(0.0, 1.0), obs=x[:, t])

    def guide(x: Tensor, lengths: Tensor) -> None:
        states, h = [], torch.zeros(len(x), 3)
        for step in reversed_in_place(x, lengths).unbind(1):
            h = rnn(step.unsqueeze(-1), h)
            states.append(h.sum(-1))
        summary = reversed_in_place(torch.stack(states, 1), lengths)
        with pyro.plate("data", len(x)):
            for t in range(3):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"z_{t}", dist.Normal(summary[:, t], 1.0))

    found = plate_diagram(Pair(model, guide), torch.rand(3, 3), torch.tensor([3, 2, 1]))
    future = {(f"x_{s}", f"z_{t}") for t in range(3) for s in range(t, 3)}
    assert found.inference_edges == future | {("lengths", f"z_{t}") for t in range(3)}


def test_a_difference_of_data_depends_on_the_data_before() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x_0", dist.Normal(0.0, 1.0), obs=x[:, 0])
            pyro.sample("x_1", dist.Normal(0.0, 1.0), obs=x[:, 1] - x[:, 0])
            pyro.sample("x_2", dist.Normal(x[:, 1], 1.0), obs=x[:, 2])
            pyro.sample("size", dist.Normal(0.0, 1.0), obs=x.sum(-1))  # another datum

    found = plate_diagram(model, torch.rand(4, 3))
    assert found.generative_edges == {("x_0", "x_1"), ("x_1", "x_2")}
    assert set(statuses(found).values()) == {"observed"}


# Conditions


def test_columns_that_are_not_observed_are_a_condition() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x[:, 3:].mean(-1, keepdim=True), x[:, :2]))
            pyro.sample("x", normal(z.sum(-1, keepdim=True), x[:, :3]), obs=x[:, :3])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x.sum(-1, keepdim=True), x[:, :2]))

    found = plate_diagram(Pair(model, guide), torch.rand(4, 5))
    assert statuses(found) == {"z": "latent", "x": "observed", "x (argument)": "observed"}
    assert found.generative_edges == {("x (argument)", "z"), ("z", "x")}
    assert found.inference_edges == {("x (argument)", "z"), ("x", "z")}


def quadrants(condition: Tensor, image: Tensor) -> tuple[Pair, tuple[Tensor, Tensor]]:
    """A conditional VAE that fills in what the condition lacks: the mask of the image comes from it."""
    prior, decoder, recognition = nn.Linear(6, 2), nn.Linear(2, 6), nn.Linear(12, 2)

    def model(c: Tensor, image: Tensor) -> None:
        missing = c == -1
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(prior(c), 1.0).to_event(1))
            logits = decoder(z)[missing].view(len(c), -1)
            pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=image[missing].view(len(c), -1))

    def guide(c: Tensor, image: Tensor) -> None:
        with pyro.plate("data"):
            loc = recognition(torch.cat([c, image], -1))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return Pair(model, guide), (condition, image)


def test_a_conditional_vae_whose_observed_value_depends_on_both_arguments() -> None:
    image = torch.rand(4, 6).round()
    pair, args = quadrants(torch.cat([image[:, :2], torch.full((4, 4), -1.0)], -1), image)
    found = plate_diagram(pair, *args)
    assert statuses(found) == {"z": "latent", "y": "observed", "c": "observed"}
    assert found.nodes["c"].origin == "argument"
    assert of_model(found.generative_edges) == {"c -> z", "z -> y", "c -> y"}
    assert of_model(found.inference_edges) == {"c -> z", "y -> z"}
    assert found.plates == {"data": 4}  # the plate has no size of its own
    assert "plate data (N = 4): z, y, c" in str(found)


def test_an_observed_value_that_is_computed_from_a_condition_has_an_arrow_from_it() -> None:
    def model(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x - c)

    def guide(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    found = plate_diagram(Pair(model, guide), torch.rand(3), torch.rand(3))
    assert of_model(found.generative_edges) == {"z -> x", "c -> x"}
    assert found.inference_edges == {("x", "z")}


def test_arguments_of_which_none_is_the_observed_value_stay_arguments() -> None:
    def model(inputs: Tensor, target: Tensor) -> None:
        with pyro.plate("data", len(inputs)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("error", dist.Normal(z, 1.0), obs=target - inputs)

    found = plate_diagram(model, torch.rand(3), torch.rand(3))
    assert {name for name, node in found.nodes.items() if node.origin == "argument"} == {"inputs", "target"}
    assert of_model(found.generative_edges) == {"z -> error", "inputs -> error", "target -> error"}


def test_a_mask_of_earlier_captures_comes_from_them() -> None:
    """Capture and recapture (Cormack, Jolly, Seber): only animals caught before may be alive or dead."""

    def model(captures: Tensor) -> None:
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        z, caught = torch.ones(len(captures)), torch.zeros(len(captures)).bool()
        animals = pyro.plate("animals", len(captures))
        for t in range(captures.shape[1]):
            with animals, poutine.mask(mask=caught):
                alive = caught.float() * 0.9 * z + (1 - caught.float())
                z = pyro.sample(f"z_{t}", dist.Bernoulli(alive))
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=captures[:, t])
            caught |= captures[:, t].bool()

    found = plate_diagram(model, torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]]))
    states = {"z_0 -> z_1", "z_1 -> z_2"} | {f"z_{t} -> y_{t}" for t in range(3)}
    caught_before = {"y_0 -> z_1", "y_0 -> z_2", "y_1 -> z_2"}
    assert of_model(found.generative_edges) == states | caught_before | {f"rho -> y_{t}" for t in range(3)}


def test_masks_of_distributions_are_no_other_than_masks_of_contexts() -> None:
    """What is scored is no value: `fn.mask(seen)` is `poutine.mask(mask=seen)`, of elements too."""

    def masked(x: Tensor, seen: Tensor, by_elements: bool) -> None:
        with pyro.plate("data", len(x)):
            there = pyro.sample("there", dist.Bernoulli(0.5))
            fn = dist.Normal(torch.zeros(2), 1.0)
            if by_elements:
                fn = fn.mask(there[:, None].bool() & seen[:, None]).to_event(1)
            else:
                fn = fn.to_event(1).mask(there.bool() & seen)
            pyro.sample("x", fn, obs=x)

    for by_elements in (True, False):
        found = plate_diagram(masked, torch.rand(4, 2), torch.ones(4).bool(), by_elements)
        assert found.generative_edges == {("there", "x")}


def test_a_mask_of_a_latent_is_an_influence_and_one_of_an_argument_is_not() -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)):
            there = pyro.sample("there", dist.Bernoulli(0.5))
            with poutine.mask(mask=there.bool() & seen):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    assert plate_diagram(model, torch.rand(4), torch.ones(4).bool()).generative_edges == {("there", "x")}


# What is given by name


class Conditional:
    def model(self, x: Tensor, y: Tensor | None = None, *, c: Tensor, unused: Tensor, level: float) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)
            z = pyro.sample("z", dist.Normal(c[:, 0], level))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None, *, c: Tensor, unused: Tensor, level: float) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.Categorical(logits=x[:, None] * torch.ones(3)))
            pyro.sample("z", dist.Normal(x + c.sum(-1), level))


@pytest.mark.parametrize("y", [None, torch.tensor([0, -1, 2, -1])], ids=["none", "some labels"])
def test_each_given_tensor_is_a_node(y: Tensor | None) -> None:
    given = {"c": torch.rand(4, 2), "unused": torch.rand(7), "level": 1.0}
    found = plate_diagram(Conditional(), torch.rand(4), y, given=given)
    assert {name for name, node in found.nodes.items() if node.origin == "argument"} == {"c", "unused"}
    assert found.nodes["c"].plates == ("data",)
    assert found.nodes["unused"].plates == ()
    assert found.generative_edges == {("c", "z"), ("z", "x"), ("y", "x")}
    assert found.inference_edges == {("c", "z"), ("x", "z"), ("x", "y")}


# Subsamples, compiled parts, distributions


def test_a_subsample_drawn_by_the_programs_is_the_same_for_both() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    found = plate_diagram(Pair(model, guide), torch.rand(50))
    assert found.inference_edges == {("x", "z")}
    assert set(found.nodes) == {"level", "z", "x"}


def test_a_compiled_part_is_seen_through() -> None:
    decoder = torch.compile(nn.Linear(2, 3), backend="eager")

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, x[:, :2]))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    x = torch.rand(4, 3)
    for _ in range(2):  # also after it has been compiled
        found = plate_diagram(Pair(model, guide), x)
        assert found.generative_edges == {("z", "x")}
        assert found.inference_edges == {("x", "z")}
        decoder(x[:, :2])


FAMILIES = {
    "HalfCauchy": lambda a: dist.HalfCauchy(a.exp()),
    "HalfNormal": lambda a: dist.HalfNormal(a.exp()),
    "Exponential": lambda a: dist.Exponential(a.exp()),
    "Pareto": lambda a: dist.Pareto(a.exp(), 1.0),
    "Weibull": lambda a: dist.Weibull(a.exp(), 1.0),
    "Geometric": lambda a: dist.Geometric(a.sigmoid()),
    "Gamma": lambda a: dist.Gamma(a.exp(), 1.0),
    "Beta": lambda a: dist.Beta(a.exp(), 1.0),
    "Dirichlet": lambda a: dist.Dirichlet(a.exp()),
    "VonMises": lambda a: dist.VonMises(a, 1.0),
    "Poisson": lambda a: dist.Poisson(a.exp()),
    "Multinomial": lambda a: dist.Multinomial(3, logits=a),
    "DirichletMultinomial": lambda a: dist.DirichletMultinomial(a.exp(), 3),
    "OneHotCategorical": lambda a: dist.OneHotCategorical(logits=a),
    "StudentT": lambda a: dist.StudentT(2.0, a, 1.0),
    "Laplace": lambda a: dist.Laplace(a, 1.0),
    "LKJCholesky": lambda a: dist.LKJCholesky(3, a[:, 0].exp()),
    "MultivariateNormal": lambda a: dist.MultivariateNormal(a, scale_tril=torch.eye(5)),
    "MixtureSameFamily": lambda a: dist.MixtureSameFamily(
        dist.Categorical(logits=a), dist.Normal(torch.zeros(3, 5), 1.0)
    ),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_families_of_distributions(family) -> None:
    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(3, 5), 1.0).to_event(2))
        fn = family(a)
        b = pyro.sample("b", fn.to_event(len(fn.batch_shape)))
        pyro.sample("x", family(a + b.sum()).to_event(len(fn.batch_shape)), obs=x)

    x = family(torch.zeros(3, 5)).sample()
    assert of_model(plate_diagram(model, x).generative_edges) == {"a -> b", "a -> x", "b -> x"}


def test_a_value_to_predict_is_no_latent_of_the_picture() -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            y = pyro.sample("y", dist.Normal(z, 1.0), obs=y)
            pyro.sample("note", dist.Normal(y, 1.0))

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    found = plate_diagram(Pair(model, guide), x := torch.rand(4))
    assert statuses(found) == {"z": "latent", "x": "observed", "y": "predicted", "note": "predicted"}
    assert "predicted y ~ Normal" in str(found)
    found.draw()
    assert statuses(plate_diagram(Pair(model, guide), x, x))["y"] == "observed"
    assert statuses(plate_diagram(model, x))["y"] == "latent"  # a model without a guide


def test_a_reparameterised_latent_is_a_function_of_what_is_drawn_for_it() -> None:
    @poutine.reparam(config={"w": LocScaleReparam(0.5), "v": TransformReparam()})
    def model(x: Tensor) -> None:
        v = pyro.sample("v", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(v, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    found = plate_diagram(model, torch.rand(4))
    assert statuses(found) == {"v_base": "latent", "w_decentered": "latent", "x": "observed"}
    assert of_model(found.generative_edges) == {
        "v_base -> w_decentered",
        "v_base -> x",
        "w_decentered -> x",
    }
