"""Leaders and followers."""

from agents.exact import ExactFollower
from agents.leaders import (
    BoxDesign,
    FreeDesign,
    LinearGaussian,
    MLPCategorical,
    MLPDeterministic,
    MLPGaussian,
    SoftmaxBudget,
    TabularSoftmax,
    default_leader,
)
from agents.learning import LearningConfig, NetworkConfig
from agents.sac import DiscreteSACFollower, SACFollower
from agents.soft_q import SoftQConfig, SoftQFollower

__all__ = [
    "BoxDesign",
    "DiscreteSACFollower",
    "ExactFollower",
    "FreeDesign",
    "LearningConfig",
    "LinearGaussian",
    "MLPCategorical",
    "MLPDeterministic",
    "MLPGaussian",
    "NetworkConfig",
    "SACFollower",
    "SoftQConfig",
    "SoftQFollower",
    "SoftmaxBudget",
    "TabularSoftmax",
    "default_leader",
]
