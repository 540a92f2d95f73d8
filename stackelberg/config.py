"""Settings of a training run: defaults stand here and nowhere else."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from stackelberg.errors import InputError

Access = Literal["value", "policy", "trajectories"]
EstimatorName = Literal[
    "expected-trace",
    "gradient-critic",
    "sampled-trace",
    "gae",
    "bc-hg",
    "hpgd-mc",
    "hpgd-td",
    "hpgd-sarsa",
    "hpgd-oracle",
    "sobirl",
    "sobirl-modified",
    "bi-ac",
    "spsa",
    "es",
    "naive",
    "exact",
    "model-based",
]
Optimiser = Literal["trust-region", "natural-gradient", "ppo"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the coordinator trains."""

    iterations: int = 100
    """Outer iterations: the follower best-responds, play, one leader step."""
    streams: int = 3
    """Parallel streams of play per outer iteration."""
    steps: int | None = None
    """Steps of each stream per outer iteration; the game's horizon unless given."""
    estimator: EstimatorName = "expected-trace"
    """Hypergradient estimator; naive leaves out that followers react."""
    gae_lambda: float = 0.5
    """Of the estimator gae: 0 trusts the learned values, 1 the sampled returns."""
    access: Access = "value"
    """What the leader sees of the follower: values and policy, policy, or what it does alone."""
    estimate_temperature: bool = False
    """The leader is not told the follower's temperature and estimates it, by maximum likelihood."""
    optimiser: Optimiser = "trust-region"
    """How the leader steps inside its trust region: along the gradient, or as named."""
    radius: float = 1e-3
    """First trust region: KL in nats by which a leader step moves its policy or design."""
    max_radius: float = 0.3
    """Largest trust region."""
    min_radius: float = 1e-6
    """Smallest trust region: with noisy gradients, say of followers that learn, 1e-3 or more."""
    checkpoint_every: int = 25
    """Outer iterations between checkpoints."""
    evaluation_episodes: int = 200
    """Episodes in which the final leader meets the follower's final response."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type not in (int, int | None) or (value is None and field.type is not int):
                continue
            if type(value) is not int or value < 1:
                raise InputError(f"{field.name}: an integer >= 1", f"{value!r}", "give a count")
        if not 0 < self.min_radius <= self.radius <= self.max_radius < float("inf"):
            raise InputError(
                "0 < min_radius <= radius <= max_radius",
                f"min_radius = {self.min_radius}, radius = {self.radius}, "
                f"max_radius = {self.max_radius}",
                "the defaults suit most games",
            )
        if not 0 <= self.gae_lambda <= 1:
            raise InputError("gae_lambda in [0, 1]", f"{self.gae_lambda}", "use for example 0.5")
        if self.access not in ("value", "policy", "trajectories"):
            raise InputError(
                "access value, policy or trajectories", f"{self.access!r}", "choose one of them"
            )
        if self.optimiser not in get_args(Optimiser):
            raise InputError(
                f"an optimiser out of {', '.join(get_args(Optimiser))}",
                f"{self.optimiser!r}",
                "choose one of them",
            )
        if self.estimator == "model-based" and self.optimiser != "trust-region":
            raise InputError(
                "optimiser trust-region beside the estimator model-based, which walks to a goal",
                f"optimiser {self.optimiser}",
                "leave optimiser out, or use the estimator expected-trace",
            )
        if self.estimator == "exact" and self.estimate_temperature:
            raise InputError(
                "a known temperature beside the estimator exact, which reads the true model",
                "estimate_temperature",
                "leave estimate_temperature out, or use the estimator expected-trace",
            )
        if self.estimator == "exact" and self.access != "value":
            raise InputError(
                "access value beside the estimator exact, which reads the true model",
                f"access {self.access}",
                "leave access out, or use the estimator expected-trace",
            )
