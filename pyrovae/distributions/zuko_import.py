"""Zuko, imported without its side effect.

`import zuko` switches off the validation of torch's distributions in the whole process, the user's own
included. Here it is put back as it was; everything in pyrovae that uses Zuko imports it from here.
"""

from __future__ import annotations

from torch.distributions import Distribution

_validating = Distribution._validate_args

import zuko  # type: ignore[import-untyped]  # noqa: E402

Distribution.set_default_validate_args(_validating)

__all__ = ["zuko"]
