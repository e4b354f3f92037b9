"""``dflash-sim plan``."""


def plan() -> None:
    """Not here yet."""
