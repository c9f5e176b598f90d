"""Zuko, imported without its side effect.

`import zuko` switches off the validation of torch's distributions in the whole process, in the user's own
code too. This module puts the setting back. All of pyrovae imports Zuko from here.
"""

from __future__ import annotations

from torch.distributions import Distribution

_validating = Distribution._validate_args

import zuko  # type: ignore[import-untyped]  # noqa: E402 (Zuko ships no types)

Distribution.set_default_validate_args(_validating)

__all__ = ["zuko"]
