from .labels import data_per_label, only_labels_of
from .m1 import M1_CLASSIFIERS, fit_m1_classifier, m1_probabilities
from .spreading import LocalNeighbours, label_spreading, normalise_class_mass, spread_labels
from .weights import constraint_schedule, per_label

__all__ = [
    "M1_CLASSIFIERS",
    "LocalNeighbours",
    "constraint_schedule",
    "data_per_label",
    "fit_m1_classifier",
    "label_spreading",
    "m1_probabilities",
    "normalise_class_mass",
    "only_labels_of",
    "per_label",
    "spread_labels",
]
