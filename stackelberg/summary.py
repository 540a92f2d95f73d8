"""What a run says of itself: a row per outer iteration, a summary at its end, warnings."""

import math
import warnings
from importlib import metadata
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from stackelberg.access import Response, gap_of
from stackelberg.best_known import BestKnown, beats, own_optimum
from stackelberg.estimators import Evidence
from stackelberg.game import Game
from stackelberg.linear_model import is_linear, linear_policy
from stackelberg.oracle import oracle, rows_of
from stackelberg.rollout import Trajectories
from stackelberg.trust_region import inner, norm
from stackelberg.types import Commitment

ROUNDING = 1e-12  # of the leader's values: a hypergradient no longer than this is none
VANISHED = 1e-9  # of direct plus indirect term: where they cancel this far, nothing is left

NEGLIGIBLE = 1e-4  # what is left of a discounted return when an evaluation episode is cut
LONGEST = 20_000  # steps of an evaluation episode; reached from discounts of 0.9995 on
HUGE = 1e60  # size of rewards at which an episode is cut: beyond it observations are no numbers
PACKAGES = ("stackelberg", "torch", "numpy", "pettingzoo", "tianshou")


class Cut(NamedTuple):
    """Where evaluation episodes are cut."""

    horizon: int  # steps
    rest: Tensor  # [M] share of a discounted return that is left then; 1 where it diverges


@torch.no_grad()
def evaluation_cut(game: Game, commitment: Commitment, response: Response) -> Cut:
    """After how many steps both players' discounted returns have settled to `NEGLIGIBLE`.

    What is left of either falls by a factor c discount a step, c that by which its rewards grow: in
    a linear game the square of the spectral radius of the closed loop (that of the best response
    where the one that acts does not show how), 1 of a leader that bumps alone pay, 1 in tables.
    Where there is no oracle the discount alone counts, c = 1, and what grows along an episode is
    cut too early.

    No horizon is longer than `LONGEST` (closer to 1 a discount makes episodes that no memory
    holds), than the game itself allows, or than rewards stay below `HUGE`; `rest` tells what that
    leaves of the return that has more to come. Where c discount >= 1 a return diverges: for it
    episodes are as long as the discount alone asks.
    """
    discounts = [game.leader_discount], [game.follower_discount]
    discount = torch.tensor(discounts, dtype=torch.float64)
    truth = oracle(game, commitment)
    unknown = torch.ones(2, len(commitment.policy), dtype=torch.float64)
    growth = unknown if truth is None else truth.growth(response)
    rate = growth * discount
    needed = _settles(torch.where(rate < 1, rate, discount)).max()
    bound = (math.log(HUGE) / growth.log()).min().floor()
    longest = LONGEST if game.longest is None else min(game.longest, LONGEST)
    horizon = max(1, int(min(needed, bound, torch.tensor(float(longest)))))
    return Cut(horizon, (rate**horizon).amax(0).clamp(max=1.0))


def _settles(rate: Tensor) -> Tensor:
    """Steps after which rate^steps <= `NEGLIGIBLE`, at least 1."""
    return (math.log(NEGLIGIBLE) / rate.log()).ceil().clamp(min=1.0)


