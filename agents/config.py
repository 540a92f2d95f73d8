"""Settings of followers that learn: how much they play, and how they fit what they learn."""

from dataclasses import dataclass

from stackelberg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """How much a learning follower plays."""

    copies: int = 64  # most episodes that run side by side in a call's first round; in all rounds
    # where a game steps its copies one by one
    first_steps: int | None = None  # most environment steps of the first call: unless given
    # 4,194,304 with a table, 131,072 with networks
    afresh_steps: int | None = None  # of a later one that cannot use earlier experience: unless
    # given 131,072 with a table, 65,536 with networks
    later_steps: int = 16_384  # of a later one that can

    def __post_init__(self) -> None:
        check_counts(self, "copies", "first_steps", "afresh_steps", "later_steps")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How a learning follower trains networks.

    Of each leader at most `capacity` transitions are kept, and of large ones fewer: with
    observations of d numbers, what fits into 1 GiB, about 2^30 / (8 d) of them.
    """

    width: int = 64  # of the two hidden layers
    step_size: float = 1e-3  # of Adam
    capacity: int = 1_048_576  # transitions kept; the oldest give way
    batch: int = 512  # transitions in an update
    replays: float = 16.0  # how often a transition is drawn for updates, on average
    lag: float = 0.01  # in (0, 1], by which target networks move towards the trained ones
    tolerance: float = 0.02  # stop where the gap is surely below it, in temperatures per
    # discounted step

    def __post_init__(self) -> None:
        check_counts(self, "width", "capacity", "batch")
        for name in ("step_size", "replays", "lag", "tolerance"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} > 0", f"{getattr(self, name)}", "use the default")
        if self.lag > 1:
            raise InputError("lag in (0, 1]", f"{self.lag}", "use for example 0.01")


@dataclass(frozen=True, kw_only=True)
class SoftQConfig(LearningConfig):
    """Settings of the soft Q-learning follower: how much it plays, and how it fits a table."""

    learning_rate: float = 0.7  # in (0, 1]; 1 would swing for ever where states alternate
    updates: int = 300  # most updates in one fit
    residual: float = 0.002  # a fit ends when no mean TD error exceeds it, in temperatures
    uncertainty: float = 0.03  # collecting ends when 3 standard errors change no g(b|x) by more

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "updates")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                "learning_rate in (0, 1]", f"{self.learning_rate}", "use for example 0.7"
            )
        for name in ("residual", "uncertainty"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} > 0", f"{getattr(self, name)}", "use for example 0.01")


def check_counts(config: object, *names: str) -> None:
    """Raise InputError unless these settings, where given, are integers >= 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name} >= 1", f"{value}", "give a positive count")
