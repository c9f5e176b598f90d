"""From the command line's words to a model: which names there are, and what each of them builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pyrovae import flows, likelihoods, priors
from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.errors import InputError, check_choice
from pyrovae.flows import Sylvester
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE, PPCA, VAE, Autoencoder, HierarchicalVAE
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP, Joined, ResidualMLP, WithClass
from pyrovae.objectives import ELBO, IWAE, FreeBits, Objective, ScoreFunctionELBO
from pyrovae.posteriors import DiagonalNormal, FlowPosterior, FullCovarianceNormal
from pyrovae.priors import Classes, MixtureOfGaussians, StandardNormal, VampPrior

MODELS: dict[str, str] = {
    "vae": "variational autoencoder (beta-VAE with --beta): z ~ N(0, I), x ~ p(x | z)",
    "hvae": "two levels of latents: z2 ~ p(z2), z1 ~ p(z1 | z2), x ~ p(x | z1, z2)",
    "ppca": "probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence",
    "autoencoder": "deterministic autoencoder, for contrast: z = encoder(x), x ~ p(x | z)",
    "m2": "a class beside z: y ~ Cat(pi), z ~ N(0, I), x ~ p(x | y, z); guide q(y | x) q(z | x, y)",
    "m1m2": "M2 on the latents of a VAE (M1): y, z2, z1 ~ p(z1 | y, z2), x ~ p(x | z1)",
    "pcvae": "prediction-constrained VAE: z ~ N(0, I), x ~ p(x | z), y ~ p(y | z) weighted by lambda",
    "cpcvae": "PC-VAE whose predictions must also survive decoding and encoding again",
}
CLASSED = ("m2", "m1m2", "pcvae", "cpcvae")
LIKELIHOODS: dict[str, Callable[[nn.Module], Any]] = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous-bernoulli": likelihoods.ContinuousBernoulli,
    "gaussian": likelihoods.Gaussian,
    "categorical": likelihoods.Categorical,
}
FIXED = ("ppca", "autoencoder")  # models with a posterior and a prior of their own, if any
NETWORKS = ("mlp", "gated", "residual", "conv")
FLOWS: dict[str, Callable[..., flows.Flow]] = {
    "planar": flows.Planar,
    "radial": flows.Radial,
    "householder": flows.Householder,
    "sylvester-orthogonal": partial(Sylvester, orthogonal="orthogonal"),
    "sylvester-householder": partial(Sylvester, orthogonal="householder"),
    "sylvester-triangular": partial(Sylvester, orthogonal="triangular"),
    "iaf": flows.InverseAutoregressive,
    "cclinear-iaf": lambda latent_dim, steps=5: flows.ConvexCombination(latent_dim, combinations=steps),
    "spline": flows.SplineCoupling,
}
_MLPS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "gated": GatedMLP}
POSTERIORS = ("normal", "full-covariance", *FLOWS)
PRIORS: dict[str, Callable[..., nn.Module]] = {
    "normal": StandardNormal,
    "mixture": MixtureOfGaussians,
    "vamp": VampPrior,
    "realnvp": priors.RealNVP,
    "spline": priors.SplineCoupling,
    "autoregressive": priors.MaskedAutoregressive,
}
COMPONENTS = 100  # unless it is said how many

OBJECTIVES: dict[str, str] = {
    "elbo": "the ELBO, of as many draws of z as there are particles",
    "iwae": "the importance-weighted bound, of as many draws",
    "dreg": "the same with the doubly reparameterised gradient",
    "free-bits": "the ELBO with a floor (free-bits, nats) under each dimension's KL",
    "free-bits-total": "the ELBO with a floor under z's whole KL",
    "score-function": "the ELBO without reparameterisation, for comparison",
}


def build_objective(objective: str, particles: int = 1, free_bits: float = 0.0) -> Objective:
    """Build an objective by name.

    Args:
        objective: one of `OBJECTIVES`.
        particles: draws of the latents for each datum.
        free_bits: the floor, in nats.

    Raises:
        InputError: an unknown name, fewer than one particle, a negative floor, a number that the
            objective has no use for, or none where it needs one.
    """
    check_choice("objective", objective, OBJECTIVES)
    if particles < 1:
        raise InputError(f"particles is {particles}; it must be at least 1.")
    floored = objective.startswith("free-bits")
    if free_bits and not floored:
        raise InputError(f"free_bits is {free_bits}, which the objective '{objective}' has no use for.")
    if floored:
        if particles > 1:
            raise InputError(f"particles is {particles}; the objective '{objective}' takes one draw.")
        if not free_bits:
            raise InputError(f"the objective '{objective}' needs its floor: set free_bits, 0.5 say (nats).")
        return FreeBits(free_bits, per="dimension" if objective == "free-bits" else "site")
    if objective in ("iwae", "dreg"):
        if particles == 1:
            raise InputError(
                f"the objective '{objective}' with one draw is the ELBO: set particles, 50 say, or take "
                "'elbo'."
            )
        return IWAE(particles, doubly_reparameterised=objective == "dreg")
    kind = ScoreFunctionELBO if objective == "score-function" else ELBO
    return kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)


def build_model(
    model: str,
    x_shape: tuple[int, ...],
    *,
    latent_dim: int = 10,
    likelihood: str = "bernoulli",
    posterior: str = "normal",
    prior: str = "normal",
    network: str = "mlp",
    width: int = 256,
    flow_steps: int | None = None,
    components: int = COMPONENTS,
    num_classes: int = 0,
    learn_class_prior: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Build a model by name, with initial parameters that depend on the seed alone.

    Args:
        model: one of `MODELS`.
        x_shape: event shape of the data.
        latent_dim: M.
        likelihood: one of `LIKELIHOODS`; probabilistic PCA has its own.
        posterior: one of `POSTERIORS`; in M1+M2 M1's, of two levels the upper one's.
        prior: one of `PRIORS`; of the upper level if there are two, and in M1+M2 M1's.
        network: one of `NETWORKS`, for encoder and decoder alike.
        width: of hidden layers; a convolutional network has an eighth of it as first channels.
        flow_steps: steps of a flow posterior; by default the flow's own default.
        components: of a mixture prior; a VampPrior's pseudo-inputs.
        num_classes: C, for the models in `CLASSED`.
        learn_class_prior: learn the frequencies of classes; they are equal and fixed otherwise.
        seed: of the initial parameters. The caller's random stream stays in place.

    Raises:
        InputError: an unknown name, a size below 1, fewer than 2 classes where there must be, or parts
            that do not go together.
    """
    check_choice("model", model, MODELS)
    check_choice("likelihood", likelihood, LIKELIHOODS)
    check_choice("posterior", posterior, POSTERIORS)
    check_choice("prior", prior, PRIORS)
    check_choice("network", network, NETWORKS)
    for name, size in {"latent_dim": latent_dim, "width": width, "components": components}.items():
        if size < 1:
            raise InputError(f"{name} is {size}; it must be at least 1.")
    if model in CLASSED and num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; {model} needs at least 2 classes.")
    for what, name in {"posterior": posterior, "prior": prior}.items():
        if name != "normal" and model in FIXED:
            raise InputError(f"{what} is '{name}', but {model} has its own: leave the option out.")
    if flow_steps is not None and posterior not in FLOWS:
        raise InputError(
            f"flow_steps is {flow_steps}, but the posterior '{posterior}' has no steps: choose a flow "
            f"({', '.join(FLOWS)}), or leave the option out."
        )
    if components != COMPONENTS and prior not in ("mixture", "vamp"):
        raise InputError(
            f"components is {components}, but the prior '{prior}' has none: choose 'mixture' or 'vamp', or "
            "leave the option out."
        )
    parts = _Parts(
        x_shape, latent_dim, likelihood, posterior, prior, network, width, flow_steps, components,
        num_classes, learn_class_prior,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: nn.Module = getattr(parts, model)()
    return built


@dataclass(frozen=True)
class _Parts:
    """Parts of models, and the models put together from them: a method for each name."""

    x_shape: tuple[int, ...]
    latent_dim: int
    likelihood_name: str
    posterior_name: str
    prior_name: str
    network: str
    width: int
    flow_steps: int | None
    components: int
    num_classes: int
    learn_class_prior: bool

    # Parts

    def encoder(self, out: int) -> nn.Module:
        """x -> `(out,)`."""
        if self.network == "conv":
            return ConvEncoder(self.x_shape, out, channels=max(1, self.width // 8))
        if self.network == "residual":
            return ResidualMLP(self.x_shape, out, width=self.width)
        return _MLPS[self.network](self.x_shape, out, hidden=(self.width, self.width))

    def features(self) -> nn.Module:
        """x -> features `(width,)`, from which affine heads go on."""
        if self.network == "gated":
            return GatedMLP(self.x_shape, self.width, hidden=(self.width,), gated_output=True)
        return self.encoder(self.width)

    def decoder(self, inputs: int) -> nn.Module:
        """`(inputs,)` -> the parameters of the pixels."""
        levels = likelihoods.Categorical.levels if self.likelihood_name == "categorical" else 1
        out = (self.x_shape[0] * levels, *self.x_shape[1:])
        if self.network == "conv":
            return ConvDecoder(inputs, out, channels=max(1, self.width // 8))
        if self.network == "residual":
            return ResidualMLP(inputs, out, width=self.width)
        return _MLPS[self.network](inputs, out, hidden=(self.width, self.width))

    def likelihood(self, network: nn.Module) -> nn.Module:
        return LIKELIHOODS[self.likelihood_name](network)

    def posterior(self, network: nn.Module) -> nn.Module:
        """Of z, from a network to features."""
        if self.posterior_name == "normal":
            return DiagonalNormal(network, self.latent_dim)
        if self.posterior_name == "full-covariance":
            return FullCovarianceNormal(network, self.latent_dim)
        steps = {} if self.flow_steps is None else {"steps": self.flow_steps}
        return FlowPosterior(network, self.latent_dim, FLOWS[self.posterior_name](self.latent_dim, **steps))

    def prior(self, posterior: nn.Module, with_class: bool = False) -> nn.Module:
        """Of z; a VampPrior is made of the posterior."""
        if self.prior_name == "vamp":
            bounds = (0.0, 255.0) if self.likelihood_name == "categorical" else (0.0, 1.0)
            classes = self.num_classes if with_class else None
            return VampPrior(posterior, self.x_shape, self.components, classes, bounds)
        if self.prior_name == "mixture":
            return MixtureOfGaussians(self.latent_dim, self.components)
        return PRIORS[self.prior_name](self.latent_dim)

    def class_prior(self) -> nn.Module:
        return Classes(self.num_classes, self.learn_class_prior)

    def beside_class(self, inputs: int, features: nn.Module | None = None) -> nn.Module:
        """A datum of `(inputs,)`, or its features, and a class -> features."""
        return WithClass(self.mixer(inputs + self.num_classes), self.num_classes, features)

    def mixer(self, inputs: int) -> nn.Module:
        """Things side by side, `(inputs,)` in all -> features."""
        return MLP(inputs, self.width, hidden=(self.width,))

    # Models

    def vae(self) -> VAE:
        posterior = self.posterior(self.features())
        return VAE(self.prior(posterior), self.likelihood(self.decoder(self.latent_dim)), posterior)

    def ppca(self) -> PPCA:
        return PPCA(self.x_shape, self.latent_dim)

    def autoencoder(self) -> Autoencoder:
        return Autoencoder(self.encoder(self.latent_dim), self.likelihood(self.decoder(self.latent_dim)))

    def m2(self) -> M2:
        classifier = Classifier(self.encoder(self.num_classes))
        posterior = self.posterior(self.beside_class(self.width, self.features()))
        prior = self.prior(posterior, with_class=True)
        decoder = WithClass(self.decoder(self.latent_dim + self.num_classes), self.num_classes)
        return M2(self.class_prior(), prior, self.likelihood(decoder), classifier, posterior)

    def pcvae(self) -> PCVAE:
        vae = self.vae()
        classifier = LinearClassifier(self.latent_dim, self.num_classes)
        return PCVAE(vae.prior, vae.likelihood, vae.posterior, classifier)

    def cpcvae(self) -> CPCVAE:
        posterior = self.posterior(self.features())
        classifier = LinearClassifier(self.latent_dim, self.num_classes)
        likelihood = self.likelihood(self.decoder(self.latent_dim))
        return CPCVAE(self.prior(posterior), likelihood, posterior, classifier, self.class_prior())

    def m1m2(self) -> M1M2:
        vae, size = self.vae(), self.latent_dim
        upper = M2(
            self.class_prior(),
            StandardNormal(size),
            DiagonalNormal(self.beside_class(size), size),
            Classifier(MLP(size, self.num_classes, hidden=(self.width,))),
            DiagonalNormal(self.beside_class(size), size),
        )
        return M1M2(vae, upper)

    def hvae(self) -> HierarchicalVAE:
        size = self.latent_dim
        upper = self.posterior(self.features())
        lower = Joined(self.mixer(self.width + size), self.features(), None)
        return HierarchicalVAE(
            self.prior(upper),
            DiagonalNormal(self.mixer(size), size),
            self.likelihood(Joined(self.decoder(2 * size), None, None)),
            upper,
            DiagonalNormal(lower, size),
        )
