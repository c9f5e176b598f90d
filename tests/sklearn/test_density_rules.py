"""The estimators without labels keep scikit-learn's conventions, by scikit-learn's own checks."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyrovae import PPCAOutlierDetector, PPCATransformer, VAEOutlierDetector, VAETransformer

SMALL = {
    "latent_dim": 1,
    "width": 8,
    "batch_size": 100,
    "epochs": 1,
    "rate_warm_up": 0.0,  # the first step learns
    "num_samples": 5,
    "device": "cpu",
}

NOT_OF_A_VAE = {
    "check_methods_sample_order_invariance": "draws estimate log p(x), and depend on the place in X",
    "check_methods_subset_invariance": "draws estimate log p(x), and depend on the place in X",
    "check_sample_weight_equivalence_on_dense_data": "each repetition of a datum has draws of its own",
    "check_sample_weight_equivalence_on_sparse_data": "each repetition of a datum has draws of its own",
}
NOT_OF_PPCA = {
    "check_estimators_pickle": "fits data with NaN; these methods take NaN, but the closed form needs all "
    "values",
}


@pytest.mark.filterwarnings("ignore:k-hat is above", "ignore:.*constant in the training data")
@parametrize_with_checks(
    [VAETransformer(**SMALL), PPCATransformer(1), VAEOutlierDetector(**SMALL), PPCAOutlierDetector(1)],
    expected_failed_checks=lambda each: NOT_OF_PPCA if "PPCA" in type(each).__name__ else NOT_OF_A_VAE,
)
def test_they_keep_scikit_learns_rules(estimator, check):
    check(estimator)
