"""``dflash-sim list``."""

from typing import Annotated

import typer

from dflash_sim.commands.options import Format, Profiles, completer, use_profiles

# What can be listed, and the option that takes a name of it.
_OPTIONS = {
    "gpus": "--gpu",
    "models": "--model",
    "checkpoints": "--model",
    "formats": "--quantization",
    "drafters": "--draft-model",
    "datasets": "--dataset",
    "presets": "--preset",
    "methods": "--method",
    "engines": "--engine",
    "tables": "",
}
KINDS = tuple(_OPTIONS)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help=", ".join(KINDS), autocompletion=completer(lambda: KINDS)),
    ] = None,
    profiles: Profiles = None,
    form: Format = None,
) -> None:
    """List what can be named: GPUs, models, quantised checkpoints, drafters, and so on."""
    from dflash_sim.studies.show.files import as_text, chosen_format
    from dflash_sim.studies.show.sheet_lists import rows, table
    from dflash_sim.studies.show.terminal import as_page, deliver

    use_profiles(profiles)
    shape = chosen_format(form, None)
    if kind is None:
        found = [{"list": name, "names for": option or "-"} for name, option in _OPTIONS.items()]
    else:
        found = rows(kind)
    text = as_page(table(found), to_file=False) if shape == "table" else as_text(found, shape)
    if shape == "table" and kind is not None:
        option = _OPTIONS[kind]
        use = f"; a name goes to {option}" if option else ""
        text += f"\n{len(found):,} {kind}{use}\n"
    deliver(text)
