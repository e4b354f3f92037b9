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
        from dflash_sim.profiles.errors import UsageError, to_install

        msg = f"{command} needs {' and '.join(missing)}: {to_install('gpu')}."
        raise UsageError(msg)


def need_gpus(device: str, tp: int) -> None:
    """Refuse ``cuda`` where torch sees fewer GPUs than ranks.

    Raises
    ------
    UsageError
        It says what torch sees, and what can be asked instead.
    """
    if device != "cuda":
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < tp:
        from dflash_sim.profiles.errors import UsageError

        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        msg = (
            f"--device cuda with --tp {tp} needs {tp} GPU{'s' * (tp > 1)}, and torch sees "
            f"{seen}{built}. Give --device cpu, or a smaller --tp."
        )
        raise UsageError(msg)
