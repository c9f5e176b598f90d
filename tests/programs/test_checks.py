"""Pairs that are refused before training or evaluation, and the message about each."""

import contextlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.checks import check_pair
from pyrovae.programs.layout import layout_of
from pyrovae.programs.pair import Pair
from pyrovae.programs.rows import Arguments

pytestmark = pytest.mark.cpu


def pair(likelihood, x_event=1, latent="z", plate=True):
    """A model with the given likelihood, and a guide for its latent."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z).to_event(x_event), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(latent, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return model, guide


def bernoulli(z):
    return dist.Bernoulli(logits=torch.zeros(len(z), 3))


# Pairs


def test_a_sound_pair_passes():
    check_pair(Pair(*pair(bernoulli)), torch.ones(4, 3))


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (
            bernoulli,
            torch.full((4, 3), 0.25),
            r"4 of 4 data .*Bernoulli likelihood at site 'x' \(values from 0.25",
        ),
        (bernoulli, torch.full((4, 3), 0.25), r"transform=pyrovae\.data\.binarise.*ContinuousBernoulli"),
        (
            lambda z: dist.ContinuousBernoulli(logits=torch.zeros(len(z), 3)),
            torch.tensor([[0.5, 0.5, 0.5], [0.0, 7.0, 1.0]]),
            r"1 of 2 data .*\(values from 0 to 7 in the first of them\).*lie in \[0, 1\]: scale them",
        ),
        (
            lambda z: dist.Categorical(logits=torch.zeros(len(z), 3, 256)),
            torch.full((2, 3), 256.0),
            r"the levels 0, 1, \.\.\., 255: convert grey values with pyrovae\.data\.to_levels",
        ),
        (
            lambda z: dist.Exponential(torch.ones(len(z), 3)),
            -torch.ones(2, 3),
            "Exponential likelihood .*its values must satisfy",
        ),
    ],
)
def test_values_outside_of_the_likelihoods_support_are_refused_with_a_remedy(likelihood, x, message):
    with pytest.raises(InputError, match=message):
        check_pair(Pair(*pair(likelihood)), x)


def test_values_outside_of_a_support_without_event_dimensions_are_refused():
    with pytest.raises(InputError, match=r"1 of 4 data .*\(values from 0.5 to 0.5"):
        check_pair(
            Pair(*pair(lambda z: dist.Bernoulli(logits=torch.zeros(len(z))), x_event=0)),
            torch.tensor([0, 1, 0.5, 0]),
        )


def test_data_of_another_shape_than_the_model_makes_are_refused():
    with pytest.raises(InputError, match=r"makes data of shape \(3,\) at site 'x', but was given .*\(4,\)"):
        check_pair(Pair(*pair(bernoulli)), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("part", "site"),
    [("prior", "model's site 'z'"), ("likelihood", "model's site 'x'"), ("posterior", "guide's site 'z'")],
)
def test_a_part_that_is_or_returns_no_distribution_is_named(part, site):
    image, normal = (1, 2, 2), dist.Normal(torch.zeros(2), 1.0).to_event(1)
    parts = {
        "prior": StandardNormal(2),
        "likelihood": Bernoulli(MLP(2, image)),
        "posterior": DiagonalNormal(MLP(image, 3), 2),
    }
    wrong = {"prior": normal, "likelihood": MLP(2, image), "posterior": MLP(image, 2)}
    vae = VAE(**parts | {part: wrong[part]})
    with pytest.raises(InputError, match=f"the {site} has a Tensor in the place of a distribution"):
        check_pair(vae, torch.ones(3, *image))


def test_programs_in_each_others_place_are_told_apart():
    model, guide = pair(bernoulli)
    for swapped, sites in (
        ((guide, model), "no site, and the guide observes 'x'"),
        ((model, model), "'x', and the guide observes 'x'"),
    ):
        with pytest.raises(InputError, match=f"the model observes {sites}: .*obs=x"):
            check_pair(Pair(*swapped), torch.ones(4, 3))


def test_a_guide_may_weigh_its_draws_by_a_factor_of_its_own():
    model, guide = pair(bernoulli)

    def weighted(x):
        guide(x)
        with pyro.plate("again", len(x)):
            pyro.factor("weight", torch.zeros(len(x)), has_rsample=True)

    check_pair(Pair(model, weighted), torch.ones(4, 3))


def test_a_latent_that_the_guide_lacks_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match=r"no site for the model's latent 'z' \(.*'code'\).*'x' depends"):
        check_pair(Pair(model, guide), torch.ones(2))


def test_a_latent_of_the_guide_that_the_model_lacks_is_named():
    with pytest.raises(InputError, match=r"samples 'code', which the model does not have.*'z'"):
        check_pair(Pair(*pair(bernoulli, latent="code")), torch.ones(2, 3))


def test_a_program_that_does_not_run_is_reported_with_the_datas_shape():
    def broken(x):
        raise ValueError("matrices do not fit")

    _, guide = pair(bernoulli)
    with pytest.raises(InputError, match=r"do not run on data of shape \(2, 3\): matrices do not fit"):
        check_pair(Pair(broken, guide), torch.ones(2, 3))


def test_pyros_list_of_shapes_is_left_out_of_the_librarys_own_messages(make_vae):
    vae = make_vae()
    with pytest.raises(InputError) as caught:
        check_pair(vae, torch.ones(2, 1, 5, 5))
    assert "\n" not in str(caught.value)


def test_data_of_another_type_than_the_parameters_are_said_to_be(make_vae, binary_images):
    vae = make_vae()
    with pytest.raises(InputError, match=r"type torch.float64; .* torch.float32 \(use x.to"):
        check_pair(vae, binary_images.double())


def test_checking_draws_nothing_into_the_parameters_and_keeps_the_mode(make_vae, binary_images):
    vae = make_vae().train()
    check_pair(vae, binary_images)
    assert vae.training
    assert all(value.grad is None for value in vae.parameters())


# A guide of the user's own against the model, latent by latent


def latent_pair(prior, posterior, guide_plate=None):
    """A model with the given prior for z, whatever it is, and a guide; four data fit both."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            # It broadcasts with a z of any shape, so that nothing but the check can notice.
            pyro.sample("x", dist.Normal(torch.zeros(3) + 0.0 * z.sum(), 1.0).to_event(1), obs=x)

    def guide(x):
        with guide_plate or pyro.plate("data", len(x)) as _:
            pyro.sample("z", posterior(x))

    return model, guide