@torch.no_grad()
def iteration_row(
    evidence: Evidence, response: Response, direct: list[Tensor], indirect: list[Tensor]
) -> dict[str, Any]:
    """What one outer iteration is measured by; numbers for one leader, lists for many.

    `leader_return` and `follower_return` are of the sampled episodes, cut by the time limit;
    `leader_estimate` is what the leader believes its objective to be; `leader_objective` and
    `follower_gap` read the true model and are for the eye only; None where there is none to read
    (no tables, nor all of it linear), but for a gap that the follower itself has measured.
    `entropy` is of a policy that chooses, 0 of a design, None in a Box. Both `leader_return` and
    `leader_objective` are against the follower's present response, not its best one; `temperature`
    is what the leader takes the follower's to be, where it has to estimate it. `env_steps` of the
    summary is the last row's `leader_steps` and `follower_steps`: so far, per leader.
    """
    game, commitment, seen = evidence.game, evidence.commitment, evidence.trajectories
    objective, gap = None, gap_of(response, len(commitment.policy))
    if evidence.oracle is not None:
        objective = evidence.oracle.leader_return(response)
        gap = evidence.oracle.follower_gap(response) if gap is None else gap
    direct_norm, indirect_norm = norm(direct), norm(indirect)
    product = direct_norm * indirect_norm
    columns = {
        "leader_return": seen.first_returns(seen.leader_reward, game.leader_discount).mean(-1),
        "follower_return": seen.first_returns(seen.follower_reward, game.follower_discount).mean(
            -1
        ),
        "leader_estimate": evidence.critics.objective,
        "leader_objective": objective,
        "follower_gap": gap,
        "direct_norm": direct_norm,
        "indirect_norm": indirect_norm,
        "cosine": inner(direct, indirect) / torch.where(product > 0, product, 1.0),
        "entropy": (
            torch.special.entr(commitment.policy).sum(-1).mean(-1)
            if commitment.box is None
            else None
        ),
    }
    if isinstance(evidence.temperature, Tensor):
        columns["temperature"] = evidence.temperature
    return {name: _maybe(column) for name, column in columns.items()}


@torch.no_grad()
def evaluation(
    game: Game,
    commitment: Commitment,
    response: Response,
    seen: Trajectories,
    cut: Cut,
    best_known: BestKnown | None = None,
) -> dict[str, Any]:
    """Returns of the final leader in fresh episodes, and its regret.

    Of the leader's return, `mean` is sampled against the follower's final response and
    `against_response` is what it estimates, computed exactly; `exact` is the objective, against the
    exact best response. The two differ as far as the follower has a gap. The regret is that of the
    leader: optimum less `exact`, whatever the follower's gap. Where there is no true model to read
    there are no exact numbers (None), and the regret is optimum less `mean`.
    """
    gap, value, met = gap_of(response, len(commitment.policy)), None, None
    truth = oracle(game, commitment)
    if truth is not None:
        value, met = truth.objective, truth.leader_return(response)
        found = truth.follower_gap(response)
        gap = gap if found is None else found
    leader = seen.first_returns(seen.leader_reward, game.leader_discount)
    follower = seen.first_returns(seen.follower_reward, game.follower_discount)
    return {
        "leader_return": interval(leader, cut)
        | {"exact": _maybe(value), "against_response": _maybe(met)},
        "follower_return": interval(follower, cut),
        **(
            _unsure(game.optimum, leader.mean(-1))
            if value is None
            else standing(game, commitment, value, best_known)
        ),
        "follower_gap": _maybe(gap),
    } | _numbers(commitment)


def _numbers(commitment: Commitment) -> dict[str, Any]:
    """The `design` [d] of leaders, or a linear one's `gains` [k, 1 + n]; lists of them for many."""
    if commitment.design is not None:
        return {"design": plain(commitment.design)}
    if commitment.box is not None and is_linear(commitment.box):
        return {"gains": plain(linear_policy(len(commitment.policy), 0, commitment.box).gain)}
    return {}


def standing(
    game: Game, commitment: Commitment, value: Tensor, best_known: BestKnown | None
) -> dict[str, Any]:
    """How the objectives [M] of commitments stand to the best that was known, and now is.

    `optimum` and its source, "game" (its own), "best known" or None where none is; the `regret`;
    and `new_best`: is one of these the best known from now on? Then it is the optimum. The best
    commitment is offered to `best_known`.
    """
    optimum, source = own_optimum(game) if best_known is None else best_known.optimum(game)
    highest, best = (one.item() for one in value.max(0))
    new_best = optimum is not None and beats(highest, optimum)
    if new_best:
        optimum, source = highest, "best known"
    if best_known is not None and math.isfinite(highest):
        best_known.offer(game, rows_of(commitment)[int(best)], "train")
    regret = None if optimum is None else plain((optimum - value).clamp(min=0.0))
    return {"optimum": optimum, "optimum_source": source, "regret": regret, "new_best": new_best}


