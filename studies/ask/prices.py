"""What GPUs cost: published price ranges, or what the asker pays; hours and months of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.sheets import Device, PriceRange
from dflash_sim.profiles.times.machine_profile import is_profile, load_measured

HOURS_A_MONTH = 730.0  # 365 days of 24 hours, over 12
_OWN = "--price"


def own_prices(given: Iterable[str] | Mapping[str, float]) -> dict[str, float]:
    """Rents by GPU [USD/h] from ``b200=4.50``, or from a mapping.

    Raises
    ------
    UsageError
        A price that is no number above 0, a GPU that is not known, or one that is named twice.

    Examples
    --------
    >>> own_prices(["b200=4.50", "h200=2.20"])
    {'b200': 4.5, 'h200': 2.2}
    """
    pairs = given.items() if isinstance(given, Mapping) else [_pair(text) for text in given]
    found: dict[str, float] = {}
    for gpu, text in pairs:
        name = _kind(str(gpu))
        try:
            usd = float(text)
        except (TypeError, ValueError):
            usd = float("nan")
        if not 0 < usd < float("inf"):
            msg = f"{_OWN} {gpu}={text}: a price is a number of USD an hour above 0, as b200=4.50."
            raise UsageError(msg)
        if name in found:
            msg = f"{_OWN} {name} is given twice; give one price for a kind of GPU."
            raise UsageError(msg)
        found[name] = usd
    return found


def checked_prices(
    given: Iterable[str] | Mapping[str, float], gpus: Iterable[str]
) -> dict[str, float]:
    """Return the rents of :func:`own_prices`, each of a GPU that is asked about.

    Raises
    ------
    UsageError
        Also where nothing asked about is on such a GPU.
    """
    own = own_prices(given)
    if not own:
        return own
    kinds = dict.fromkeys(_kind(gpu) for gpu in dict.fromkeys(gpus))
    for gpu, usd in own.items():
        if gpu not in kinds:
            msg = (
                f"{_OWN} {gpu}={usd:g}: no server that is asked about is on {gpu}, they are on "
                f"{', '.join(kinds)}; leave it out, or add it to --gpu."
            )
            raise UsageError(msg)
    return own


def paid(own: Mapping[str, float]) -> str:
    """Say what is paid, such as ``b200 at 4.5 USD/h as given``; nothing where nothing is."""
    return ", ".join(f"{gpu} at {usd:g} USD/h as given" for gpu, usd in own.items())


def own_price(device: Device, own: Mapping[str, float]) -> PriceRange | None:
    """What the asker pays for a GPU; None where nothing is given."""
    usd = own.get(device.name)
    return None if usd is None else PriceRange(usd, usd, usd, f"as given with {_OWN}")


def priced(device: Device, own: Mapping[str, float]) -> Device:
    """The GPU with the asker's price in place of the published range, where there is one."""
    price = own_price(device, own)
    return device if price is None else replace(device, price=price)


def _kind(gpu: str) -> str:
    """The GPU that is rented, by its sheet or by a profile that was measured on it."""
    return load_measured(gpu).as_device().name if is_profile(gpu) else load_device(gpu).name


def _pair(text: str) -> tuple[str, str]:
    gpu, equals, usd = text.partition("=")
    if not equals or not gpu:
        msg = f"{_OWN} {text}: give GPU=USD, the rent of one GPU an hour, as b200=4.50."
        raise UsageError(msg)
    return gpu.strip(), usd.strip()
