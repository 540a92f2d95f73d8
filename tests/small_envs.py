"""Small PettingZoo environments, whole and broken, that tests adapt to games."""

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

AGENTS = ("city", "driver")


class Parking(ParallelEnv):
    """A driver pays or cheats, a city rests or inspects; both observe noise and the time.

    Keyword arguments replace its attributes, so that a test can say what is special.
    """

    observation = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    driver_observation: Any = spaces.Discrete(7, start=1)
    action: Any = spaces.Discrete(2)
    driver_action: Any = spaces.Discrete(2, start=3)
    length = 6  # steps until both are truncated
    leaves: dict[str, int] = {}  # noqa: RUF012 - the step at which an agent terminates
    cut: dict[str, int] = {}  # noqa: RUF012 - the step at which an agent alone is truncated

    def __init__(self, **changes: Any) -> None:
        self.metadata = {"name": "parking_v0", "leader_agent": "city"}
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        for name, value in changes.items():
            setattr(self, name, value)
        self.seeds: list[int | None] = []
        self.taken: list[dict[str, Any]] = []  # actions of the last episode

    def observation_space(self, agent):
        return self.observation if agent == "city" else self.driver_observation

    def action_space(self, agent):
        return self.action if agent == "city" else self.driver_action

    def observed(self, agents):
        noise = np.array([self.rng.normal(), self.time], np.float32)
        made = {}
        for agent in agents:
            space = self.observation_space(agent)
            if space is Parking.observation:
                made[agent] = noise
            elif space is Parking.driver_observation:
                made[agent] = 1 + min(self.time, 6)
            else:
                space.seed(int(self.rng.integers(2**31)))
                made[agent] = space.sample()
        return made

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.rng = np.random.default_rng(seed)
        self.time, self.taken, self.agents = 0, [], list(self.possible_agents)
        return self.observed(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        self.taken.append(dict(actions))
        live = self.agents
        for agent in live:
            assert self.action_space(agent).contains(actions[agent]), (agent, actions)
        rewards = {agent: float(self.rng.normal() + np.sum(actions[agent])) for agent in live}
        left = {agent: self.time == self.leaves.get(agent) for agent in live}
        over = {a: not left[a] and self.time in (self.length, self.cut.get(a)) for a in live}
        self.agents = [agent for agent in live if not (left[agent] or over[agent])]
        return self.observed(live), rewards, left, over, {agent: {} for agent in live}


class Broken(Parking):
    """What `mend` does to the result of its step number `when` is wrong."""

    when = 3

    def mend(self, found):
        return found

    def step(self, actions):
        found = super().step(actions)
        return self.mend(found) if self.time == self.when else found


class Closing(Parking):
    """Counts those of its kind that were made and those that were closed."""

    made = closed = 0

    def __init__(self, **changes: Any) -> None:
        type(self).made += 1
        super().__init__(**changes)

    def close(self):
        type(self).closed += 1
