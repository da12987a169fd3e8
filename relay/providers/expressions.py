"""What a JMESPath expression may cost, judged on its parsed form before it reads anything.

`[@,@][]|[@,@][]|…` doubles what it reads with each step: sixteen of them make 65,536 elements of one. A provider file
is the operator's, so its expressions may be any that are bounded. Those of an inline definition are an app's, so they
are held to what only looks: names, indexes, literals, comparisons, `&&`, `||` and `!`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, ClassVar

from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

MAX_COPIES = 100
"""Copies that an expression of a provider file may make of what it reads."""

MAX_PLAIN = 200
"""Characters of an expression of an app."""

_PLAIN = {
    "field",
    "subexpression",
    "identity",  # what an index is taken of, where no name stands before it
    "index",
    "index_expression",
    "literal",
    "comparator",
    "and_expression",
    "or_expression",
    "not_expression",
}

_STEPS = {"subexpression", "index_expression"}

_BRANCHES = {"multi_select_list", "multi_select_dict", "and_expression", "or_expression", "comparator"}
"""Nodes each of whose children reads the same value. The children of others read one after the other."""

Node = Mapping[str, Any]


def judge(expression: str) -> None:
    """Refuse an expression of a provider file that calls what there is not, or that makes too many copies.

    Raises:
        ValueError: with what is wrong.
    """
    tree = Parser().parse(expression).parsed
    for node in _nodes(tree):
        if node["type"] != "function_expression":
            continue
        if node["value"] not in Functions.FUNCTION_TABLE:
            known = ", ".join(sorted(Functions.FUNCTION_TABLE))
            raise ValueError(f"JMESPath has no function '{node['value']}'; it has {known}")
        if node["value"] == "join" and node["children"] and node["children"][0]["type"] != "literal":
            raise ValueError("the first argument of join() must be a literal, such as ', '")
    if _copies(tree) > MAX_COPIES:
        raise ValueError(f"an expression may make at most {MAX_COPIES} copies of what it reads")


def judge_plain(expression: str) -> str:
    """Return an expression of an app, if it only looks at what it reads.

    Raises:
        ValueError: with what is wrong.
    """
    if len(expression) > MAX_PLAIN:
        raise ValueError(f"must be an expression of at most {MAX_PLAIN} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PendingDeprecationWarning)  # a literal in backticks that is no JSON
            tree = Parser().parse(expression).parsed
        nodes = list(_nodes(tree))
    except (JMESPathError, PendingDeprecationWarning) as error:
        raise ValueError(f"must be JMESPath: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("must be an expression that nests less deep") from None
    if any(node["type"] in _STEPS and node["children"][0]["type"] == "not_expression" for node in nodes):
        raise ValueError("must have brackets behind '!': JMESPath reads !a.b as (!a).b, so write !(a.b)")
    if not all(node["type"] in _PLAIN for node in nodes):
        raise ValueError(
            "must be made of names, indexes, literals, comparisons, &&, || and ! alone, such as status == 'done'"
        )
    return expression


def _nodes(tree: Node) -> Iterator[Node]:
    """Yield every node of a parsed expression."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in node["children"] if isinstance(child, dict)]  # those of a slice are numbers


def _copies(node: Node) -> int:
    """Return how many copies of what it reads an expression makes at most."""
    copies = [_copies(child) for child in node["children"] if isinstance(child, dict)]
    if node["type"] in _BRANCHES:
        return sum(copies)
    if node["type"] != "function_expression":
        return prod(copies)
    by_expression = [child["type"] == "expref" for child in node["children"]]
    read = sum(count for count, maps in zip(copies, by_expression, strict=True) if not maps)
    return max(1, read) * prod(count for count, maps in zip(copies, by_expression, strict=True) if maps)


def _same(left: Any, right: Any) -> bool:
    """Compare as JMESPath does, but for two lists or two objects, which are the same only where one of them is empty.

    A comparison would walk both, as often as an expression has comparisons.
    """
    if left and right and isinstance(left, list | dict) and isinstance(right, list | dict):
        return False
    return bool(TreeInterpreter.COMPARATOR_FUNC["eq"](left, right))


class Interpreter(TreeInterpreter):
    """Interprets expressions, whose comparisons cost nothing worth counting."""

    COMPARATOR_FUNC: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {
        **TreeInterpreter.COMPARATOR_FUNC,
        "eq": _same,
        "ne": lambda left, right: not _same(left, right),
    }
