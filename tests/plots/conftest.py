"""Points in the plane with their classes."""

import pytest
import torch


@pytest.fixture
def z():
    return torch.randn(60, 2)


@pytest.fixture
def y():
    return torch.arange(60) % 3
