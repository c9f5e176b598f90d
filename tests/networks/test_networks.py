"""Networks: shapes in, shapes out, whatever stands in front."""

import pytest
import torch
from torch import nn

from pyrovae.errors import InputError
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP, ResidualMLP

NETWORKS = {
    "mlp": lambda: MLP((2, 3), (4, 2), hidden=(5, 6)),
    "affine map": lambda: MLP(3, 4, hidden=()),
    "gated": lambda: GatedMLP((2, 3), (4, 2), hidden=(5, 6)),
    "gated features": lambda: GatedMLP((2, 3), 4, hidden=(5,), gated_output=True),
    "residual": lambda: ResidualMLP((2, 3), 4, width=5, blocks=2),
    "encoder 8": lambda: ConvEncoder((1, 8, 8), 3, channels=2),
    "encoder 28": lambda: ConvEncoder((1, 28, 28), (3, 2), channels=2),
    "encoder 32": lambda: ConvEncoder((3, 32, 32), 5, channels=2),
    "encoder odd": lambda: ConvEncoder((2, 7, 10), 5, channels=2),
    "decoder 8": lambda: ConvDecoder(3, (1, 8, 8), channels=2),
    "decoder 28": lambda: ConvDecoder((3, 2), (1, 28, 28), channels=2),
    "decoder 32": lambda: ConvDecoder(5, (3, 32, 32), channels=2),
    "decoder odd": lambda: ConvDecoder(5, (2, 7, 10), channels=2),
}


@pytest.fixture(params=NETWORKS, ids=str)
def network(request):
    return NETWORKS[request.param]().double()


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_any_leading_dimensions_pass_through(network, leading):
    out = network(torch.randn(*leading, *network.in_shape).double())
    assert out.shape == (*leading, *network.out_shape)


def test_each_particle_of_each_datum_is_mapped_on_its_own(network):
    x = torch.randn(2, 3, *network.in_shape).double()
    one_by_one = torch.stack([torch.stack([network(datum) for datum in particle]) for particle in x])
    torch.testing.assert_close(network(x), one_by_one)


def test_the_output_depends_on_every_input_and_every_parameter(network):
    x = torch.randn(4, *network.in_shape, requires_grad=True, dtype=torch.double)
    network(x).square().sum().backward()
    assert (x.grad != 0).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 1e-8, name


def test_another_shape_is_refused_naming_both(network):
    shape = (*network.in_shape[:-1], network.in_shape[-1] + 1)
    wanted = ", ".join(map(str, network.in_shape))
    with pytest.raises(InputError) as error:
        network(torch.zeros(4, *shape).double())
    assert f"(*, {wanted})" in str(error.value)
    assert str((4, *shape)) in str(error.value)


def test_an_mlp_without_hidden_layers_is_an_affine_map():
    network = MLP(3, 4, hidden=()).double()
    x = torch.randn(5, 3).double()
    weight, bias = network.parameters()
    torch.testing.assert_close(network(x), x @ weight.T + bias)


def test_a_residual_block_adds_to_what_passes_by_it():
    network = ResidualMLP(3, 4, width=5, blocks=2).double()
    with torch.no_grad():
        for branch in network.blocks:
            branch[-1].weight.zero_()
            branch[-1].bias.zero_()
    x = torch.randn(5, 3).double()
    torch.testing.assert_close(network(x), network.last(network.first(x)))


@pytest.mark.parametrize(("side", "smallest"), [(28, 7), (32, 4), (8, 4), (7, 7)])
def test_convolutions_halve_while_the_side_is_even_and_above_four(side, smallest):
    convolutions = ConvEncoder((1, side, side), 2, channels=2).layers[:-2]
    assert convolutions(torch.zeros(1, 1, side, side)).shape[-2:] == (smallest, smallest)


@pytest.mark.parametrize("make", [lambda: ConvEncoder((64,), 2), lambda: ConvDecoder(2, (8, 8))])
def test_a_convolutional_network_refuses_what_is_no_image(make):
    with pytest.raises(InputError, match=r"\(C, H, W\)"):
        make()


def test_the_activation_follows_each_hidden_layer_only():
    network = MLP(3, 4, hidden=(5, 6), activation=nn.Tanh)
    kinds = [type(layer) for layer in network.layers]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_a_gated_layer_is_a_linear_map_times_a_sigmoid():
    network = GatedMLP(3, 4, hidden=(5,)).double()
    x = torch.randn(6, 3).double()
    hidden, last = network.layers
    (w, v), (b, c) = hidden[0].weight.chunk(2), hidden[0].bias.chunk(2)
    h = (x @ w.T + b) / (1 + (-(x @ v.T + c)).exp())
    torch.testing.assert_close(network(x), h @ last.weight.T + last.bias)
    assert network.output_bias is last.bias
    features = GatedMLP(3, 4, hidden=(), gated_output=True).double()
    (w, v), (b, c) = features.layers[0][0].weight.chunk(2), features.layers[0][0].bias.chunk(2)
    torch.testing.assert_close(features(x), (x @ w.T + b) / (1 + (-(x @ v.T + c)).exp()))
    assert features.output_bias is None


def test_gated_layers_keep_the_size_of_what_passes():
    x = torch.randn(500, 300)
    out = GatedMLP(300, 300, hidden=(300, 300), gated_output=True)(x)
    assert 0.3 < out.square().mean().sqrt() < 1.0


# Joined
