"""StandardNormal and Classes."""

import math

import pytest
import torch

from pyrovae import priors
from pyrovae.errors import InputError

LATENT = 3


def test_the_standard_normal_prior_is_the_standard_normal():
    z = torch.randn(5, LATENT).double()
    by_hand = -0.5 * z.square().sum(-1) - LATENT / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(priors.StandardNormal(LATENT).double()().log_prob(z), by_hand)


def test_uniform_classes_stay_uniform():
    assert not any(p.requires_grad for p in priors.Classes(4).parameters())
    torch.testing.assert_close(priors.Classes(4)().probs, torch.full((4,), 0.25))
    with pytest.raises(InputError, match="num_classes is 1"):
        priors.Classes(1)
