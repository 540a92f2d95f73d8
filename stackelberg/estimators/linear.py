"""Estimators of linear-quadratic games."""

from stackelberg.config import EstimatorName
from stackelberg.estimators.evidence import Estimator
from stackelberg.estimators.expected import exact_oracle
from stackelberg.estimators.zeroth_order import es, spsa

LINEAR: dict[EstimatorName, Estimator] = {"spsa": spsa, "es": es, "exact": exact_oracle}
