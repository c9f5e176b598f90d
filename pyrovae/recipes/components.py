"""Components by name in recipes: the types of the options that name them, and `Parts`, which builds them.

Importing this file imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.objectives.table import OBJECTIVES
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes.about import About
from pyrovae.recipes.options import OfObjective, OptionError, load_component
from pyrovae.tables import Table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrovae.networks import Standardisation
    from pyrovae.objectives import Objective as AnyObjective

Count = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0), OfObjective()]
Share = Annotated[float, Ge(0), Lt(1)]
Posterior = Annotated[str, POSTERIORS]
Prior = Annotated[str, PRIORS]
Likelihood = Annotated[str, LIKELIHOODS]
Network = Annotated[str, NETWORKS]
Objective = Annotated[str, OBJECTIVES]


@dataclass(frozen=True)
class Parts:
    """The builder of the components that a recipe's options name.

    Args:
        about: the facts about the data.
        likelihood: a name in the table of likelihoods, or `"file.py:Name"`.
        posterior: a name in the table of posteriors, or `"file.py:Name"`.
        prior: a name in the table of priors, or `"file.py:Name"`.
        network: a name in the table of networks, or `"file.py:Name"`.
        latent_dim: M, the number of latent dimensions.
        width: the width of hidden layers.
        options: the options of the components by name, such as `{"flow_steps": 4}`.
    """

    about: About
    _: KW_ONLY
    likelihood: str = "bernoulli"
    posterior: str = "normal"
    prior: str = "normal"
    network: str = "mlp"
    latent_dim: int = 10
    width: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)

    def encoder(self, size: int) -> nn.Module:
        """Build a network from x to a final output `(size,)`, such as logits."""
        return self._encoding(size, "encoder")

    def features(self) -> nn.Module:
        """Build a network from x to features `(width,)`, the input of affine heads."""
        return self._encoding(self.width, "features")

    def decoder(self, inputs: int) -> nn.Module:
        """Build a network from `(inputs,)` to the parameters of the likelihood."""
        levels = getattr(self._likelihood, "levels", 1)
        out_shape = (self.about.x_shape[0] * levels, *self.about.x_shape[1:])
        return self._network(inputs, out_shape, "decoder")

    def mixer(self, inputs: int) -> nn.Module:
        """Build a small network from joined vectors, `(inputs,)` in all, to features `(width,)`."""
        from pyrovae.networks import MLP

        return MLP(inputs, self.width, hidden=(self.width,))

    def beside_class(self, inputs: int, features: nn.Module | None = None) -> nn.Module:
        """Build a network from a vector and a class to features.

        Args:
            inputs: the size of the vector.
            features: the network that makes the vector from x. None means that the vector is the input.
        """
        from pyrovae.networks import WithClass

        return WithClass(self.mixer(inputs + self.about.num_classes), self.about.num_classes, features)

    def make_posterior(self, network: nn.Module) -> nn.Module:
        """Build q(z | x) on a network that gives features."""
        return make_component(POSTERIORS, self.posterior, (network, self.latent_dim), self.options)

    def make_prior(self, posterior: nn.Module, num_classes: int | None = None) -> nn.Module:
        """Build p(z).

        Args:
            posterior: the model's posterior, for priors that use it, such as the VampPrior.
            num_classes: C if the posterior takes a class beside x, else None.
        """
        given = {
            "posterior": posterior,
            "x_shape": self.about.x_shape,
            "x_bounds": self._bounds,
            "num_classes": num_classes,
            "standardisation": self.standardisation,
        }
        return make_component(PRIORS, self.prior, (self.latent_dim,), self.options, given)

    def make_likelihood(self, network: nn.Module) -> nn.Module:
        """Build p(x | z) on a network that gives its parameters."""
        given = {"standardisation": self.standardisation}
        return make_component(LIKELIHOODS, self.likelihood, (network,), self.options, given)

    @property
    def pixels(self) -> Any:
        """The values that the likelihood takes: "real", "grey", "binary" or "levels" (`Plan.pixels`)."""
        return getattr(self._likelihood, "pixels", "real")

    @cached_property
    def standardisation(self) -> Standardisation | None:
        """The standardisation that likelihood, encoder and prior share. None if the data have none.

        Vectors have one if the likelihood asks for it, as a Gaussian does.
        """
        if "standardisation" not in inspect.signature(self._likelihood).parameters:
            return None
        return make_standardisation(self.about, self.options.get("standardise", True))

    @cached_property
    def _likelihood(self) -> Callable[..., Any]:
        return load_component(LIKELIHOODS, self.likelihood)

    @property
    def _bounds(self) -> tuple[float, float] | None:
        """The least and the greatest value of the data. None for vectors of any numbers."""
        if self.pixels == "real" and len(self.about.x_shape) == 1:
            return None
        return (0.0, 255.0) if self.pixels == "levels" else (0.0, 1.0)

    def _encoding(self, out_shape: int, role: str) -> nn.Module:
        """Build a network of the data, which standardises them if they have a standardisation."""
        from pyrovae.networks import Standardised

        network = self._network(self.about.x_shape, out_shape, role)
        return network if self.standardisation is None else Standardised(network, self.standardisation)

    def _network(self, in_shape: Any, out_shape: Any, role: str) -> nn.Module:
        given = {"width": self.width, "role": role}
        return make_component(NETWORKS, self.network, (in_shape, out_shape), self.options, given)


def make_standardisation(about: About, standardise: bool) -> Standardisation | None:
    """Build the standardisation of the data. Images, and data as they are, have none.

    Args:
        about: the facts about the data.
        standardise: whether vectors are standardised.
    """
    from pyrovae.networks import Standardisation

    if not standardise or len(about.x_shape) != 1:
        return None
    return Standardisation(about.x_shape, about.column_names)


def make_objective(name: str, options: Mapping[str, Any]) -> AnyObjective:
    """Build an objective by its name in the table of objectives, or `"file.py:Name"`."""
    made: AnyObjective = make_component(OBJECTIVES, name, (), options)
    return made


def make_component(
    table: Table[Any],
    name: str,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Call a component with the arguments of its kind, its options and the parts that it asks for.

    A keyword-only parameter with a default is an option. One without a default asks for a part of the
    model: the VampPrior, for example, asks for the posterior.

    Args:
        table: the table of its kind.
        name: its name in the table, or `"file.py:Name"`.
        arguments: the positional arguments of its kind, such as `(network, latent_dim)`.
        options: the values of options by name. Those of other components are ignored.
        given: the parts that it may ask for, by name.

    Raises:
        OptionError: it asks for a part that is not in `given`, or does not take its kind's arguments.
    """
    component = load_component(table, name)
    chosen = {}
    for parameter in inspect.signature(component).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.default is parameter.empty:
            if parameter.name not in (given or {}):
                raise OptionError(
                    f"the {table.kind} {name} asks for {parameter.name!r}, a keyword-only parameter "
                    f"without a default, but a {table.kind} may ask for "
                    f"{', '.join(given or {}) or 'nothing'}: give the parameter a default, which makes it "
                    "an option."
                )
            chosen[parameter.name] = (given or {})[parameter.name]
        elif parameter.name in options:
            chosen[parameter.name] = options[parameter.name]
    try:
        inspect.signature(component).bind(*arguments, **chosen)
    except TypeError as error:
        kinds = ", ".join(type(argument).__name__ for argument in arguments)
        raise OptionError(
            f"{name} cannot be called as a {table.kind}, with {len(arguments)} positional arguments "
            f"({kinds}): {error}. Check that it is a {table.kind}, and its parameters."
        ) from None
    return component(*arguments, **chosen)


