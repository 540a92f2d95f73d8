"""The games that come with the package, registered with PettingZoo.

    import games, pettingzoo
    env = pettingzoo.make("parallel", "stackelberg/four_rooms_v0", goals=2)

An entry point is a name, so a game is imported when it is made.
"""

import pettingzoo

_names = (
    "building",
    "cart_pole",
    "discrete_toy",
    "duopoly",
    "four_rooms",
    "lqr",
    "matrix",
    "pendulum",
    "warehouse",
)
for _name in _names:
    pettingzoo.register("parallel", f"stackelberg/{_name}_v0", f"games.{_name}:parallel_env")
