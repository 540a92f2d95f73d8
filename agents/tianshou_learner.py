"""Followers with networks in the learning loop, whichever of Tianshou's algorithms trains them.

Importing Tianshou takes seconds.
"""

from collections.abc import Callable
from typing import Any

import torch
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor

from agents.config import LearningConfig, NetworkConfig
from agents.experience import Columns, Experience, flat
from agents.gap import gap_of
from agents.learning import Learner
from agents.responses import NetworkResponse
from agents.tianshou_parts import Replay
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import Place, meetings
from stackelberg.types import Commitment

LEVELLED = 65_536  # transitions from which the level is found


class NetworkLearner(Learner):
    """One follower against one leader, with networks.

    Args:
        game, config, network: see the followers.
        kind: makes the algorithm, a `agents.tianshou_targets.SoftTargets`, of game, network and
            generator.
        generator: decides the first parameters.
    """

    first_steps = 131_072
    afresh_steps = 65_536
    experience: Experience

    def __init__(
        self,
        game: Game,
        config: LearningConfig,
        network: NetworkConfig,
        kind: Callable[..., Any],
        generator: torch.Generator,
    ) -> None:
        super().__init__(game, config)
        if config.copies < 4:
            raise InputError(
                "copies >= 4 for networks, half of which measure the response",
                f"{config.copies}",
                "use more copies",
            )
        self.network = network
        self.experience = Experience(network.capacity)
        self.algorithm = kind(game, network, generator)
        self.space = self.algorithm.policy.action_space

    def face(self, commitment: Commitment, leader: int, generator: torch.Generator) -> None:
        super().face(commitment, leader, generator)
        self.algorithm.policy.generator = generator

    def strays(self, copies: int) -> Tensor:
        """One half follows the response; the others stray from hardly ever to always."""
        half = copies // 2
        share = torch.arange(1, copies - half + 1) / (copies - half)
        return torch.cat([torch.zeros(half), share])

    def act(self, seen: Tensor) -> Tensor:
        return self.algorithm.act(self.algorithm.standard(seen))

    def stray(self, action: Tensor) -> Tensor:
        return self.algorithm.stray(action, super().stray(action))

    def keep(self, rows: Columns) -> None:
        self.experience.add({name: rows[name] for name in rows if name != "truncated"})

    def learn(self, fresh: Columns, strays: Tensor, last: bool) -> bool:
        """Measure the gap by the fresh play, then learn from it unless that is good enough."""
        algorithm, game = self.algorithm, self.game
        if not self.trained:
            algorithm.rescale(max(game.temperature, _spread(fresh, game.follower_discount)))
            algorithm.standardise(fresh["seen"].flatten(0, 1))
        over, away = fresh["terminated"] | fresh["truncated"], fresh["seen"][:, strays > 0]
        error = algorithm.errors(Batch(self._met(flat(fresh)))).view(over.shape)
        slack = algorithm.slack(algorithm.standard(away.flatten(0, 1))).view(away.shape[:2])
        gap = gap_of(error, slack, over, strays, game.follower_discount)
        self.keep(flat(fresh))
        own = flat({name: fresh[name][:, strays == 0] for name in ("seen", "act")})
        algorithm.survey(algorithm.standard(own["seen"]), own["act"])
        self.gap, allowed = gap.value, self.network.tolerance * game.temperature * gap.time
        if last or (self.trained and gap.value + 2 * gap.error <= allowed):
            return True
        self._fit(len(over.flatten()))
        self.trained = True
        return False

    def _met(self, rows: Columns) -> Columns:
        """The transitions, and what the follower may meet where they led."""
        place = Place(rows.get("leader", rows["follower"]), rows["follower"], rows["out"])
        met, odds = meetings(self.game, self.commitment, self.index, place, self.generator)
        kept = {name: rows[name] for name in ("act", "rew", "terminated")}
        standard = self.algorithm.standard
        return kept | {"obs": standard(rows["seen"]), "obs_next": standard(met), "odds": odds}

    def _fit(self, fresh: int) -> None:
        algorithm, batch = self.algorithm, self.network.batch
        replay = Replay(self.experience.columns(), self.generator, self._met)
        with policy_within_training_step(algorithm.policy):
            everything, _ = replay.sample(min(LEVELLED, replay.size))
            algorithm.find_level(everything)
            least = max(1, min(algorithm.fewest, fresh // 4))
            updates = max(least, round(self.network.replays * fresh / batch))
            for i in range(updates):
                algorithm.slow(1 - i / updates)
                algorithm.update(replay, sample_size=batch)
            everything, _ = replay.sample(min(LEVELLED, replay.size))
            algorithm.find_level(everything)

    @staticmethod
    def respond(
        learners: list["NetworkLearner"], commitment: Commitment, steps: int
    ) -> NetworkResponse:
        """The response to M leaders."""
        gaps = torch.tensor([learner.gap for learner in learners], dtype=torch.float64)
        algorithms = [learner.algorithm for learner in learners]
        return algorithms[0].respond(learners[0].game, algorithms, gaps, steps)

    def state(self) -> dict[str, Tensor]:
        algorithm = self.algorithm
        saved = algorithm.state_dict()
        moments = saved.pop("_optimizers")
        found = {name: value.clone() for name, value in saved.items()}
        for i, optimiser in enumerate(moments):
            for row, entries in optimiser["state"].items():
                found |= {f"moments.{i}.{row}.{k}": v.clone() for k, v in entries.items()}
        return found | {f"kept.{name}": v for name, v in self.experience.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"moments": {}, "kept": {}}
        own = {}
        for name, value in state.items():
            head, _, rest = name.partition(".")
            if head in parts:
                parts[head][rest] = value
            else:
                own[name] = value
        saved = self.algorithm.state_dict()
        for name, value in parts["moments"].items():
            i, row, entry = name.split(".")
            saved["_optimizers"][int(i)]["state"].setdefault(int(row), {})[entry] = value.clone()
        self.algorithm.load_state_dict(saved | own)
        self.algorithm.rescale(self.algorithm.scale.item())
        self.experience.load(parts["kept"])
        self.trained = True


def _spread(play: Columns, discount: float) -> float:
    """Of returns, were rewards independent; as it was, where rewards are all alike."""
    independent = play["rew"].std().item() * (1 - discount**2) ** -0.5
    if independent:
        return independent
    over, total, returns = play["terminated"] | play["truncated"], torch.zeros(()), []
    for reward, ended in zip(play["rew"].flip(0), over.flip(0), strict=True):
        total = reward + discount * torch.where(ended, 0.0, total)
        returns.append(total)
    return torch.stack(returns).std().item()
