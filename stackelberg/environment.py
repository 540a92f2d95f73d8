"""Any leader-follower game as a PettingZoo ParallelEnv: one copy of it, NumPy at the edge."""

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Game

AGENTS = ("leader", "follower")
RENDER_MODES = ["rgb_array"]
SETTINGS = "stackelberg"  # the key of metadata under which an environment offers a game's settings


class Environment(ParallelEnv[str, np.ndarray, Any]):
    """A game between the agents "leader" and "follower".

    Both observe the state, as `game.observe` shows it, and act at once. A follower that moves
    after the leader, g(b | observation, leader's action), therefore gets the leader's action from
    whoever plays: draw the leader's action first, hand it to the follower, then step with both.

    Where the leader moves once, its first action of an episode is its design. The design stays for
    the whole episode, and what the leader does later in that episode is ignored.

    An episode terminates by the rules of the game and is truncated after `max_cycles` steps; its
    last step leaves `agents` empty. Who leads and the game's settings stand in `metadata`, so that
    a wrapped environment can be made a game again (`stackelberg.from_parallel_env`).

    Args:
        game: the game; any number of environments may share it.
        render_mode: "rgb_array" or None.
        max_cycles: the time limit; the game's horizon unless given.
    """

    def __init__(
        self, game: Game, render_mode: str | None = None, max_cycles: int | None = None
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(
                f"render_mode None or one of {RENDER_MODES}",
                f"{render_mode!r}",
                "leave it out to play without pictures",
            )
        if max_cycles is not None and max_cycles < 1:
            raise InputError("max_cycles >= 1", f"{max_cycles}", "give the steps per episode")
        self.game = game
        self.render_mode = render_mode
        self.max_cycles = game.horizon if max_cycles is None else max_cycles
        self.metadata = {
            "name": f"{game.name}_v0",
            "render_modes": RENDER_MODES,
            "render_fps": 10,
            "is_parallelizable": True,
            "leader_agent": AGENTS[0],
            SETTINGS: {
                "leader_discount": game.leader_discount,
                "follower_discount": game.follower_discount,
                "temperature": game.temperature,
                "horizon": self.max_cycles,
                "follower_observes_action": game.follower_observes_action,
            },
        }
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        # Copies, so that seeding the spaces of one environment leaves those of another alone.
        self.state_space = copy.deepcopy(game.observation_space)
        self._observation_spaces = {a: copy.deepcopy(game.observation_space) for a in AGENTS}
        self._action_spaces = {
            "leader": copy.deepcopy(game.leader_space),
            "follower": copy.deepcopy(game.follower_space),
        }
        self._generator = torch.Generator()
        self._generator.seed()
        self._state: Tensor | None = None
        self._design: Tensor | None = None
        self._moves: tuple[Tensor, Tensor] | None = None  # the last ones
        self._time = 0

    def observation_space(self, agent: str) -> spaces.Space:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """A new episode; `seed` decides it and all later ones, `options` are not used."""
        if seed is not None:
            self._generator.manual_seed(int(seed))
        self.agents = list(AGENTS)
        self._state = self.game.initial(1, self._generator)
        self._design = self._moves = None
        self._time = 0
        return self._observations(), _for_both({})

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[
        dict[str, np.ndarray],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """One step with the actions of both agents.

        Raises:
            InputError: for an action outside its space, or when no episode is under way.
        """
        if self._state is None or not self.agents:
            raise InputError(
                "reset() before step()", "a step with no episode under way", "call reset()"
            )
        leader_action = self._leader_action(actions)
        follower_action = self._action("follower", actions)
        outcome = self.game.step(self._state, leader_action, follower_action, self._generator)
        self._state, self._moves = outcome.state, (leader_action, follower_action)
        self._time += 1
        terminated = bool(outcome.terminated.item())
        truncated = not terminated and self._time >= self.max_cycles
        if terminated or truncated:
            self.agents = []
        rewards = {
            "leader": float(outcome.leader_reward.item()),
            "follower": float(outcome.follower_reward.item()),
        }
        ends = _for_both(terminated), _for_both(truncated)
        return self._observations(), rewards, *ends, _for_both({})

    def state(self) -> np.ndarray:
        """The state as `state_space` has it: here, what both agents observe."""
        if self._state is None:
            raise InputError(
                "reset() before state() or render()", "no episode so far", "call reset()"
            )
        return self.game.observe(self._state)[0].numpy()

    def render(self) -> np.ndarray | None:
        """The state, and the moves that led to it, as a picture [height, width, 3] of uint8.

        None without a render mode.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs an environment with render_mode='rgb_array'")
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        canvas = FigureCanvasAgg(Figure(figsize=(4, 4), dpi=80, layout="tight"))
        title = f"{self.game.name}, step {self._time}"
        axes, values = canvas.figure.add_subplot(), self.state()
        self.game.picture(axes, values, title)
        if self._moves is not None:
            self.game.picture_moves(axes, values, *(move[0].numpy() for move in self._moves))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _observations(self) -> dict[str, np.ndarray]:
        return {agent: self.state() for agent in AGENTS}

    def _leader_action(self, actions: Mapping[str, Any]) -> Tensor:
        """The leader's action [1, ...]: this step's, or the design of the episode."""
        if self.game.leader_moves != "once":
            return self._action("leader", actions)
        if self._design is None:
            self._design = self._action("leader", actions)
        return self._design

    def _action(self, agent: str, actions: Mapping[str, Any]) -> Tensor:
        """The agent's action as a tensor [1, ...], if it is one."""
        space, given = self.action_space(agent), actions.get(agent)
        action = _array(given, space.dtype) if isinstance(space, spaces.Box) else given
        if action is None or not space.contains(action):
            raise InputError(
                f"an action of the {agent} in {space} at step {self._time}",
                _in_words(given),
                f"see action_space({agent!r}) and its sample()",
            )
        return torch.as_tensor(action).unsqueeze(0)


def parallel_env(
    game: Game, render_mode: str | None = None, max_cycles: int | None = None
) -> Environment:
    """The game as a PettingZoo ParallelEnv; see `Environment`."""
    return Environment(game, render_mode, max_cycles)


def _for_both(value: Any) -> dict[str, Any]:
    """The value for either agent; mutable ones are not shared."""
    return {agent: copy.copy(value) for agent in AGENTS}


def _array(given: Any, dtype: Any) -> np.ndarray | None:
    """An array of numbers, if it can be one."""
    try:
        return np.asarray(given, dtype)
    except (TypeError, ValueError):
        return None


def _in_words(given: Any) -> str:
    if not isinstance(given, np.ndarray) or given.size < 10:
        return repr(given)
    extent = f"from {given.min():.6g} to {given.max():.6g}, with sum {given.sum():.6g}"
    return f"an array of shape {list(given.shape)}, {extent}"
