from .averaging import AveragedClassifier, Choice
from .labels import data_per_label, only_labels_of
from .linear_m2 import LinearM2
from .m1 import M1_CLASSIFIERS, fit_m1_classifier, m1_probabilities
from .scales import decoder_scales
from .spreading import (
    ALPHA,
    NEIGHBOURS,
    LocalNeighbours,
    SpreadLabels,
    label_spreading,
    normalise_class_mass,
    spread_labels,
)
from .weights import constraint_schedule, per_label

__all__ = [
    "ALPHA",
    "M1_CLASSIFIERS",
    "NEIGHBOURS",
    "AveragedClassifier",
    "Choice",
    "LinearM2",
    "LocalNeighbours",
    "SpreadLabels",
    "constraint_schedule",
    "data_per_label",
    "decoder_scales",
    "fit_m1_classifier",
    "label_spreading",
    "m1_probabilities",
    "normalise_class_mass",
    "only_labels_of",
    "per_label",
    "spread_labels",
]
