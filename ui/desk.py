"""The desk: answers that are known, those that are being worked on, and who waits for which.

A short answer is made at once, in this process, so that a drag is followed. All else goes to
worker processes in the order in which a page needs it. When a page asks for another state, what it
no longer needs is not begun, or left where it was; what was found stays known to every page.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any, Self, TypeAlias

from dflash_sim.jobs.leaving import LeftError
from dflash_sim.profiles.find import users_folders
from dflash_sim.profiles.one_look import Looks, one_look
from dflash_sim.profiles.ways_in import named_path
from dflash_sim.ui.answer import SHORT, Answer, Reasons, Refusal, answered, reasons
from dflash_sim.ui.hand import Hand

Found: TypeAlias = Answer | Reasons | Refusal
WHY = "why"
MOST_KNOWN = 4000  # answers that are kept, some kilobytes each
MOST_PAGES = 50
_CONFIG = ".json"
_MOST_FILES = 1000  # of a folder that are looked at
_READ: dict[tuple[str, ...], Looks] = {}  # what this process read, by the state of user's files
_BUG = "no answer; this is a bug, please report it"


@dataclass(frozen=True)
class Task:
    """An answer to be had: fields of a scenario, how well, and whether beside plain decoding.

    Parameters
    ----------
    files
        Those that it reads as they are now: of other ones nothing is known yet.
    """

    fields: tuple[tuple[str, Any], ...]
    quality: str
    baseline: bool = False
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any], quality: str, *, baseline: bool = False) -> Self:
        """Return the task of a scenario, whatever the order of its fields."""
        return cls(tuple(sorted(fields.items())), quality, baseline, files_now(fields))


def files_now(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return name, date and size of every file of the user's that a scenario may be read from."""
    named = {part for text in map(str, fields.values()) for part in (text, text.partition(":")[2])}
    found = [named_path(name) for name in named if "/" in name or "." in name]
    return tuple(sorted(f for path in (*found, *users_folders()) for f in _state(path)))


def _state(path: Path) -> Iterator[str]:
    """Of a config, those beside it too: a checkpoint may say there how it is quantised."""
    with suppress(OSError, ValueError):  # no file, or no name of one
        beside = path.parent.glob(f"*{_CONFIG}") if path.suffix == _CONFIG else ()
        every = [path, *(path.rglob("*") if path.is_dir() else beside)]
        for file in islice(every, _MOST_FILES):
            told = file.stat()
            yield f"{file} {told.st_mtime_ns} {told.st_size}"


def done(task: Task) -> Found:
    """Do a task, wherever it is done, with what was read for the ones before it.

    Sheets are read once for as long as no file of the user's is another than it was.
    """
    read = _READ.get(task.files)
    if read is None:
        _READ.clear()
        read = _READ[task.files] = {}
    with one_look(read):
        if task.quality == WHY:
            return reasons(dict(task.fields))
        return answered(dict(task.fields), task.quality, baseline=task.baseline)


@dataclass
class Desk:
    """Use it as a context, at whose end no worker is left.

    Parameters
    ----------
    workers
        Processes beside this one.
    hand
        Makes one of them.
    """

    workers: int = 1
    hand: Callable[[], Hand] = Hand
    _known: "OrderedDict[Task, Found]" = field(default_factory=OrderedDict)
    _wanted: "OrderedDict[str, list[Task]]" = field(default_factory=OrderedDict)
    _at_work: dict[Task, Hand] = field(default_factory=dict)
    _news: Condition = field(default_factory=Condition)
    _short: Lock = field(default_factory=Lock)
    _open: bool = True

    def __enter__(self) -> Self:
        for _ in range(self.workers):
            Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._news:
            self._open = False
            self._news.notify_all()

    def known(self, task: Task) -> Found | None:
        """Return what was found; None as long as nothing was."""
        with self._news:
            return self._known.get(task)

    def wait(self, tasks: Iterable[Task], most_s: float) -> None:
        """Wait until one of these that is open is done, or for as long as a page waits."""
        with self._news:
            missing = [task for task in tasks if task not in self._known]
            if missing:
                self._news.wait_for(lambda: any(t in self._known for t in missing), most_s)

    def want(self, page: str, tasks: Iterable[Task]) -> bool:
        """Have these worked on for a page, first things first; return True if some are open.

        What it wanted before and is not among them is dropped, and left if no page wants it.
        """
        with self._news:
            missing = [task for task in dict.fromkeys(tasks) if task not in self._known]
            if missing:
                self._wanted[page] = missing
            else:
                self._wanted.pop(page, None)
            while len(self._wanted) > MOST_PAGES:  # pages that were closed long ago
                self._wanted.popitem(last=False)
            needed = {task for tasks in self._wanted.values() for task in tasks}
            for task, hand in self._at_work.items():
                if task not in needed:
                    hand.leave()
            self._news.notify_all()
            return bool(missing)

    def at_once(self, task: Task) -> Found:
        """Make an answer here and now, one after the other."""
        with self._short:
            found = self.known(task) or done(task)
            self._keep(task, found)
        return found

    def _keep(self, task: Task, found: Found) -> None:
        with self._news:
            self._known[task] = found
            self._at_work.pop(task, None)
            self._news.notify_all()
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)

    def _next(self, hand: Hand) -> Task | None:
        """Wait for a task that nobody works on, of the page that has waited longest for one."""
        with self._news:
            while self._open:
                for page, tasks in self._wanted.items():
                    task = next((t for t in tasks if self._is_free(t)), None)
                    if task is not None:
                        self._wanted.move_to_end(page)
                        self._at_work[task] = hand
                        return task
                self._news.wait()
        return None

    def _let_go(self, task: Task) -> None:
        """A task was left: whoever wants it again has it begun again."""
        with self._news:
            self._at_work.pop(task, None)
            self._news.notify_all()

    def _is_free(self, task: Task) -> bool:
        return task not in self._known and task not in self._at_work

    def _work(self) -> None:
        hand = self.hand()
        try:
            while (task := self._next(hand)) is not None:
                try:
                    found: Found = hand.do(done, task)
                except LeftError:
                    self._let_go(task)
                    continue
                except Exception as error:
                    found = Refusal(f"{_BUG}: {str(error).strip().splitlines()[-1]}")
                self._keep(task, found)
        finally:
            hand.close()


__all__ = ["SHORT", "WHY", "Desk", "Found", "Task", "done"]
