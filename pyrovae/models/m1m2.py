"""M1+M2: M2 on the latents of a VAE (Kingma et al. 2014, section 2.3).

    for each datum n in plate `data` (N)
        y_n ~ p(y) = Cat(pi)                the class; observed where it is given
        z2_n ~ p(z2)                        M2's prior
        z1_n ~ p(z1 | z2_n, y_n)            M2's likelihood, over the VAE's latent space
        x_n ~ p(x | z1_n)                   the VAE's likelihood
    guide
        z1_n ~ q(z1 | x_n)                  the VAE's posterior
        y_n ~ q(y | z1_n)                   M2's classifier, where y_n is not given; enumerated
        z2_n ~ q(z2 | z1_n, y_n)            M2's posterior

As in the paper, it is trained in two stages: first the VAE on all images, `fit(stack.vae, x)`, then M2 on
draws of z1, `fit(stack.m2, x, y, transform=stack.draw_z1)`.
"""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.models.m2 import M2
from pyrovae.models.vae import VAE
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class M1M2(nn.Module):
    """The stack of a VAE and an M2 whose data are the VAE's latents.

    Args:
        vae: the VAE, M1.
        m2: the M2. Its likelihood is a distribution over the VAE's z.

    Examples:
        >>> from pyrovae.classifiers import Classifier
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import M1M2, M2, VAE
        >>> from pyrovae.networks import MLP, WithClass
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import Classes, StandardNormal
        >>> likelihood = Bernoulli(MLP(5, (1, 8, 8)))
        >>> vae = VAE(StandardNormal(5), likelihood, DiagonalNormal(MLP((1, 8, 8), 64), 5))
        >>> m2 = M2(
        ...     class_prior=Classes(10),
        ...     prior=StandardNormal(2),
        ...     likelihood=DiagonalNormal(WithClass(MLP(2 + 10, 64), 10), 5),
        ...     classifier=Classifier(MLP(5, 10)),
        ...     posterior=DiagonalNormal(WithClass(MLP(5 + 10, 64), 10), 2),
        ... )
        >>> stack = M1M2(vae, m2)
    """

    def __init__(self, vae: VAE, m2: M2) -> None:
        super().__init__()
        self.vae, self.m2 = vae, m2

    @program
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, y, z1, z2) for data `(B, *x_shape)` and their classes `(B,)` where they are known."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.m2.class_prior(), obs=y)
            z2 = pyro.sample("z2", self.m2.prior())
            z1 = pyro.sample("z1", self.m2.likelihood(z2, y))
            pyro.sample("x", masked(self.vae.likelihood(z1), observed), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(z1, y, z2 | x), or q(z1, z2 | x, y) where the classes are known."""
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", self.vae.posterior(filled(x, observed, centre_of(self.vae.likelihood))))
            if y is None:
                y = pyro.sample("y", self.m2.classifier(z1), infer={"enumerate": "parallel"})
            pyro.sample("z2", self.m2.posterior(z1, y))

    @torch.no_grad()
    def draw_z1(self, x: Tensor) -> Tensor:
        """Return one draw of z1 ~ q(z1 | x) for each datum of x, `(B, *x_shape)`: `(B, M1)`, where x is."""
        place = next(self.vae.parameters()).device
        return self.vae.posterior(x.to(place)).sample().to(x.device)
