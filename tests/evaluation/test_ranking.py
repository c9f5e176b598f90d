"""Rankings of latent dimensions against what they are defined by."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation.ranking import most_active_dimensions, most_telling_dimensions


def test_the_most_active_dimensions_vary_most():
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 0.1, 2.0])
    assert most_active_dimensions(z, 3) == [1, 3, 0]
    assert most_active_dimensions(z, 9) == [1, 3, 0, 2]


def test_the_most_telling_dimensions_have_the_largest_share_of_variance_between_classes():
    y = torch.arange(300) % 3
    noise = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    z = noise + y[:, None] * torch.tensor([0.1, 5.0, 1.0])
    z[:, 2] *= 100  # the share does not depend on the unit
    ranked = most_telling_dimensions(z, y, 3)
    means = torch.stack([z[y == c].mean(0) for c in range(3)])
    shares = means.var(0, unbiased=False) / z.var(0, unbiased=False)
    assert ranked == shares.argsort(descending=True).tolist() == [1, 2, 0]


def test_less_than_one_dimension_is_refused():
    with pytest.raises(InputError, match="dimensions is 0"):
        most_active_dimensions(torch.zeros(3, 2), 0)
