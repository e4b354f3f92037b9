"""The ``dflash-sim`` command, and ``python -m dflash_sim``."""

from dflash_sim.jobs.stopping import INTERRUPTED, asked_to_stop, leave, listen


def main() -> None:
    """Run the command; a signal that asks it to end is heard from the very beginning."""
    listen()
    try:
        from dflash_sim.cli import main as command

        command()
    except BaseException as end:
        if asked_to_stop():
            leave(INTERRUPTED)
        if isinstance(end, SystemExit) and isinstance(end.code, int):
            leave(end.code)
        raise


if __name__ == "__main__":
    main()
