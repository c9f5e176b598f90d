from .base import Likelihood
from .bernoulli import Bernoulli
from .categorical import Categorical
from .continuous_bernoulli import ContinuousBernoulli
from .gaussian import Gaussian

__all__ = ["Bernoulli", "Categorical", "ContinuousBernoulli", "Gaussian", "Likelihood"]
