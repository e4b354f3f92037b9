"""SGLang's prefix cache: a radix tree of texts whose keys and values are kept, oldest leaves out.

A node is a stretch of text behind its parent's. Running requests lock the path of theirs; what is
not locked is evicted, the leaf that was not used for longest first, whole nodes at a time. In the
cache of a hybrid model a prefix is of use only where the recurrent state behind it is kept, and
there are so many slots for those. (``radix_cache.py`` and ``mamba_radix_cache.py`` of SGLang.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from dflash_sim.simulator.requests.prompts import Text, Units, beginning, in_units


class Node:
    """A stretch of text; ``used`` orders nodes by their last use."""

    __slots__ = ("children", "locks", "parent", "state", "state_locks", "text", "units", "used")

    def __init__(self, text: Units, parent: "Node | None") -> None:
        self.text = text
        self.units = sum(many for _, _, many in text)
        self.parent = parent
        self.children: dict[tuple[tuple[int, ...], int], Node] = {}
        self.locks = self.state_locks = self.used = 0
        self.state = False


@dataclass(frozen=True, slots=True)
class Match:
    """What is kept of a prompt.

    Parameters
    ----------
    tokens
        That need not be computed.
    node
        Where they end.
    branch
        Tokens whose keys and values are kept though no state is behind them, if those are more.
    """

    tokens: int
    node: Node
    branch: int = 0


class RadixCache:
    """Texts that are kept.

    Parameters
    ----------
    unit
        Tokens that are kept or not as one: a page, or the distance of recurrent states.
    states
        True for a hybrid model.
    """

    def __init__(self, unit: int, *, states: bool = False) -> None:
        self.unit = unit
        self.root = Node([], None)
        self.root.state = True
        self.tokens = self.locked = 0
        self.kept_states = self.locked_states = 0
        self._states = states
        self._uses = 0
        self._order = count()  # of entries alike in a heap
        self._leaves: list[tuple[int, int, Node]] = []
        self._stateful: list[tuple[int, int, Node]] = []

    # ---- what is kept --------------------------------------------------------------------

    def match(self, text: Text, most: int | None = None) -> Match:
        """Find the longest beginning of a text that is kept, of at most ``most`` tokens; use it."""
        path = self._path(in_units(text if most is None else beginning(text, most), self.unit))
        best, seen, found = self.root, 0, 0
        for node in path:
            seen += node.units
            if node.state or not self._states:
                best, found = node, seen
        if best is not self.root:
            self._use(path[: path.index(best) + 1])
        branch = seen * self.unit if seen > found else 0
        return Match(found * self.unit, best, branch)

    def insert(self, text: Text, most: int | None = None) -> Node:
        """Keep a text, up to ``most`` tokens, and the state behind it; returns where it ends."""
        units = in_units(text if most is None else beginning(text, most), self.unit)
        path = self._path(units)
        left = _behind(units, sum(node.units for node in path))
        if left:
            parent = path[-1] if path else self.root
            node = Node(left, parent)
            parent.children[_first(left)] = node
            self.tokens += node.units * self.unit
            path.append(node)
        if not path:
            return self.root
        end = path[-1]
        if self._states and not end.state:
            end.state = True
            self.kept_states += 1
        self._use(path)
        return end

    def tokens_to(self, node: Node) -> int:
        """Tokens from the beginning to the end of a node."""
        return self.unit * sum(each.units for each in self._up(node))

    # ---- what running requests hold ------------------------------------------------------

    def lock(self, node: Node) -> None:
        """Keep a path until it is released."""
        for each in self._up(node):
            if not each.locks:
                self.locked += each.units * self.unit
            each.locks += 1
        if self._states and node.state and node is not self.root:
            self.locked_states += not node.state_locks
            node.state_locks += 1

    def release(self, node: Node) -> None:
        """Undo a :meth:`lock`."""
        if node.state_locks:
            node.state_locks -= 1
            self.locked_states -= not node.state_locks
            heappush(self._stateful, (node.used, next(self._order), node))
        for each in self._up(node):
            each.locks -= 1
            if not each.locks:
                self.locked -= each.units * self.unit
                self._offer(each)

    # ---- what goes -----------------------------------------------------------------------

    def fit(self, tokens: int) -> None:
        """Evict until no more than ``tokens`` are kept, or all that is left is locked."""
        self.evict(self.tokens - tokens)

    def evict(self, tokens: int) -> int:
        """Evict ``tokens`` or a few more, as far as nothing is locked; returns how many."""
        before = self.tokens
        while before - self.tokens < tokens and self._leaves:
            used, _, node = heappop(self._leaves)
            if used == node.used and self._goes(node):
                self._remove(node)
        return before - self.tokens

    def fit_states(self, slots: int) -> None:
        """Evict recurrent states until no more than ``slots`` are kept beside locked ones."""
        while self.kept_states > max(slots, self.locked_states) and self._stateful:
            used, _, node = heappop(self._stateful)
            if used != node.used or not node.state or node.state_locks or node.parent is None:
                continue
            if node.children or node.locks:
                node.state = False
                self.kept_states -= 1
            else:
                self._remove(node)

    # ---- the tree ------------------------------------------------------------------------

    def _path(self, units: Units) -> list[Node]:
        """Nodes that a text begins with; one that it leaves in the middle is split there."""
        path: list[Node] = []
        node = self.root
        while units:
            child = node.children.get(_first(units))
            if child is None:
                break
            common = _common(child.text, units)
            node = child if common == child.units else self._split(child, common)
            path.append(node)
            units = _behind(units, common)
            if node is not child:
                break
        return path

    def _split(self, node: Node, units: int) -> Node:
        assert node.parent is not None
        head = Node(_before(node.text, units), node.parent)
        node.parent.children[_first(node.text)] = head
        node.text = _behind(node.text, units)
        node.units -= units
        node.parent = head
        head.children[_first(node.text)] = node
        head.locks, head.used = node.locks, node.used
        return head

    def _use(self, path: list[Node]) -> None:
        for node in path:
            self._uses += 1
            node.used = self._uses
            self._offer(node)
            if node.state and self._states:
                heappush(self._stateful, (node.used, next(self._order), node))

    def _offer(self, node: Node) -> None:
        if self._goes(node):
            heappush(self._leaves, (node.used, next(self._order), node))

    def _goes(self, node: Node) -> bool:
        return not node.children and not node.locks and node.parent is not None

    def _remove(self, node: Node) -> None:
        """Take a leaf out, and with it the nodes before it that have no use then."""
        parent = node.parent
        assert parent is not None
        del parent.children[_first(node.text)]
        node.parent = None
        self.tokens -= node.units * self.unit
        self.kept_states -= node.state
        if self._goes(parent):
            if self._states and not parent.state:
                self._remove(parent)
            else:
                self._offer(parent)

    def _up(self, node: Node) -> Iterator[Node]:
        while node.parent is not None:
            yield node
            node = node.parent


def _first(units: Units) -> tuple[tuple[int, ...], int]:
    name, at, _ = units[0]
    return name, at


def _common(one: Units, other: Units) -> int:
    """Units that two texts begin with."""
    total = 0
    for (name, at, many), (name2, at2, many2) in zip(one, other, strict=False):
        if (name, at) != (name2, at2):
            break
        total += min(many, many2)
        if many != many2:
            break
    return total


def _before(units: Units, most: int) -> Units:
    kept: Units = []
    for name, at, many in units:
        if most <= 0:
            break
        kept.append((name, at, min(many, most)))
        most -= many
    return kept


def _behind(units: Units, passed: int) -> Units:
    for i, (name, at, many) in enumerate(units):
        if passed < many:
            return [(name, at + passed, many - passed), *units[i + 1 :]]
        passed -= many
    return []
