"""What a network has to beat: predictors without one.

In: features (N, D) and ratings (N, k). Out: fitted models, predictions (N, k).
"""

import numpy as np
from sklearn.linear_model import Ridge

RIDGE_ALPHAS = 10.0 ** np.arange(0, 5.1, 0.5)


def fit_ridge(x: np.ndarray, y: np.ndarray, train: np.ndarray, validation: np.ndarray) -> list[Ridge]:
    """Fit one ridge regression per target on standardised x, its penalty chosen on the validation clips."""
    models = []
    for column in y.T:
        tried = [Ridge(alpha).fit(x[train], column[train]) for alpha in RIDGE_ALPHAS]
        errors = [np.mean((m.predict(x[validation]) - column[validation]) ** 2) for m in tried]
        models.append(tried[int(np.argmin(errors))])
    return models
