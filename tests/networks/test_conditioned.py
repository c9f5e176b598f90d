"""Networks with several inputs: WithClass and Joined."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.networks import MLP, Joined, WithClass

LATENT, CLASSES = 3, 2


def test_a_class_is_put_beside_whatever_leads():
    """As in enumeration: classes (C, 1) beside data (B, M) are C x B calls."""
    network = WithClass(MLP(LATENT + CLASSES, 4), CLASSES).double()
    z = torch.randn(5, LATENT).double()
    every = network(z, torch.arange(CLASSES)[:, None])
    assert every.shape == (CLASSES, 5, 4)
    for label in range(CLASSES):
        alone = network(z, torch.full((5,), label))
        torch.testing.assert_close(every[label], alone)
    assert not torch.equal(every[0], every[1])


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_class_that_a_network_does_not_have_is_refused(label):
    network = WithClass(MLP(LATENT + CLASSES, 4), CLASSES)
    with pytest.raises(InputError, match=f"from {label} to {label};.*from 0 to 1"):
        network(torch.zeros(3, LATENT), torch.full((3,), label))


def test_what_is_joined_enters_through_its_own_part_side_by_side():
    last, image = MLP(6 + 2, 4).double(), MLP((2, 3), 6).double()
    network = Joined(last, image, None)
    x, z = torch.randn(7, 2, 3).double(), torch.randn(7, 2).double()
    assert network.out_shape == (4,)
    assert network.output_bias is last.output_bias
    torch.testing.assert_close(network(x, z), last(torch.cat([image(x), z], -1)))


def test_leading_dimensions_of_what_is_joined_broadcast():
    """As under particles: z2 (K, B, M2) beside x (B, *x_shape)."""
    network = Joined(MLP(6 + 2, 4), MLP((2, 3), 6), None).double()
    x, z = torch.randn(7, 2, 3).double(), torch.randn(5, 7, 2).double()
    out = network(x, z)
    assert out.shape == (5, 7, 4)
    for particle in range(5):
        torch.testing.assert_close(out[particle], network(x, z[particle]))


def test_an_image_is_encoded_once_for_all_particles():
    image = MLP((2, 3), 6)
    seen = []
    image.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    Joined(MLP(6 + 2, 4), image, None)(torch.zeros(7, 2, 3), torch.zeros(5, 7, 2))
    assert seen == [(7, 2, 3)]


def test_what_cannot_be_joined_is_refused():
    network = Joined(MLP(5, 4), None, None)
    with pytest.raises(InputError, match=r"2 parts.*1 tensors"):
        network(torch.zeros(7, 3))
    with pytest.raises(InputError, match=r"shapes \(7, 3\) and \(6, 2\)"):
        network(torch.zeros(7, 3), torch.zeros(6, 2))
    with pytest.raises(InputError, match=r"\(\*, 5\).*\(7, 6\)"):
        network(torch.zeros(7, 3), torch.zeros(7, 3))
