"""The one error that bad input gets: what was expected, what came, what to do."""


class InputError(ValueError):
    """Input that cannot be used, said in three parts.

    Args:
        expected: what the receiver takes.
        got: what it was given.
        fix: what the caller can do about it.
    """

    def __init__(self, expected: str, got: str, fix: str) -> None:
        super().__init__(f"expected {expected}; got {got}; {fix}")
