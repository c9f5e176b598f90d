"""Amortised flows: modules that turn the encoder's normal distribution into a richer posterior.

`flow(context)` returns transforms f_1, ..., f_K whose parameters depend on the datum:

    z_0 ~ N(loc(x), diag(scale(x)^2)),   z_k = f_k(z_k-1; context(x)),
    log q(z_K | x) = log N(z_0) - sum_k log |det df_k / dz_k-1|         (Rezende & Mohamed 2015, equation 7)

A posterior scores what it has just drawn. So the cheap direction of each flow here is the one from z_0 to
z_K. Any other z is scored through the inverse:

| flow                  | `has_inverse` | cost of the inverse                          |
| --------------------- | ------------- | -------------------------------------------- |
| Planar, Radial        | no            |                                              |
| Sylvester             | no            |                                              |
| Householder           | yes           | that of the flow                             |
| ConvexCombination     | yes           | a triangular system                          |
| SplineCoupling        | yes           | two passes of a network for each step        |
| InverseAutoregressive | yes           | M passes of a network for each step, in turn |

The context holds the parameters of the transforms themselves (Planar, Radial, Householder,
ConvexCombination, Sylvester), or it is an input of networks that the flow owns (InverseAutoregressive,
SplineCoupling).

A flow of your own is a subclass of `Flow`; `planar.py` is a short one to start from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
