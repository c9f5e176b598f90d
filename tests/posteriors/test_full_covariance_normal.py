"""FullCovarianceNormal: its covariance."""

import math

import pytest
import torch
from flow_cases import (
    FEATURES,
    data,
)

from pyrovae.networks import MLP
from pyrovae.posteriors import FullCovarianceNormal


def test_the_full_covariance_normal_has_the_covariance_of_its_factor():
    torch.manual_seed(0)
    posterior = FullCovarianceNormal(MLP(FEATURES, 8), 3).double()
    with torch.no_grad():
        posterior.scale_tril.weight.normal_()
    x, z = data(4), torch.randn(4, 3).double()
    features = posterior.network(x)
    a, b, c, d, e, f = posterior.scale_tril(features).unbind(-1)
    zero, (s1, s2, s3) = torch.zeros_like(a), [(1 + v.exp()).log() + 1e-4 for v in (a, c, f)]
    rows = [[s1, zero, zero], [s2 * b, s2, zero], [s3 * d, s3 * e, s3]]
    factor = torch.stack([torch.stack(row, -1) for row in rows], -2)
    covariance = factor @ factor.mT
    away = z - posterior.loc(features)
    by_hand = -0.5 * (away * torch.linalg.solve(covariance, away)).sum(-1)
    by_hand = by_hand - 0.5 * torch.linalg.slogdet(2 * math.pi * covariance)[1]
    torch.testing.assert_close(posterior(x).log_prob(z), by_hand)
    torch.testing.assert_close(posterior(x).mean, posterior.loc(features))


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_the_full_covariance_normal_begins_as_a_diagonal_one(latent_dim):
    covariance = FullCovarianceNormal(MLP(FEATURES, 8), latent_dim)(data(4).float()).covariance_matrix
    torch.testing.assert_close(covariance, torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))
