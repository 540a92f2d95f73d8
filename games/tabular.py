"""Games given as arrays: batched stepping and exact oracles for free."""

from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from games.arrays import Array, ArrayOrFunction, Latest, Parts, array, listed
from stackelberg.errors import InputError
from stackelberg.game import Game, Step
from stackelberg.model import TabularModel, check_distribution, check_finite, closed_classes


class _Tabular(Game):
    """What both kinds of tabular game share: states are indices, observed one-hot."""

    one_hot = True
    _model: TabularModel

    def _describe(self, states: int, follower_actions: int) -> None:
        self.states = states
        self.follower_space = spaces.Discrete(follower_actions)
        self.observation_space = spaces.Box(0.0, 1.0, (states,), np.float32)
        self._units = torch.eye(states)

    def observe(self, state: Tensor) -> Tensor:
        return self._units[state]

    def at_temperature(self, temperature: float) -> "_Tabular":
        other = cast(_Tabular, super().at_temperature(temperature))
        other._model = replace(self._model, temperature=other.temperature)
        return other

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self._model.initial, n, replacement=True, generator=generator)


class TabularGame(_Tabular):
    """A Markov game in arrays, in which the leader acts at every step.

    Args:
        transition: P(s'|s,a,b) [S, A, B, S]; rows sum to 1.
        leader_reward, follower_reward: r(s,a,b) [S, A, B], of size 1 where they do not depend on an
            index; or one number.
        initial: distribution of the first state [S]; state 0 unless given.
        termination: probability that the game ends with the transition (s,a,b,s') [S, A, B, S]; a
            vector [S] of 0 and 1 marks terminal states (play ends on arrival), shape [S, 1, 1, 1]
            ends it on leaving s; or one number. Never unless given.
        settings: see `stackelberg.game.Game`.

    Raises:
        InputError: for a wrong shape, rows that do not sum to 1, entries that are not finite, or a
            setting out of its range.
    """

    leader_moves: ClassVar = "every step"

    def __init__(
        self,
        transition: Array,
        leader_reward: Array,
        follower_reward: Array,
        initial: Array | None = None,
        termination: Array | None = None,
        *,
        name: str = "tabular",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.name = name
        kernel = _kernel("transition", transition, "[S, A, B, S]")
        states, leader_actions, follower_actions, _ = kernel.shape
        self._describe(states, follower_actions)
        self.leader_space = spaces.Discrete(leader_actions)
        shape = (states, leader_actions, follower_actions)
        going, ending = _split(kernel, _termination(termination, (*shape, states)))
        self._model = TabularModel(
            transition=going,
            ending=ending,
            leader_reward=_reward("leader_reward", leader_reward, shape),
            follower_reward=_reward("follower_reward", follower_reward, shape),
            initial=_initial(initial, states),
            leader_discount=self.leader_discount,
            follower_discount=self.follower_discount,
            temperature=self.temperature,
            follower_observes_action=self.follower_observes_action,
            classes=closed_classes(kernel),
        )

    def model(self, design: Tensor | None = None) -> TabularModel:
        return self._model

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        return self._outcomes.step(0, state, leader_action, follower_action, generator)

    @cached_property
    def _outcomes(self) -> "_Outcomes":
        return _Outcomes(self._model, 1)


class TabularDesign(_Tabular):
    """MDP design in arrays: the leader moves once, and its design shapes what the follower meets.

    Each array but `initial` is given as it is, or as a function of the designs of M leaders: a
    tensor [M, d] in, a tensor [M, ...] out, written in torch so that it has a derivative.

    Args:
        design_space: a `gymnasium.spaces.Box` of shape (d,), or a `stackelberg.Budget`.
        transition: P(s'|s,b) [S, B, S]. leader_reward, follower_reward: r(s,b) [S, B].
        initial: distribution of the first state [S]; state 0 unless given.
        termination: as for `TabularGame`: [S, B, S], a vector [S] (play ends on arrival, so what
            its states would pay is never met), [S, 1, 1] to end it on leaving s, or one number.
        simulated_transition: another P [S, B, S] that play follows while oracles and followers
            use `transition`; only to reproduce published mismatches.
        settings: see `stackelberg.game.Game`.

    Raises:
        InputError: as for `TabularGame`; functions are tried at both ends of the design space and
            in its middle.
    """

    leader_moves: ClassVar = "once"

    def __init__(
        self,
        design_space: spaces.Box,
        transition: ArrayOrFunction,
        leader_reward: ArrayOrFunction,
        follower_reward: ArrayOrFunction,
        initial: Array | None = None,
        termination: Array | None = None,
        *,
        simulated_transition: Array | None = None,
        name: str = "design",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.name = name
        self._parts = parts = Parts(
            design_space,
            transition=transition,
            leader_reward=leader_reward,
            follower_reward=follower_reward,
        )
        self.leader_space, self.moves_transition = design_space, callable(transition)
        for part in parts.functions:
            check = check_distribution if part == "transition" else check_finite
            check(part, parts.tried[part])
        kernel = _kernel("transition", parts.middle("transition"), "[S, B, S]")
        states, actions = kernel.shape[-1], kernel.shape[-2]
        self._describe(states, actions)
        self._stepped: Latest[tuple[_Outcomes, Tensor]] = Latest()
        rewards = {}
        for part in ("leader_reward", "follower_reward"):
            if part in parts.functions:
                _check_whole(part, parts.middle(part), (states, actions))
            rewards[part] = _reward(part, parts.middle(part), (states, actions))
        self._termination = _termination(termination, (states, actions, states))
        self._simulated = None
        if simulated_transition is not None:
            self._simulated = _simulated(simulated_transition, kernel, callable(transition))
        self._model = TabularModel(
            transition=kernel,
            leader_reward=rewards["leader_reward"],
            follower_reward=rewards["follower_reward"],
            initial=_initial(initial, states),
            leader_discount=self.leader_discount,
            follower_discount=self.follower_discount,
            temperature=self.temperature,
            classes=1 if self.moves_transition else closed_classes(self._led(kernel)),
        )

    def _led(self, kernel: Tensor) -> Tensor:
        """Where states lead, in planning or in play."""
        return kernel if self._simulated is None else kernel + self._simulated

    def model(self, design: Tensor | None = None) -> TabularModel:
        return self._under(design, self._model.transition)

    def simulated_model(self, design: Tensor | None = None) -> TabularModel:
        kernel = self._model.transition if self._simulated is None else self._simulated
        return self._under(design, kernel)

    def _under(self, design: Tensor | None, kernel: Tensor) -> TabularModel:
        """The arrays under the designs [M, d], with a single leader action."""
        arrays = {
            "transition": kernel,
            "leader_reward": self._model.leader_reward,
            "follower_reward": self._model.follower_reward,
        } | self._parts.under(design)
        going, ending = _split(arrays["transition"], self._termination)
        return replace(
            self._model,
            transition=going.unsqueeze(-3),
            ending=None if ending is None else ending.unsqueeze(-3),
            leader_reward=arrays["leader_reward"].unsqueeze(-2),
            follower_reward=arrays["follower_reward"].unsqueeze(-2),
        )

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        outcomes, which = self._stepped.of(leader_action, self._outcomes_of)
        return outcomes.step(which, state, 0, follower_action, generator)

    def _outcomes_of(self, designs: Tensor, which: Tensor) -> tuple["_Outcomes", Tensor]:
        """What steps under the designs [U, d] draw from, and which of them each row has [n]."""
        return _Outcomes(self.simulated_model(designs).detach(), len(designs)), which


# ---------------------------------------------------------------- stepping


class _Outcomes:
    """Draws (s', ended) given (s, a, b) by binary search in one sorted array.

    Args:
        model: arrays [S, A, B, S], or [U, S, A, B, S] of U designs. designs: U.
    """

    def __init__(self, model: TabularModel, designs: int) -> None:
        self.model, self.states = model, model.states
        total = model.transition
        if model.ending is not None:
            total = torch.cat([total, model.ending], -1)
        shape = (designs, self.states, model.leader_actions, model.follower_actions)
        cumulative = total.expand(*shape, -1).flatten(0, 3).cumsum(-1)
        cumulative = cumulative / cumulative[:, -1:]
        self.outcomes = cumulative.shape[1]
        self.sorted = (cumulative + torch.arange(len(cumulative)).unsqueeze(1)).flatten()
        rewards = model.leader_reward, model.follower_reward
        self.rewards = [reward.expand(shape).flatten() for reward in rewards]

    def step(
        self,
        design: Tensor | int,
        state: Tensor,
        leader_action: Tensor | int,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        """One step at indices [n]."""
        row = (design * self.states + state) * self.model.leader_actions + leader_action
        row = row * self.model.follower_actions + follower_action
        noise = torch.rand(len(state), generator=generator, dtype=torch.float64)
        found = torch.searchsorted(self.sorted, row + noise.clamp(max=1 - 1e-9), right=True)
        outcome = found - row * self.outcomes
        leader_reward, follower_reward = (reward[row] for reward in self.rewards)
        return Step(outcome % self.states, leader_reward, follower_reward, outcome >= self.states)


def _split(kernel: Tensor, termination: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The parts of a transition that go on and that end the game."""
    if termination is None:
        return kernel, None
    return kernel * (1 - termination), kernel * termination


# ---------------------------------------------------------------- validation


def _kernel(name: str, given: Array, form: str) -> Tensor:
    kernel = array(name, given)
    if (
        kernel.dim() != form.count(",") + 1
        or kernel.shape[0] != kernel.shape[-1]
        or not kernel.numel()
    ):
        raise InputError(
            f"{name} of shape {form}",
            f"shape {list(kernel.shape)}",
            "index it by state, action (leader's before follower's), next state",
        )
    check_distribution(name, kernel)
    return kernel


def _reward(name: str, given: Array, shape: tuple[int, ...]) -> Tensor:
    reward = array(name, given)
    check_finite(name, reward)
    return _broadcast(name, reward, shape, (0, len(shape)))


def _broadcast(
    name: str, array: Tensor, shape: tuple[int, ...], dimensions: tuple[int, ...]
) -> Tensor:
    """The array in its whole shape, if it has one of the numbers of dimensions."""
    try:
        if array.dim() in dimensions:
            return array.expand(shape).contiguous()
    except RuntimeError:
        pass
    either = {0: "a number", 1: f"a vector [{shape[-1]}]", len(shape): f"shape {list(shape)}"}
    raise InputError(
        f"{name} of a shape that fits: {' or '.join(either[n] for n in dimensions)}",
        f"shape {list(array.shape)}",
        "insert dimensions of size 1 where it does not depend on an index",
    )


def _initial(given: Array | None, states: int) -> Tensor:
    if given is None:
        return torch.nn.functional.one_hot(torch.tensor(0), states).to(torch.float64)
    initial = array("initial", given)
    if initial.shape != (states,):
        raise InputError(
            f"initial of shape [{states}]",
            f"shape {list(initial.shape)}",
            "give the probability of starting in each state",
        )
    check_distribution("initial", initial)
    return initial


def _termination(given: Array | None, shape: tuple[int, ...]) -> Tensor | None:
    if given is None:
        return None
    termination = array("termination", given)
    if not ((termination >= 0) & (termination <= 1)).all():
        raise InputError(
            "termination: probabilities in [0, 1]",
            f"values from {termination.min().item():.6g} to {termination.max().item():.6g}",
            "mark terminal states with 1 and all others with 0",
        )
    return _broadcast("termination", termination, shape, (0, 1, len(shape)))


def _check_whole(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """What a function of the design returns is not broadcast: its first dimension is M."""
    if value.shape != shape:
        raise InputError(
            f"{name}: a function from designs [M, d] to a tensor [M, {listed(shape)}]",
            f"shape [M, {listed(value.shape)}]",
            "expand it over the indices that it does not depend on",
        )


def _simulated(given: Array, kernel: Tensor, moved: bool) -> Tensor:
    simulated = _kernel("simulated_transition", given, "[S, B, S]")
    if moved or simulated.shape != kernel.shape:
        beside = "a function of the design" if moved else f"shape [{listed(kernel.shape)}]"
        raise InputError(
            "simulated_transition beside a constant transition of its shape",
            f"shape [{listed(simulated.shape)}] beside {beside}",
            "leave it out; it is there to reproduce published mismatches",
        )
    return simulated
