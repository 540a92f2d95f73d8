"""Leaders and followers."""

from agents.config import LearningConfig, NetworkConfig, SoftQConfig
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
from agents.sac import DiscreteSACFollower, SACFollower
from agents.soft_q import SoftQFollower

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
