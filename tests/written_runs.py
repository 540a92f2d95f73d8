"""Run directories as training leaves them, of every shipped game, without the training."""

from pathlib import Path

import torch

from stackelberg import registry
from stackelberg.config import TrainConfig
from stackelberg.identity import identity
from stackelberg.run_directory import RunDirectory

ROW = {  # of metrics
    "leader_return": 1.0,
    "follower_return": 2.0,
    "leader_estimate": 1.1,
    "leader_objective": None,
    "follower_gap": None,
    "direct_norm": 0.5,
    "indirect_norm": 0.25,
    "cosine": -0.5,
    "leader_steps": 100,
    "follower_steps": 50,
    "seconds": 0.1,
}
LITTLE = {"first_steps": "64", "copies": "8"}
FILMED = {  # follower, options of the game and of the follower
    "discrete_toy": ("exact", {"horizon": "2"}, {}),
    "four_rooms": ("exact", {"horizon": "2"}, {}),
    "warehouse": ("exact", {"horizon": "2"}, {}),
    "matrix": ("exact", {}, {}),
    "lqr": ("exact", {"horizon": "2"}, {}),
    "building": ("exact", {"horizon": "2"}, {}),
    "duopoly": ("exact", {"horizon": "2"}, {}),
    "cart_pole": ("sac", {"horizon": "2"}, LITTLE),
    "pendulum": ("sac", {"horizon": "2"}, LITTLE),
}


def moved(parameter: torch.Tensor) -> torch.Tensor:
    return 0.01 * torch.arange(parameter.numel()).view(parameter.shape)


def write_run(path: Path, name: str, **more: str) -> Path:
    """A run as training leaves it, whose leader has moved a little from where it started."""
    follower, options, own = FILMED[name]
    options = options | more
    game = registry.make_game(name, [f"{k}={v}" for k, v in options.items()])
    leader = registry.load("leaders", "default")(game, (0,))
    made = registry.make_follower(follower, [f"{k}={v}" for k, v in own.items()])
    label = {"game": name, "game_options": options, "leader_agent": None, "leader": "default"}
    label |= {"follower": follower, "follower_options": own}
    settings = label | vars(TrainConfig()) | {"seeds": [0]} | identity(game, leader, made)
    tensors = {f"leader.{name}": tensor.clone() for name, tensor in leader.state_dict().items()}
    for name, p in leader.named_parameters():
        tensors[f"leader.{name}"] += moved(p)
    directory = RunDirectory(path, settings)
    for i in range(3):
        directory.log(ROW | {"iteration": i})
    directory.close()
    directory.checkpoint(3, tensors, {"iteration": 3})
    return path
