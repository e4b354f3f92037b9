"""A clear word where torch is not installed."""

from importlib.util import find_spec


def need_torch(command: str) -> None:
    """Refuse before any work where ``command`` lacks what it computes with.

    Raises
    ------
    UsageError
        It names what to install.
    """
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        from dflash_sim.profiles.errors import UsageError

        msg = (
            f"{command} needs {' and '.join(missing)}; install them: pip install "
            "'dflash-sim[gpu]' (from a checkout: pip install '.[gpu]')."
        )
        raise UsageError(msg)
