"""Leaders and followers."""

from agents.exact import ExactFollower
from agents.leaders import BoxDesign, MLPCategorical, SoftmaxBudget, TabularSoftmax, default_leader
from agents.soft_q import SoftQConfig, SoftQFollower

__all__ = [
    "BoxDesign",
    "ExactFollower",
    "MLPCategorical",
    "SoftQConfig",
    "SoftQFollower",
    "SoftmaxBudget",
    "TabularSoftmax",
    "default_leader",
]
