"""Every objective in `fit` and in Pyro's SVI."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, value_and_gradients
from enumerated_programs import PAIRS as CHAINS
from enumerated_programs import data, forward, hidden_markov, nothing
from pyro.infer import SVI
from small_programs import parameter

import pyrovae
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

OBJECTIVES = {
    "iwae": partial(IWAE, 5),
    "dreg": partial(IWAE, 5, doubly_reparameterised=True),
    "score function": ScoreFunctionELBO,
    "free bits": partial(FreeBits, 0.3),
    "free bits per dimension": partial(FreeBits, 0.1, "dimension"),
}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_every_objective_trains_and_resumes(make, make_vae, binary_images, tmp_path):
    def train(folder, epochs, **settings):
        vae = make_vae()
        history = pyrovae.fit(
            vae,
            binary_images,
            epochs=epochs,
            batch_size=12,
            objective=make(),
            optimizer=partial(torch.optim.Adam, lr=0.03),
            folder=tmp_path / folder,
            progress=False,
            **settings,
        )
        return vae, history

    whole, history = train("whole", 12)
    assert sum(history["loss"][-4:]) < sum(history["loss"][:4])
    assert {"elbo", "reconstruction", "kl"} <= history.rows[0].keys()
    train("halves", 5)
    resumed, _ = train("halves", 12, resume=True)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@every_objective
def test_pyros_own_inference_takes_the_same_gradient(make, vae, x, param_store):
    _, expected = value_and_gradients(make(), vae, x)
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1.0}), make())
    torch.manual_seed(SEED)
    svi.step(x)
    for name, value in vae.named_parameters():
        torch.testing.assert_close(before[name] - value, expected[name])


def test_m2_trains_on_labelled_and_unlabelled_data_with_its_classifier_left_out(make_m2, binary_images):
    m2 = make_m2()
    m2.classifier.requires_grad_(False)
    y = torch.where(torch.arange(24) < 9, torch.arange(24) % 3, -1)
    history = pyrovae.fit(
        m2,
        binary_images.double(),
        y,
        epochs=10,
        batch_size=12,
        objective=IWAE(3, doubly_reparameterised=True),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        progress=False,
    )
    assert history["loss"][-1] < history["loss"][0]


def fit(model, guide, x, **settings):
    return pyrovae.fit(
        Pair(model, guide), x, progress=False, optimizer=partial(torch.optim.Adam, lr=0.02), **settings
    )


@pytest.mark.parametrize("objective", [ELBO(), IWAE(2)], ids=["elbo", "iwae"])
def test_a_hidden_markov_model_of_which_the_guide_has_nothing_trains(objective, param_store):
    x = data(40)
    model = hidden_markov(pyro.markov, None)
    history = fit(model, nothing, x, epochs=3, objective=objective, batch_size=40)
    assert history["elbo"] == pytest.approx([-loss for loss in history["loss"]])
    assert history["loss"][-1] < history["loss"][0]
    model(x)
    pyro.clear_param_store()
    first = pyrovae.fit(
        Pair(model, nothing),
        x,
        epochs=1,
        objective=objective,
        batch_size=40,
        progress=False,
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    assert first["elbo"][0] == pytest.approx((forward(x).sum() / 40).item())


def test_sites_of_the_guide_alone_train_and_add_up(param_store):
    x = torch.linspace(-2.0, 2.0, 24).double()[:, None]
    labels = (torch.arange(24) % 2).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x[:, 0])

    def guide(x):
        w = parameter("w", 0.4, -0.5)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(w[0] * x[:, 0], w[1].exp()), infer={"is_auxiliary": True})
            pyro.sample(
                "z", dist.Delta(2.0 * u, log_density=torch.full((len(x),), -math.log(2.0)).double())
            )
            fn = dist.Bernoulli(logits=parameter("c", 0.5) * x[:, 0])
            pyro.factor("classification", -3.0 * fn.log_prob(labels), has_rsample=False)

    for objective in (ELBO(), IWAE(3)):
        pyro.clear_param_store()
        history = fit(model, guide, x, epochs=3, objective=objective, batch_size=24)
        elbo = torch.tensor(history["reconstruction"]) - torch.tensor(history["kl"])
        torch.testing.assert_close(torch.tensor(history["elbo"]), elbo)
    pyro.clear_param_store()
    history = fit(model, guide, x, epochs=3, objective=ELBO(), batch_size=24)
    assert history["elbo"] == pytest.approx([-loss for loss in history["loss"]])


def test_a_chain_that_the_guide_infers_trains_towards_its_evidence(param_store):
    x = data(30)
    history = fit(*CHAINS["markov"], x, epochs=30, batch_size=30)
    assert history["elbo"] == pytest.approx([-loss for loss in history["loss"]])
    assert history["elbo"][-1] > history["elbo"][0] + 0.1
