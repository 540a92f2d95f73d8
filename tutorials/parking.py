"""The environment of the third tutorial: a parking town, written for PettingZoo alone."""

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

COST = 1.5  # of an inspection
INSPECT, CHEAT = 1, 1  # instead of resting, of paying


class Town(ParallelEnv):
    """A city inspects parked cars; a driver pays, or cheats and is towed if it is caught."""

    metadata = {"name": "town_v0", "render_modes": []}  # noqa: RUF012 - as PettingZoo has it
    possible_agents = ["city", "driver"]  # noqa: RUF012
    max_cycles = 100

    def __init__(self) -> None:
        car = spaces.Discrete(2)
        self.seen = {"city": car, "driver": spaces.Dict({"towed": car})}
        self.acted = {agent: spaces.Discrete(2) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.seen[agent]

    def action_space(self, agent):
        return self.acted[agent]

    def reset(self, seed=None, options=None):
        self.random = np.random.default_rng(seed)
        self.agents, self.towed, self.day = list(self.possible_agents), 0, 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions):
        inspected, cheats = actions["city"] == INSPECT, actions["driver"] == CHEAT
        parked = not self.towed
        fee = 1.0 * (parked and not cheats)
        rewards = {"city": fee - COST * inspected, "driver": parked * (1.5 if cheats else 0.5)}
        caught, kept = cheats and inspected, self.random.random() < 0.9
        self.towed, self.day = int(caught if parked else kept), self.day + 1
        late = self.day >= self.max_cycles
        flags = [dict.fromkeys(self.agents, flag) for flag in (False, late)]
        found = self._observe(), rewards, *flags, {agent: {} for agent in self.agents}
        self.agents = [] if late else self.agents
        return found

    def _observe(self):
        return {"city": self.towed, "driver": {"towed": self.towed}}
