"""Choose rows by an expression such as ``concurrency==1 and method!='mtp'``, in a small language.

It is parsed by Python's parser, and never evaluated by it.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.calibrate.observations.observation import ALIASES, NAMES, Kind, Observation
from dflash_sim.profiles.errors import UsageError

_LONGEST, _DEEPEST = 2000, 40
EXAMPLE = "concurrency==1 and method!='mtp'"


@dataclass(frozen=True)
class Selection:
    """A parsed expression; called with an observation, it says whether the row is selected.

    Parameters
    ----------
    names
        Conditions it looks at.
    """

    text: str
    names: frozenset[str]
    holds: Callable[[Observation], Any] = field(compare=False, repr=False)

    def __call__(self, observation: Observation) -> bool:
        return self.holds(observation) is True

    def split(self, rows: Iterable[Observation]) -> tuple[list[Observation], list[Observation]]:
        """The selected rows, and the others."""
        chosen: tuple[list[Observation], list[Observation]] = ([], [])
        for row in rows:
            chosen[not self(row)].append(row)
        return chosen


def parse_filter(text: str) -> Selection:
    """The rows that ``text`` selects, such as ``concurrency==1 and method!='mtp'``.

    Comparisons (``== != < <= > >= in``, ``not in``) of :data:`NAMES` with numbers, quoted words,
    True, False, None and tuples of them, joined by ``and``, ``or``, ``not``. Words compare in any
    case. A row that lacks a name fulfils no comparison with it, be it ``==`` or ``!=``; ask for
    the lack itself with ``dataset==None``.

    Raises
    ------
    UsageError
        Naming the token, what is allowed instead and an example.
    """
    if len(text) > _LONGEST:
        raise _error(token=f"{len(text)} characters", allowed=f"at most {_LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as "\d" or "1and": never what was meant
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError, Warning) as error:
        reason = getattr(error, "msg", error)
        raise _error(token=f"'{text[:60]}'", allowed=f"an expression ({reason})") from None
    names: set[str] = set()
    holds = _condition(tree.body, names, 0)
    return Selection(text, frozenset(names), holds)


_Value = Callable[[Observation], Any]
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def _error(*, token: ast.expr | str, allowed: str) -> UsageError:
    if isinstance(token, ast.expr):
        try:
            token = f"'{ast.unparse(token)}'"
        except RecursionError:
            token = "an expression this deeply nested"
    msg = f"cannot select rows by {token}; allowed: {allowed}. Such as: {EXAMPLE}"
    return UsageError(msg)


def _condition(node: ast.expr, names: set[str], depth: int) -> _Value:
    """A three-valued condition: True, False, or None where the row does not say."""
    if depth > _DEEPEST:
        raise _error(token="this deep an expression", allowed=f"{_DEEPEST} levels")
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, names, depth + 1) for value in node.values]
        return _joined(parts, decides=isinstance(node.op, ast.Or))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _condition(node.operand, names, depth + 1)
        return lambda row: None if (found := inner(row)) is None else not found
    if isinstance(node, ast.Compare):
        return _comparisons(node, names)
    if isinstance(node, ast.Name) and _kind(node) == "truth":
        return _name(node, names)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        always = node.value
        return lambda row: always
    raise _error(token=node, allowed="comparisons joined by and, or, not")


def _joined(parts: list[_Value], *, decides: bool) -> _Value:
    def holds(row: Observation) -> bool | None:
        found = [part(row) for part in parts]
        if decides in found:
            return decides
        return None if None in found else not decides

    return holds


def _comparisons(node: ast.Compare, names: set[str]) -> _Value:
    sides = [node.left, *node.comparators]
    if not any(isinstance(side, ast.Name) for side in sides):
        raise _error(token=node, allowed=f"a comparison with one of {', '.join(NAMES)}")
    pairs = zip(sides, node.ops, sides[1:], strict=False)
    return _joined([_comparison(a, op, b, names) for a, op, b in pairs], decides=False)


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, names: set[str]) -> _Value:
    compare = _COMPARE.get(type(op))
    if compare is None:
        raise _error(token="is", allowed="== != < <= > >= in")
    listed = isinstance(op, ast.In | ast.NotIn)
    a, b = _operand(left, names, listed=False), _operand(right, names, listed=listed)
    kinds = {a.kind, *(b.kinds if listed else [b.kind])}
    lack = isinstance(op, ast.Eq | ast.NotEq) and "none" in kinds
    ordered = not isinstance(op, ast.Eq | ast.NotEq) and not listed
    if len(kinds - {"none"} if lack else kinds) > 1 or (ordered and kinds != {"number"}):
        wants = "two numbers" if ordered else f"two values of one kind, here {a.kind}"
        raise _error(token=ast.Compare(left, [op], [right]), allowed=wants)

    def holds(row: Observation) -> bool | None:
        x, y = a.of(row), b.of(row)
        return None if (x is None or y is None) and not lack else compare(x, y)

    return holds


@dataclass(frozen=True)
class _Operand:
    of: _Value
    kind: str
    kinds: tuple[str, ...] = ()


def _operand(node: ast.expr, names: set[str], *, listed: bool) -> _Operand:
    if isinstance(node, ast.Name) and not listed:
        return _Operand(_name(node, names), _kind(node))
    literals = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else None
    if listed and literals:
        values = tuple(_literal(item) for item in literals)
        return _Operand(lambda row: values, "", tuple(map(_kind_of, values)))
    if listed or literals is not None:
        raise _error(token=node, allowed="a list of values behind in, such as (1, 32)")
    value = _literal(node)
    return _Operand(lambda row: value, _kind_of(value))


def _literal(node: ast.expr) -> Any:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value = node.value if isinstance(node, ast.Constant) else ...
    if isinstance(value, str) and sign > 0:
        return value.casefold()
    if (value is None or isinstance(value, bool)) and sign > 0:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return sign * value
    raise _error(token=node, allowed="numbers, quoted words, True, False, None")


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "none"


def _kind(node: ast.Name) -> Kind:
    name = ALIASES.get(node.id, node.id)
    if name not in NAMES:
        raise _error(token=node, allowed=f"{', '.join(sorted([*NAMES, *ALIASES]))}; quote words")
    return NAMES[name]


def _name(node: ast.Name, names: set[str]) -> _Value:
    name, kind = ALIASES.get(node.id, node.id), _kind(node)
    names.add(name)

    def of(row: Observation) -> Any:
        value = row.value(name)
        value = value.casefold() if isinstance(value, str) else value
        return value if _kind_of(value) == kind else None

    return of
