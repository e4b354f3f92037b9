"""Folders of scratch files end with their context, or with the next one after a kill."""

import errno
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from programs import Program

from dflash_sim.jobs import scratch
from dflash_sim.jobs.scratch import scratch_file, scratch_folder

HOLDS = """
import sys, time
from dflash_sim.jobs.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner/file").write_text("x")
    print("begun", flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(place: Path) -> Program:
    program = Program("-c", HOLDS, env={"TMPDIR": str(place)})
    program.heard("begun")
    return program


def test_what_a_killed_process_left_is_removed_by_the_next(place: Path) -> None:
    program = holder(place)
    (left,) = place.iterdir()
    program.process.kill()
    program.end()
    assert left.exists()
    with scratch_folder() as mine:
        assert list(place.iterdir()) == [mine]
    assert list(place.iterdir()) == []


def test_what_a_living_process_has_stays(place: Path) -> None:
    program = holder(place)
    (theirs,) = place.iterdir()
    with scratch_folder(), scratch_folder():
        assert (theirs / "inner/file").exists()
    assert list(place.iterdir()) == [theirs]
    program.process.send_signal(signal.SIGINT)
    program.end()
    shutil.rmtree(theirs, ignore_errors=True)


def test_other_files_and_links_are_left_alone(place: Path) -> None:
    outside = place / "precious"
    outside.mkdir()
    (place / f"{scratch._FOLDER}link").symlink_to(outside)
    (place / f"{scratch._FOLDER}file").write_text("x")
    with scratch_folder():
        pass
    assert outside.is_dir()
    assert (place / f"{scratch._FOLDER}file").exists()


def test_where_files_have_no_locks_a_folder_is_made_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("dflash_sim.jobs.scratch.fcntl.flock", none)
    with scratch_folder() as one, scratch_folder() as two:  # which takes nothing for left
        assert one.is_dir()
        assert two.is_dir()
    assert list(place.iterdir()) == []


WRITES = """
import sys, time
from pathlib import Path
from dflash_sim.jobs.scratch import scratch_file
with scratch_file(Path(sys.argv[1])) as file:
    file.write_text("half")
    print("begun", flush=True)
    time.sleep(600)
"""


def writer(place: Path) -> Program:
    program = Program("-c", WRITES, str(place))
    program.heard("begun")
    return program


def test_a_half_file_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    program = writer(tmp_path)
    (left,) = tmp_path.iterdir()
    program.process.kill()
    program.end()
    assert left.read_text() == "half"
    with scratch_file(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_being_written_stays(tmp_path: Path) -> None:
    program = writer(tmp_path)
    (theirs,) = tmp_path.iterdir()
    with scratch_file(tmp_path), scratch_file(tmp_path):
        assert theirs.read_text() == "half"
    assert list(tmp_path.iterdir()) == [theirs]
    program.end()


def test_what_only_has_such_a_name_stays(tmp_path: Path) -> None:
    """No folder, pipe or link is one of ours, and opening a pipe would wait for ever."""
    names = [f"{scratch._FILE}{kind}" for kind in ("folder", "pipe", "link")]
    (tmp_path / names[0]).mkdir()
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".rows.csv-abcdefgh").write_text("x")
    with scratch_file(tmp_path):
        pass
    assert len(list(tmp_path.iterdir())) == 5


def test_an_error_in_between_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), scratch_file(tmp_path):
        raise FileNotFoundError
    assert list(tmp_path.iterdir()) == []