def start_at_data(likelihood: Any, prior: Any = None, seed: int = 0) -> Callable[[Tensor], None]:
    """Make a `Stage.start` that lets training begin near the data.

    A standardisation of the likelihood is set to the mean and scale of each column. The likelihood's pixels
    start at their frequencies in the data. A prior that has `start_at`, such as the VampPrior, starts at
    data drawn at random.

    Args:
        likelihood: the likelihood. It stays as it is if it or its network cannot start at frequencies.
        prior: the prior. One without `start_at` stays as it is.
        seed: the seed of the random choice of data.
    """

    def start(x: Tensor) -> None:
        from pyrovae.compute.devices import seeded

        if getattr(likelihood, "standardisation", None) is not None:
            likelihood.standardisation.start_at(x)
        if _can_start_at_marginals(likelihood):
            likelihood.start_at_marginals(x)
        if hasattr(prior, "start_at"):
            with seeded(seed):
                prior.start_at(x)

    return start


def _can_start_at_marginals(likelihood: Any) -> bool:
    """Whether a likelihood and its network support `start_at_marginals`. A user's own may not."""
    from pyrovae.likelihoods import Likelihood as Base
    from pyrovae.networks import output_bias_of

    if not isinstance(likelihood, Base):
        return hasattr(likelihood, "start_at_marginals")
    defined = type(likelihood).output_at_marginals is not Base.output_at_marginals
    return defined and output_bias_of(likelihood.network) is not None
