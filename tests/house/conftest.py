"""Trees take memory: they are kept for the tests of one file."""

from collections.abc import Iterator

import pytest
from parsed_files import parsed


@pytest.fixture(autouse=True, scope="module")
def forget_trees() -> Iterator[None]:
    yield
    parsed.cache_clear()