def normal(*shape, events=1, scale=1.0):
    return dist.Normal(torch.zeros(shape), scale).to_event(events)


FOUR = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (
            lambda x: normal(len(x), 3),
            r"site 'z' has event shape \(2,\) and batch shape \(4,\) in the model, but event shape \(3,\) "
            r"and batch shape \(4,\) in the guide: sample values of the model's shape",
        ),
        (lambda x: normal(len(x), 1), r"event shape \(2,\) .* in the model, but event shape \(1,\)"),
        (
            lambda x: normal(len(x), 1, events=0),
            r"but event shape \(\) and batch shape \(4, 4\) in the guide: .* with \.to_event\(1\)",
        ),
        (
            lambda x: dist.Categorical(logits=torch.zeros(len(x), 3)),
            r"but event shape \(\) and batch shape \(4,\) in the guide: sample values of the model's shape",
        ),
        (lambda x: normal(5, len(x), 2), r"event shape \(2,\) and batch shape \(5, 4\) in the guide"),
        (lambda x: normal(len(x), 1, 2, events=2), r"but event shape \(1, 2\) and batch shape \(4,\)"),
        (
            lambda x: normal(len(x), 2, events=0),
            r"the guide's site 'z' does not fit into plate 'data', which has 4 members at .*: "
            r"the distribution's batch has 2 there \(batch shape \(4, 2\), event shape \(\)\), while the "
            r"model's 'z' has event shape \(2,\) and batch shape \(4,\)\. .* with \.to_event\(1\)",
        ),
    ],
    ids=["dimension", "dimension 1", "no event, one wide", "classes", "batch", "longer event", "no event"],
)
def test_a_latent_of_another_shape_than_the_models_is_refused_with_both(posterior, message):
    with pytest.raises(InputError, match=message):
        check_pair(Pair(*latent_pair(lambda: normal(2), posterior)), FOUR)


