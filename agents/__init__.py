"""Leaders and followers."""

from agents.exact import ExactFollower
from agents.leaders import BoxDesign, MLPCategorical, SoftmaxBudget, TabularSoftmax, default_leader

__all__ = [
    "BoxDesign",
    "ExactFollower",
    "MLPCategorical",
    "SoftmaxBudget",
    "TabularSoftmax",
    "default_leader",
]
