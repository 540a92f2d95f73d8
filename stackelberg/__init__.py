"""Leader-follower (bi-level) reinforcement learning with covariance hypergradients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackelberg.best_known import BestKnown
    from stackelberg.check import Finding, check_game
    from stackelberg.config import TrainConfig
    from stackelberg.coordinator import Coordinator, Result
    from stackelberg.environment import parallel_env
    from stackelberg.errors import InputError
    from stackelberg.game import Budget, Game
    from stackelberg.parallel import from_parallel_env
    from stackelberg.search import Solution, solve

_WHERE = {
    "BestKnown": "best_known",
    "Budget": "game",
    "Coordinator": "coordinator",
    "Finding": "check",
    "Game": "game",
    "InputError": "errors",
    "Result": "coordinator",
    "Solution": "search",
    "TrainConfig": "config",
    "check_game": "check",
    "from_parallel_env": "parallel",
    "parallel_env": "environment",
    "solve": "search",
}

__all__ = [
    "BestKnown",
    "Budget",
    "Coordinator",
    "Finding",
    "Game",
    "InputError",
    "Result",
    "Solution",
    "TrainConfig",
    "check_game",
    "from_parallel_env",
    "parallel_env",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line's help does not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
