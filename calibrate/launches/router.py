"""A launch of SGLang's router: its policy, and the words that are its servers' own."""

import re
from collections.abc import Sequence

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.routers import SGLANG_POLICIES

MODULE = "sglang_router.launch_server"  # starts servers and a router in front of them
WHY = "a router and its servers: one of them is asked about; plan takes its policy, finds how many"
_COUNT = "a plan finds how many servers there are"
_ALONE = "of a router its policy alone is simulated"
_COUNTS = ("--dp-size", "--data-parallel-size", "--dp")
_OWN = re.compile(r"--router-[\w-]+|--dp-size|--data-parallel-size|--dp")
_POLICY = re.compile(r"--(?:router-)?policy[=\s]+[\"']?([\w-]+)")


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of the launch of a router and servers: those of a server, and the router's."""
    servers: list[str] = []
    own: list[str] = []
    at = 0
    while at < len(words):
        name, equals, _ = words[at].partition("=")
        into = own if _OWN.fullmatch(name) else servers
        into.append(words[at])
        at += 1
        while into is own and not equals and at < len(words) and not words[at].startswith("-"):
            own.append(words[at])
            at += 1
    return servers, own


def beside_policy(words: Sequence[str]) -> list[tuple[str, str]]:
    """Words of a router that a plan does not take, flag by flag, each with the reason."""
    flags: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not flags:
            flags.append([])
        flags[-1].append(word)
    named = [(flag[0].partition("=")[0], " ".join(flag)) for flag in flags]
    return [
        (text, _COUNT if name in _COUNTS else _ALONE)
        for name, text in named
        if name not in ("--router-policy", "--policy")
    ]


def router_of_launch(text: str | None) -> str | None:
    """Return the router that a launch names, by our name; None if there is none in it.

    Raises
    ------
    UsageError
        Its policy is not simulated.
    """
    if text is None or "sglang_router" not in text:
        return None
    found = _POLICY.search(text)
    policy = found[1] if found else "cache_aware"  # what it does where nothing is said
    if policy not in SGLANG_POLICIES:
        known = ", ".join(sorted(SGLANG_POLICIES))
        msg = (
            f"--from-launch: the router's policy {policy} is not simulated; these are: {known}. "
            "Give --router."
        )
        raise UsageError(msg)
    return SGLANG_POLICIES[policy]
