"""Random games for property tests: each is made from a recipe that hypothesis draws and prints."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import strategies as st
from torch import Tensor

from games.tabular import TabularDesign, TabularGame

TRANSITIONS = ("dirichlet", "sparse", "deterministic")
TERMINATIONS = ("never", "on arrival", "on leaving", "anywhere")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a random game."""

    seed: int = 0
    states: int = 3
    leader_actions: int = 2  # of a game in which the leader moves at every step
    follower_actions: int = 2
    dimension: int = 2  # of the design, where the leader moves once
    transitions: str = "dirichlet"
    termination: str = "never"
    leader_discount: float = 0.9
    follower_discount: float = 0.9
    temperature: float = 0.5
    observes: bool = True  # does the follower observe the leader's action?
    moves_transition: bool = True  # does the design move the transition, too?

    def settings(self) -> dict:
        return {
            "leader_discount": self.leader_discount,
            "follower_discount": self.follower_discount,
            "temperature": self.temperature,
            "horizon": 8,
        }


def random_rows(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Distributions over the last dimension of `shape`."""
    rows = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    sure = np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]
    if kind == "deterministic":
        return sure
    if kind == "sparse":
        rows = rows * np.maximum(rng.random(shape) < 0.5, sure > 0)
        rows /= rows.sum(-1, keepdims=True)
    return rows


def random_termination(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """A chance to end the game for the transitions `shape` [S, ..., S]; None for "never"."""
    states = shape[-1]
    if kind == "on arrival":
        return (rng.random(states) < 0.4).astype(float)
    if kind == "on leaving":
        return 0.6 * rng.random((states, *[1] * (len(shape) - 1)))
    if kind == "anywhere":
        return 0.6 * rng.random(shape)
    return None


def random_game(recipe: Recipe) -> TabularGame:
    """A game in which the leader moves at every step."""
    rng = np.random.default_rng(recipe.seed)
    shape = (recipe.states, recipe.leader_actions, recipe.follower_actions)
    return TabularGame(
        random_rows(rng, (*shape, recipe.states), recipe.transitions),
        rng.normal(size=shape),
        rng.normal(size=shape),
        initial=random_rows(rng, (recipe.states,), "sparse"),
        termination=random_termination(rng, recipe.termination, (*shape, recipe.states)),
        follower_observes_action=recipe.observes,
        **recipe.settings(),
    )


def random_design_game(recipe: Recipe) -> TabularDesign:
    """A game with a design in [-1, 1]^d that moves both rewards and, if asked, the transition."""
    rng = np.random.default_rng(recipe.seed)
    shape = (recipe.states, recipe.follower_actions)
    full = (*shape, recipe.states)
    kernel = random_rows(rng, full, recipe.transitions)

    def moved(base: np.ndarray, strength: float):
        slope = torch.from_numpy(strength * rng.normal(size=(recipe.dimension, *base.shape)))
        return lambda x: torch.from_numpy(base) + torch.tensordot(x.to(slope), slope, 1)

    leader_reward = moved(rng.normal(size=shape), 1.0)
    follower_reward = moved(rng.normal(size=shape), 1.0)
    with np.errstate(divide="ignore"):
        logits = moved(np.log(kernel), 0.5)
    return TabularDesign(
        spaces.Box(-1.0, 1.0, (recipe.dimension,), np.float64),
        (lambda x: torch.softmax(logits(x), -1)) if recipe.moves_transition else kernel,
        lambda x: torch.tanh(leader_reward(x)),
        follower_reward,
        initial=random_rows(rng, (recipe.states,), "sparse"),
        termination=random_termination(rng, recipe.termination, full),
        **recipe.settings(),
    )


def random_policies(count: int, *shape: int, seed: int = 0) -> Tensor:
    """[count, *shape]: distributions over the last dimension, from uniform to nearly sure."""
    rng = np.random.default_rng([seed, 1])
    scale = rng.choice([0.0, 1.0, 4.0], size=(count, *[1] * len(shape)))
    return torch.softmax(torch.from_numpy(scale * rng.normal(size=(count, *shape))), -1)


def random_designs(game: TabularDesign, count: int, seed: int = 0) -> Tensor:
    """[count, d] inside the design space."""
    space = copy.deepcopy(game.leader_space)
    space.seed(seed)
    return torch.from_numpy(np.stack([space.sample() for _ in range(count)])).double()


def discounts() -> st.SearchStrategy[tuple[float, float]]:
    """Both discounts, as often equal as not."""
    value = st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.9, 0.95])
    equal = value.map(lambda d: (d, d))
    return st.one_of(equal, st.tuples(value, value))


@st.composite
def recipes(draw: st.DrawFn, max_states: int = 6, max_actions: int = 4) -> Recipe:
    leader_discount, follower_discount = draw(discounts())
    return Recipe(
        seed=draw(st.integers(0, 2**32 - 1)),
        states=draw(st.integers(1, max_states)),
        leader_actions=draw(st.integers(1, max_actions)),
        follower_actions=draw(st.integers(1, max_actions)),
        dimension=draw(st.integers(1, 5)),
        transitions=draw(st.sampled_from(TRANSITIONS)),
        termination=draw(st.sampled_from(TERMINATIONS)),
        leader_discount=leader_discount,
        follower_discount=follower_discount,
        temperature=draw(st.sampled_from([0.05, 0.1, 0.3, 1.0, 2.0])),
        observes=draw(st.booleans()),
        moves_transition=draw(st.booleans()),
    )


def tabular_games(max_states: int = 6, max_actions: int = 4) -> st.SearchStrategy[TabularGame]:
    """Games in which the leader moves at every step."""
    return st.builds(random_game, recipes(max_states, max_actions))


def design_games(max_states: int = 6, max_actions: int = 4) -> st.SearchStrategy[TabularDesign]:
    """Games in which the leader moves once."""
    return st.builds(random_design_game, recipes(max_states, max_actions))
