"""Published drafters of kinds that are not simulated are refused by name, with the reason."""

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_drafter, names
from dflash_sim.profiles.other_drafters import KINDS, table


@pytest.mark.parametrize("row", table(), ids=lambda row: row["repo"])
def test_it_is_refused_by_any_of_its_names(row: dict[str, str]) -> None:
    assert len(row["source"]) > 10
    short = row["repo"].rpartition("/")[2].lower()
    for name in (row["repo"], *({short} - set(names("drafters")))):
        with pytest.raises(UsageError, match=f"is a {row['kind']} drafter for") as said:
            load_drafter(name)
        assert KINDS[row["kind"]] in str(said.value)
        assert "\n" not in str(said.value)


def test_every_kind_is_of_some_drafter_and_none_of_them_has_a_sheet() -> None:
    assert {row["kind"] for row in table()} == set(KINDS)
    assert not {row["repo"].lower() for row in table()} & set(names("drafters"))


def test_other_names_are_unknown_as_before() -> None:
    with pytest.raises(UsageError, match="unknown drafter 'nobody/Any-DFlash2'"):
        load_drafter("nobody/Any-DFlash2")
