"""A page that is served, and a browser to look at it with."""

from collections.abc import Iterator
from threading import Thread

import pytest

from dflash_sim.ui.desk import Desk
from dflash_sim.ui.server import address, application, bound


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a page, with its token."""
    with Desk(1) as desk:
        server = bound(application(desk, "secret-of-this-test"), 0)
        Thread(target=server.serve_forever, daemon=True).start()
        yield address(server, "secret-of-this-test")
        server.shutdown()
        server.server_close()
