"""``dflash-sim list``."""

from typing import Annotated

import typer

from dflash_sim.commands.options import Format, Profiles, completer, use_profiles

KINDS = (
    "gpus",
    "models",
    "checkpoints",
    "formats",
    "drafters",
    "datasets",
    "presets",
    "methods",
    "engines",
    "tables",
)


def list_(
    kind: Annotated[
        str,
        typer.Argument(help=", ".join(KINDS), autocompletion=completer(lambda: KINDS)),
    ],
    profiles: Profiles = None,
    form: Format = None,
) -> None:
    """List what can be named: GPUs, models, quantised checkpoints, drafters, and so on."""
    from dflash_sim.studies.show.files import as_text, chosen_format
    from dflash_sim.studies.show.sheet_lists import rows, table
    from dflash_sim.studies.show.terminal import as_page, deliver

    use_profiles(profiles)
    shape = chosen_format(form, None)
    found = rows(kind)
    text = as_page(table(found), to_file=False) if shape == "table" else as_text(found, shape)
    deliver(text)
