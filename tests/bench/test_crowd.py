"""Two hundred streams on a simulated server for ten minutes: ``pytest -m bench -s tests/bench``.

``CROWD_S`` makes it shorter or longer; memory and streams are printed, and none may be lost.
"""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from served_process import crowd, serving

pytestmark = pytest.mark.bench

STREAMS, TOKENS = 200, 4000
TWIN = ("--gpu", "b200", "--model", "qwen3-8b", "--num-gpus", "1", "--method", "dflash",
        "--acceptance", "al:4", "--isl", "256", "--osl", "4000", "--stream-interval", "200",
        "--max-running-requests", "200")  # fmt: skip


def test_a_crowd_for_ten_minutes(tmp_path: Path) -> None:
    seconds = float(os.environ.get("CROWD_S", "600"))
    with serving(tmp_path, *TWIN) as server:
        found = crowd(server, STREAMS, seconds=seconds, tokens=TOKENS)
        done = server.metric("num_requests_total")
        aborted = server.metric("num_aborted_requests_total")
    rss = np.array(found.rss_mib)
    fifths = [f"{part.mean():.1f}" for part in np.array_split(rss, 5)]
    print(f"\n{found.asked} streams asked for, {found.whole} whole, {done:.0f} answered, "
          f"{aborted:.0f} aborted; "
          f"{np.median(found.running):.0f} running; {rss[0]:.1f} MiB at first, by fifths "
          f"{', '.join(fifths)}, at most {rss.max():.1f}")  # fmt: skip
    print(*found.lost[:9], sep="\n")
    assert not found.lost
    assert found.whole == found.asked == done
