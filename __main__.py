"""``python -m dflash_sim``: the same as the ``dflash-sim`` command."""

from dflash_sim.cli import main

main()
