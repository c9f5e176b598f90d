from .conditioned import Joined, WithClass
from .convolutional import ConvDecoder, ConvEncoder
from .gated import GatedMLP
from .mlp import MLP
from .residual import ResidualMLP
from .shapes import Shape, as_shape, check_event, features_of, out_shape_of, output_bias_of
from .standardisation import Standardisation, Standardised, centre_of
from .with_weights import WithWeights

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "Joined",
    "ResidualMLP",
    "Shape",
    "Standardisation",
    "Standardised",
    "WithClass",
    "WithWeights",
    "as_shape",
    "centre_of",
    "check_event",
    "features_of",
    "out_shape_of",
    "output_bias_of",
]
