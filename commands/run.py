"""``dflash-sim run``."""


def run() -> None:
    """Not here yet."""
