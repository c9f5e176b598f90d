from .estimator import SemiSupervisedVAEClassifier

__all__ = ["SemiSupervisedVAEClassifier"]
