"""Every objective in `fit` and in Pyro's SVI."""

from functools import partial

import pyro
import pytest
import torch
from by_hand import SEED, value_and_gradients
from pyro.infer import SVI

import pyrovae
from pyrovae.objectives import IWAE, FreeBits, ScoreFunctionELBO

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