def test_a_forgotten_event_is_noticed_where_it_fits_the_plate_by_chance():
    model, guide = latent_pair(lambda: normal(4), lambda x: normal(len(x), 4, events=0))
    with pytest.raises(
        InputError, match=r"'z' has event shape \(4,\) .* but event shape \(\) .*to_event\(1\)"
    ):
        check_pair(Pair(model, guide), FOUR)


@pytest.mark.parametrize(
    ("plate", "posterior", "message"),
    [
        (
            contextlib.nullcontext,
            lambda x: normal(len(x), 2),
            r"site 'z' lies under plate 'data' of 4 at dimension -1 in the model, but under no plate in "
            r'the guide: open .* with pyro\.plate\("data", len\(x\)\)',
        ),
        (
            lambda: pyro.plate("data", 10),
            lambda x: normal(2),
            r"plate 'data' of 4 at dimension -1 in the model, but under plate 'data' of 10 at dimension -1",
        ),
        (
            lambda: pyro.plate("data", 10),
            lambda x: normal(len(x), 2),
            "guide's site 'z' does not fit into plate 'data', which has 10 members .* batch has 4 there",
        ),
        (
            lambda: pyro.plate("data", 4, dim=-2),
            lambda x: normal(len(x), 1, 2),
            "but under plate 'data' of 4 at dimension -2 in the guide",
        ),
    ],
    ids=["none", "other size", "other size than the batch", "other dimension"],
)
def test_a_latent_under_other_plates_than_the_models_is_refused_with_both(plate, posterior, message):
    model, guide = latent_pair(lambda: normal(2), posterior, plate())
    with pytest.raises(InputError, match=message):
        check_pair(Pair(model, guide), FOUR)


def test_the_model_is_named_where_it_is_the_one_that_does_not_fit_its_plate():
    model, guide = latent_pair(lambda: normal(2, events=0), lambda x: normal(len(x), 2))
    with pytest.raises(InputError, match="the model's site 'z' does not fit into plate 'data'"):
        check_pair(Pair(model, guide), FOUR)


@pytest.mark.parametrize("run", [check_pair, plate_diagram])
def test_a_vector_without_an_event_is_told_to_declare_one(run):
    """The beginner's mistake: the plate takes the numbers of one datum for the data."""
    model, guide = latent_pair(lambda: normal(2), lambda x: normal(2, events=0))
    remedy = r"if the value of one datum has 2 numbers, declare .*\.to_event\(1\)\. Otherwise give .* of 4"
    with pytest.raises(InputError, match=f"the guide's site 'z' does not fit into plate 'data'.*{remedy}"):
        run(Pair(model, guide), FOUR)
    model, guide = latent_pair(lambda: normal(2, events=0), lambda x: normal(2))
    with pytest.raises(InputError, match=f"the model's site 'z' does not fit into plate 'data'.*{remedy}"):
        run(Pair(model, guide), FOUR)
    run(Pair(*latent_pair(lambda: normal(2), lambda x: normal(2))), FOUR)  # the remedy


