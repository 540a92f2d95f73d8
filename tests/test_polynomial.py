"""How the polynomial part of values is found."""

import torch

from agents.polynomial import monomials, temporal_differences

DISCOUNT = 0.9


def test_monomials_are_all_products():
    x = torch.tensor([[2.0, 3.0]])
    assert monomials(x, 0).shape == (1, 0)
    assert monomials(x, 1).tolist() == [[2, 3]]
    assert monomials(x, 2).tolist() == [[2, 3, 4, 6, 9]]


def transitions(growth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features 1, s and s^2 of a state, and of where it leads: growth s."""
    state = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(-1)
    ones = torch.ones_like(state)
    here, ahead = (torch.cat([ones, monomials(s, 2)], -1) for s in (state, growth * state))
    return here, ahead


def test_values_that_a_polynomial_tells_are_found_at_once():
    here, ahead = transitions(0.8)
    now, true = torch.tensor([[0.0, 1.0, 2.0], [5.0, -1.0, 3.0]], dtype=torch.float64)
    reward = (here - DISCOUNT * ahead) @ true
    target, weight = reward + DISCOUNT * ahead @ now, torch.rand(50, dtype=torch.float64) + 0.1
    found = temporal_differences(here, ahead, DISCOUNT, here @ now, target, weight, 0.05)
    torch.testing.assert_close(now + found, true)


def test_where_repeating_diverges_one_regression_is_made():
    here, ahead = transitions(1.5)
    now = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    target, weight = here @ torch.tensor([5.0, -1, 3]).double(), torch.ones(50).double()
    found = temporal_differences(here, ahead, DISCOUNT, here @ now, target, weight, 0.05)
    torch.testing.assert_close(here @ (now + found), target)


def test_a_polynomial_that_misses_too_much_is_left():
    here, ahead = transitions(0.8)
    target, weight = (9 * here[:, 1]).sin(), torch.ones(50).double()
    given = here, ahead, DISCOUNT, torch.zeros_like(target), target, weight
    assert temporal_differences(*given, 0.05) is None
    assert temporal_differences(*given, 1.0) is not None
