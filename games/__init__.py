"""The games that come with the package, registered with PettingZoo.

    import games, pettingzoo
    env = pettingzoo.make("parallel", "stackelberg/four_rooms_v0", goals=2)

An entry point is a name, so a game is imported when it is made.
"""

import pettingzoo

for _name in ("building", "discrete_toy", "duopoly", "four_rooms", "lqr", "matrix"):
    pettingzoo.register("parallel", f"stackelberg/{_name}_v0", f"games.{_name}:parallel_env")
