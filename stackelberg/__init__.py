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
    from stackelberg.evaluation import evaluate
    from stackelberg.evaluation_result import EvaluationResult
    from stackelberg.frozen import SavedLeader, load_leader
    from stackelberg.game import Budget, Game
    from stackelberg.grid import Grid
    from stackelberg.parallel import from_parallel_env
    from stackelberg.search import Solution, solve

_WHERE = {
    "BestKnown": "best_known",
    "Budget": "game",
    "Coordinator": "coordinator",
    "EvaluationResult": "evaluation_result",
    "Finding": "check",
    "Game": "game",
    "Grid": "grid",
    "InputError": "errors",
    "Result": "coordinator",
    "SavedLeader": "frozen",
    "Solution": "search",
    "TrainConfig": "config",
    "check_game": "check",
    "evaluate": "evaluation",
    "from_parallel_env": "parallel",
    "load_leader": "frozen",
    "parallel_env": "environment",
    "solve": "search",
}

__all__ = [
    "BestKnown",
    "Budget",
    "Coordinator",
    "EvaluationResult",
    "Finding",
    "Game",
    "Grid",
    "InputError",
    "Result",
    "SavedLeader",
    "Solution",
    "TrainConfig",
    "check_game",
    "evaluate",
    "from_parallel_env",
    "load_leader",
    "parallel_env",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line's help does not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
