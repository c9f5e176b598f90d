"""Networks: plain modules from tensors to tensors. They know nothing of probability.

Every network accepts any leading dimensions: it maps `(*leading, *in_shape)` to `(*leading, *out_shape)`.
Particles and enumerated classes are leading dimensions like the minibatch.

A network of your own needs the attribute `out_shape`, the event shape of its output. It may have the
property `output_bias`, the bias of its last layer, which `Likelihood.start_at_marginals` sets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
