"""Leaders: distributions and designs, each drawn from its own seed."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.leaders import (
    BoxDesign,
    MLPCategorical,
    SoftmaxBudget,
    TabularSoftmax,
    default_leader,
    mlp_leader,
    spread_leader,
)
from games import discrete_toy, four_rooms
from games.tabular import TabularDesign
from stackelberg.errors import InputError
from stackelberg.game import Budget
from stackelberg.types import commit

EVERYWHERE = torch.eye(4)
BOX = spaces.Box(np.array([-1.0, 2.0]), np.array([1.0, 5.0]), dtype=np.float64)
MAKERS = {
    "tabular": lambda seeds: TabularSoftmax(4, 3, seeds, std=1.0),
    "mlp": lambda seeds: MLPCategorical(4, 3, (8,), seeds),
    "budget": lambda seeds: SoftmaxBudget(Budget(3, 2.0), seeds, std=1.0),
    "box": lambda seeds: BoxDesign(BOX, seeds, std=1.0),
}


def box_game(**settings) -> TabularDesign:
    return TabularDesign(
        BOX,
        np.ones((1, 2, 1)),
        lambda x: x.sum(-1)[:, None, None].expand(-1, 1, 2),
        np.zeros((1, 2)),
        **settings,
    )


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_positions_are_distributions_in_float64(kind):
    position = MAKERS[kind]([0, 1]).position(EVERYWHERE)
    assert position.dtype == torch.float64
    assert len(position) == 2
    torch.testing.assert_close(
        position.exp().sum(-1), torch.ones(position.shape[:2], dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_every_leader_depends_on_its_own_seed_alone(kind):
    together, alone, again = (MAKERS[kind](seeds) for seeds in ([5, 7], [7], [5, 7]))
    assert together.count == 2
    parameters = zip(together.parameters(), alone.parameters(), again.parameters(), strict=True)
    for many, one, same in parameters:
        assert len(many) == 2
        assert torch.equal(many[1:], one)
        assert torch.equal(many, same)
    first = next(together.parameters())
    assert not torch.equal(first[0], first[1])


def test_mlp_is_the_network_that_its_weights_say():
    leader = MAKERS["mlp"]([0, 1])
    with torch.no_grad():
        leader.biases[0].uniform_(-1, 1)
    for m in range(2):
        hidden = torch.relu(EVERYWHERE @ leader.weights[0][m] + leader.biases[0][m])
        logits = hidden @ leader.weights[1][m] + leader.biases[1][m]
        expected = torch.log_softmax(logits.double(), -1)
        torch.testing.assert_close(leader.log_policy(EVERYWHERE)[m], expected, atol=1e-6, rtol=0)


def test_a_budget_is_spent_by_softmax():
    space = Budget(3, 2.0)
    leader = SoftmaxBudget(space, range(50), std=5.0)
    design = leader.design().detach()
    shares = torch.softmax(leader.x, -1)
    torch.testing.assert_close(design, 2.0 * shares[:, :3].detach())
    assert all(space.contains(row) for row in design.numpy())


def test_a_box_design_stays_inside_the_box():
    leader = BoxDesign(BOX, range(50), std=100.0)
    assert all(BOX.contains(row) for row in leader.design().detach().numpy())
    leader = BoxDesign(BOX, [0], std=0.0)
    assert leader.design().tolist() == [[0.0, 3.5]]


def test_default_leaders_fit_the_action_space():
    assert isinstance(default_leader(discrete_toy.game()), TabularSoftmax)
    assert isinstance(default_leader(four_rooms.game()), SoftmaxBudget)
    assert isinstance(default_leader(box_game()), BoxDesign)
    assert (default_leader(discrete_toy.game()).logits == 0).all()
    assert default_leader(discrete_toy.game(), range(3), std=1.0).logits.std() > 0.5
    assert spread_leader(discrete_toy.game(), range(3)).logits.std() > 0.5


def test_a_space_without_a_leader_is_an_error():
    game = box_game()
    game.leader_space = spaces.MultiBinary(2)
    with pytest.raises(InputError, match=r"expected a leader space .*; got MultiBinary"):
        default_leader(game)
    with pytest.raises(InputError, match="expected a leader space Discrete"):
        mlp_leader(four_rooms.game())


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: (discrete_toy.game(), TabularSoftmax(4, 2)), "TabularSoftmax; make"),
        (lambda: (discrete_toy.game(), TabularSoftmax(3, 3)), r"shape \[3, 3\]"),
        (lambda: (discrete_toy.game(), MLPCategorical(5, 2)), "MLPCategorical"),
        (lambda: (discrete_toy.game(), MLPCategorical(3, 4)), r"shape \[3, 4\]"),
        (lambda: (four_rooms.game(), SoftmaxBudget(Budget(3, 0.2))), r"shape \[3\]"),
        (lambda: (four_rooms.game(), SoftmaxBudget(Budget(104, 2.0))), "SoftmaxBudget with the"),
        (lambda: (four_rooms.game(), BoxDesign(four_rooms.game().leader_space)), "BoxDesign with"),
        (lambda: (box_game(), SoftmaxBudget(Budget(2, 1.0))), "SoftmaxBudget with the design"),
        (lambda: (box_game(), BoxDesign(spaces.Box(0, 1, (3,)))), r"shape \[3\]"),
    ],
)
def test_a_leader_that_does_not_fit_is_an_error(make, got):
    with pytest.raises(InputError, match=rf"expected (a leader that fits|designs in).*; got {got}"):
        commit(*make())


def test_a_design_at_the_edge_of_its_space_is_inside():
    leader = BoxDesign(BOX, [0, 1], std=1e9)
    assert commit(box_game(), leader).design.shape == (2, 2)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_no_seeds_are_an_error(kind):
    with pytest.raises(InputError, match="expected one seed per leader; got none; give"):
        MAKERS[kind](())


def test_a_leader_of_the_other_kind_is_an_error():
    with pytest.raises(InputError, match="a design leader for 'four_rooms'"):
        commit(four_rooms.game(), default_leader(discrete_toy.game()))
    with pytest.raises(InputError, match="a policy leader for 'discrete_toy'"):
        commit(discrete_toy.game(), default_leader(four_rooms.game()))
