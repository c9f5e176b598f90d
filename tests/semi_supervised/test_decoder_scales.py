"""Latents in the decoder's scale: for PPCA, the principal components, shrunk as the noise says."""

import numpy as np
import torch
from torch import nn

from pyrovae.generation import latent_means
from pyrovae.likelihoods import Gaussian
from pyrovae.models import PPCA, VAE
from pyrovae.networks import MLP, Standardisation
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.semi_supervised import decoder_scales


def test_for_ppca_scaled_latents_are_shrunk_principal_components():
    """With eigenvalues l and directions u of the covariance: |W_k| E[z_k | x] = (1 - s2/l) u^T (x - m)."""
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.normal(size=(200, 5)) * [3, 2, 1, 0.5, 0.2], dtype=torch.float32)
    ppca = PPCA(5, latent_dim=3)
    ppca.fit_closed_form(x)
    z = latent_means(ppca, x)
    scales = decoder_scales(ppca, z)
    torch.testing.assert_close(scales, ppca.weight.norm(dim=0).detach(), rtol=1e-4, atol=1e-4)
    centred = (x - x.mean(0)).double().numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred / 200)
    values, vectors = values[::-1], vectors[:, ::-1][:, :3]
    shrunk = (values[:3] - values[3:].mean()) / values[:3] * (centred @ vectors)
    np.testing.assert_allclose((z * scales).abs().numpy(), np.abs(shrunk), rtol=1e-3, atol=1e-3)


def test_a_model_that_standardises_compares_standardised_data():
    """The scales are the norms of W, which maps to standardised data, whatever their units."""
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01])
    ppca = PPCA(3, latent_dim=2, standardisation=Standardisation(3))
    ppca.fit_closed_form(x)
    scales = decoder_scales(ppca, latent_means(ppca, x))
    torch.testing.assert_close(scales, ppca.weight.norm(dim=0).detach(), rtol=1e-3, atol=1e-3)


class Cubes(nn.Module):
    """(z1, z2) -> (z1, 10 z2, z2^3)."""

    out_shape = (3,)

    def forward(self, z):
        return torch.stack([z[..., 0], 10 * z[..., 1], z[..., 1] ** 3], -1)


def test_other_decoders_have_the_root_mean_square_over_data():
    """A central difference over 1 of z^3 is 3 z^2 + 1/4."""
    vae = VAE(StandardNormal(2), Gaussian(Cubes()), DiagonalNormal(MLP(3, 4), 2))
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    expected = ((100 + 0.25**2 + 100 + 12.25**2) / 2) ** 0.5
    torch.testing.assert_close(decoder_scales(vae, z), torch.tensor([1.0, expected]), rtol=1e-4, atol=1e-4)
