"""Leaders and followers.

`leaders` and `box_leaders` have the former. Of the latter `exact` plans; `soft_q` and `sac` learn
by the loop in `learning`. What of that needs Tianshou has a name that begins with `tianshou_`:
importing it takes seconds, which a follower does when it first learns.
"""

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
