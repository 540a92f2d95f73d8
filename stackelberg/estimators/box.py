"""Estimators where an action lies in a Box and the game is of no known form."""

from stackelberg.config import EstimatorName
from stackelberg.estimators.evidence import Estimator
from stackelberg.estimators.zeroth_order import es, spsa

BOX: dict[EstimatorName, Estimator] = {"spsa": spsa, "es": es}
