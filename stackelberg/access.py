"""What the leader may see of a follower: three types, each with more than the one before.

    TrajectoriesAccess   what the follower does, as it does it
    PolicyAccess         and how likely it is to do anything: log g(b|s,a)
    ValueAccess          and what it expects of its future: V_F(s,a)

What the leader learns from holds one of these in place of the follower's response: asking for more
than the level is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from stackelberg.config import Access
from stackelberg.errors import InputError, told
from stackelberg.game import Game
from stackelberg.linear_model import LinearAnswer


class Response(Protocol):
    """How the followers of M leaders act; all that a follower must have to offer is `sample`.

    It may also offer `log_prob` and `value`, of the same arguments but the generator, for leaders
    that may see them (in a Box `log_density(observation, leader_action, action)` [M, n] in place of
    `log_prob`), a best-response `gap` [M], and the environment `steps` that training took.
    """

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Follower actions [M, n] (or [M, n, e] in a Box).

        Args:
            observation: what the followers see of the state, [M, n, d].
            leader_action: what the leaders do, [M, n], -1 where a leader has left; of a design, or
                in a Box, [M, n, k]. To be left out of account where the follower does not observe
                it.
            generator: all randomness.
        """
        ...


def gap_of(response: Response, leaders: int) -> Tensor | None:
    """The followers' own best-response gap [M], if they measure one.

    Raises:
        InputError: unless it is a number, or one for each of the M leaders.
    """
    gap = getattr(response, "gap", None)
    if gap is None:
        return None
    try:
        return torch.as_tensor(gap, dtype=torch.float64).reshape(-1).expand(leaders)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"a response's gap: a number, or a tensor of {leaders}, one for each leader",
            f"{gap!r}",
            "leave it out, or set it to None, where it is not known",
        ) from error


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Whatever a user's own follower raises inside is an InputError that says what was expected."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if type(error) is ArithmeticError:  # of the oracles
            raise
        raise InputError(
            what,
            told(error),
            "call it alone in Python to see where it fails",
        ) from error


def steps_of(response: Response) -> int:
    """Environment steps that the followers' training took, per leader."""
    return getattr(response, "steps", 0)


class Stateful(Protocol):
    """What can be saved and go on from there."""

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


def keeps_state(part: Any) -> TypeGuard[Stateful]:
    """Has it methods `state` and `load`?"""
    return all(callable(getattr(part, name, None)) for name in ("state", "load"))


def state_of(follower: Any) -> dict[str, Tensor]:
    """All that a follower's later calls depend on; nothing where it starts every call afresh."""
    return follower.state() if keeps_state(follower) else {}


class TrajectoriesAccess:
    """A follower whose actions are all that the leader sees."""

    level: Access = "trajectories"
    shows: tuple[str, ...] = ("sample",)  # what a response must have

    def __init__(self, response: Any) -> None:
        check_shows(response, self.level)
        self._response = response

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """As `Response.sample`."""
        found: Tensor = self._response.sample(observation, leader_action, generator)
        return found

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """log g(b|s,a) of every follower action: [M, n, B].

        Raises:
            InputError: below access `policy`, or if the follower has no such thing to show.
        """
        raise self._refusal("the follower's policy")

    def log_density(self, observation: Tensor, leader_action: Tensor, action: Tensor) -> Tensor:
        """log g(b|s,a) [M, n] of follower actions [M, n, m] in a Box, as `log_prob`."""
        raise self._refusal("the follower's policy")

    @property
    def answer(self) -> LinearAnswer | None:
        """The gains of a linear-Gaussian follower, where it shows them."""
        return None

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """The soft value V_F(s,a): [M, n].

        Raises:
            InputError: below access `value`, or if the follower has no such thing to show.
        """
        raise self._refusal("the follower's value")

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"access that includes {what}",
            f"access '{self.level}'",
            "estimate it from trajectories, or train with a higher access level",
        )

    def _asked(self, name: str, *arguments: Tensor) -> Tensor:
        found: Tensor = getattr(self._response, name)(*arguments)
        return found


class PolicyAccess(TrajectoriesAccess):
    """A follower whose policy the leader knows."""

    level: Access = "policy"
    shows: tuple[str, ...] = ("sample", "log_prob")

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self._asked("log_prob", observation, leader_action)

    def log_density(self, observation: Tensor, leader_action: Tensor, action: Tensor) -> Tensor:
        return self._asked("log_density", observation, leader_action, action)

    @property
    def answer(self) -> LinearAnswer | None:
        return getattr(self._response, "answer", None)


class ValueAccess(PolicyAccess):
    """A follower whose values the leader knows, too."""

    level: Access = "value"
    shows: tuple[str, ...] = ("sample", "log_prob", "value")

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self._asked("value", observation, leader_action)


LEVELS: dict[Access, type[TrajectoriesAccess]] = {
    kind.level: kind for kind in (ValueAccess, PolicyAccess, TrajectoriesAccess)
}


def check_shows(response: Any, access: Access) -> None:
    """Raise InputError unless a response has what a leader with that access may ask for."""
    stands_for = {"log_prob": "log_density"}  # in a Box
    missing = [
        name
        for name in LEVELS[access].shows
        if not hasattr(response, name) and not hasattr(response, stands_for.get(name, name))
    ]
    if "sample" in missing:
        raise InputError(
            "a follower whose best_respond() returns a response, with a method sample()",
            "None" if response is None else type(response).__name__,
            "return what acts for the follower, often the follower itself: return self",
        )
    if missing:
        raise InputError(
            f"a follower's response with {' and '.join(f'{m}()' for m in missing)} at access "
            f"'{access}'",
            f"{type(response).__name__}, which has none",
            "train with access trajectories, for which sample() is enough",
        )


def restrict(response: Any, access: Access) -> TrajectoriesAccess:
    """The response as a leader with that access sees it.

    Raises:
        InputError: if it is none, or has not what that access shows.
    """
    if access not in LEVELS:
        raise InputError(f"an access level out of {', '.join(LEVELS)}", f"{access!r}", "use one")
    return LEVELS[access](response)


def policy_table(follower: TrajectoriesAccess, game: Game, leaders: int, actions: int) -> Tensor:
    """g(b|s,a) in every state of a tabular game, [M, S, A, B]."""
    return torch.stack(
        [follower.log_prob(*where) for where in _everywhere(game, leaders, actions)], 2
    ).exp()


def value_table(follower: TrajectoriesAccess, game: Game, leaders: int, actions: int) -> Tensor:
    """V_F(s,a) in every state of a tabular game, [M, S, A]."""
    return torch.stack([follower.value(*where) for where in _everywhere(game, leaders, actions)], 2)


def _everywhere(game: Game, leaders: int, actions: int) -> list[tuple[Tensor, Tensor]]:
    """Every state with each of the leader's actions: observation [M, S, d], action [M, S]."""
    states = torch.arange(game.follower_observation_space.shape[0])
    observation = game.follower_observe(states).expand(leaders, -1, -1)
    return [(observation, torch.full((leaders, len(states)), a)) for a in range(actions)]