ONES = torch.ones(2)


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [
        # So narrow that no draw leaves the support.
        (
            dist.LogNormal(0 * ONES, 1.0),
            dist.Normal(ONES, 1e-3),
            r"site 'z' is LogNormal in the model, with support GreaterThan\(lower_bound=0\.0\), but Normal "
            r"in the guide, with support Real\(\)",
        ),
        (dist.Beta(ONES, 1.0), dist.Normal(ONES / 2, 1e-3), r"Beta .*Interval\(.*Normal .*Real"),
        (dist.Beta(ONES, 1.0), dist.Gamma(500 * ONES, 1e3), "Beta .*but Gamma in the guide"),
        (dist.Gamma(ONES, 1.0), dist.Laplace(ONES, 1e-3), "Gamma .*but Laplace in the guide"),
        (dist.Uniform(0 * ONES, 5.0), dist.Uniform(0 * ONES, 1e4), "Uniform .*but Uniform in the guide"),
        (dist.Bernoulli(ONES / 2), dist.Normal(ONES, 1e-3), "Bernoulli .*but Normal in the guide"),
        (dist.Normal(ONES, 1.0), dist.Bernoulli(ONES / 2), "Normal .*but Bernoulli in the guide"),
        (
            dist.Categorical(torch.ones(2, 3)),
            dist.Categorical(torch.tensor([1.0, 1.0, 1.0, 1e-9]).expand(2, 4)),
            "Categorical .*but Categorical in the guide",
        ),
        (
            dist.Categorical(torch.ones(2, 3)),
            dist.Categorical(torch.ones(2, 2)),
            "site 'z' has 3 classes in the model and 2 in the guide",
        ),
        (dist.Normal(ONES, 1.0), dist.LogNormal(ONES, 1.0), None),
        (dist.LogNormal(ONES, 1.0), dist.Gamma(ONES, 1.0), None),
        (dist.Gamma(ONES, 1.0), dist.LogNormal(ONES, 1.0), None),
        (dist.LogNormal(ONES, 1.0), dist.Delta(ONES), None),
        (dist.Beta(ONES, 1.0), dist.Uniform(0 * ONES, 1.0), None),
        (dist.Uniform(0 * ONES, 5.0), dist.Beta(ONES, 1.0), None),
        (dist.Categorical(torch.ones(2, 2)), dist.Bernoulli(ONES / 2), None),
    ],
)
def test_a_guide_that_draws_what_has_no_density_under_the_model_is_refused(prior, posterior, message):
    pair = latent_pair(lambda: prior.to_event(1), lambda x: posterior.expand([len(x), 2]).to_event(1))
    if message is None:
        check_pair(Pair(*pair), FOUR)
    else:
        with pytest.raises(InputError, match=message):
            check_pair(Pair(*pair), FOUR)


def test_a_latent_that_the_model_lacks_is_named():
    model, guide = latent_pair(lambda: normal(2), lambda x: normal(2))

    def talkative(x):
        guide(x)
        with pyro.plate("again", len(x)):
            pyro.sample("extra", normal(2))

    with pytest.raises(
        InputError, match=r"the guide samples 'extra', which the model does not have .*\('z'\)"
    ):
        check_pair(Pair(model, talkative), FOUR)


def test_training_and_evaluation_are_refused_before_they_begin():
    weight = nn.Linear(3, 2)
    seen = []

    def posterior(x):
        seen.append(torch.is_grad_enabled())
        pyro.module("encoder", weight)
        return dist.Normal(weight(x), 1.0).to_event(1)

    model, guide = latent_pair(lambda: dist.LogNormal(torch.zeros(2), 1.0).to_event(1), posterior)
    message = "site 'z' is LogNormal in the model, .* but Normal in the guide"
    with pytest.raises(InputError, match=message):
        pyrovae.fit(Pair(model, guide), FOUR, epochs=1, progress=False)
    with pytest.raises(InputError, match=message):
        marginal_likelihood(Pair(model, guide), FOUR, num_samples=10)
    assert not any(seen)  # nothing was differentiated


# Plates


def test_a_site_outside_of_the_datas_plate_is_named():
    def without(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", bernoulli(z.expand(len(x), 2)).to_event(2), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.ones(4, 3)
    with pytest.raises(InputError, match="site 'z' is not under a plate of 4 data"):
        layout_of(Pair(without, guide), Arguments((x,)))
    found = layout_of(Pair(*pair(bernoulli)), Arguments((x,)))
    assert (found.depth, found.values, found.data_plate) == (1, None, "data")
