"""``dflash-sim sweep``."""


def sweep() -> None:
    """Not here yet."""