def _unsure(optimum: float | None, value: Tensor) -> dict[str, Any]:
    """`standing` of sampled mean returns [M], which prove no new best."""
    regret = None if optimum is None else plain((optimum - value).clamp(min=0.0))
    source = None if optimum is None else "game"
    return {"optimum": optimum, "optimum_source": source, "regret": regret, "new_best": False}


def warn_without_influence(scale: Tensor, found: list[Tensor], true: list[Tensor]) -> None:
    """Warn of a leader that cannot improve: by the true model, or by what it has seen.

    Args:
        scale: of the leader's values, [M].
        found, true: the estimated and the exact hypergradient, a tensor per parameter and term.
    """
    if all((norm([part]) <= VANISHED * scale).all() for part in true):
        warnings.warn(
            "the leader's exact hypergradient is 0 at the start: no small change of its moves "
            "changes its return; check that rewards or transitions depend on them, or start "
            "from another leader",
            stacklevel=4,
        )
    elif not any(part.any() for part in found):
        warnings.warn(
            "the leader's estimated hypergradient is exactly 0: in what it has seen, nothing it "
            "does changes its return; play longer or in more streams",
            stacklevel=4,
        )


def warn_of_divergence(estimate: Tensor) -> None:
    """Warn of leaders whose returns [M], as they estimate them, diverge: they have no gradient."""
    if lost := _lost(estimate):
        warnings.warn(
            f"the returns of {lost} "
            "diverge at the start, by what was seen, and it has no gradient to leave by: start "
            "from other gains, or take a smaller leader_discount",
            stacklevel=4,
        )


def warn_without_response(indirect: Tensor) -> bool:
    """Warn of leaders whose indirect surrogate [M] is -inf: their estimator knows no best response.

    Returns whether there are any.
    """
    if lost := _lost(indirect):
        warnings.warn(
            f"by what was seen, the follower has no best response to {lost}: where that is so the "
            "indirect term is left out, and indirect_norm is 0; play longer or in more streams",
            stacklevel=4,
        )
    return bool(lost)


def _lost(values: Tensor) -> str:
    """The leaders whose values [M] are -inf, in words; empty if there are none."""
    which = torch.nonzero(values.isneginf()).flatten().tolist()
    if not which:
        return ""
    return f"leader {', '.join(map(str, which))} of 0 to {len(values) - 1}"


def interval(returns: Tensor, cut: Cut) -> dict[str, Any]:
    """Mean and half-width of the 95 % confidence interval (Student's t) of returns [M, N].

    Numbers for one leader, lists for many; one episode has no interval (None). The returns are
    discounted and follow the objective: they run for `horizon` steps, whatever the game's own time
    limit, and leave the share `rest`, see `evaluation_cut`.
    """
    mean, spread = returns.mean(1), half_widths(returns)
    return {
        "mean": plain(mean),
        "ci95": spread[0] if len(mean) == 1 else spread,
        "episodes": returns.shape[1],
        "discounted": True,
        "horizon": cut.horizon,
        "rest": plain(cut.rest),
    }


def half_widths(samples: Tensor) -> list[float] | list[None]:
    """Of the 95 % confidence interval (Student's t) of each row's mean, samples [M, N].

    One sample has no interval (None).
    """
    rows, count = samples.shape
    if count == 1:
        return [None] * rows
    halves: list[float] = (samples.std(1) * stats.t.ppf(0.975, count - 1) / count**0.5).tolist()
    return halves


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def _maybe(column: Tensor | None) -> float | list[float] | None:
    return None if column is None else plain(column)


def plain(column: Tensor) -> float | list[float]:
    """A number for one leader, a list for many."""
    values: list[float] = column.tolist()
    return values[0] if len(values) == 1 else values
