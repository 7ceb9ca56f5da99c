"""Patterns: sentences and questions with slots, alternatives and optional parts.

{s}  {s:me}  {s's}  {job:a}   a slot; as an object, as an owner, with its article
(was|has been)                any of them
[ in {year}]                  now and then
<works|work>                  of somebody else, of the narrator
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from gradmem_core.errors import DataError

TOKEN = re.compile(r"\{(\w+)('s|:\w+)?\}|([\[\](<)>|])|([^{}\[\](<)>|]+)")
CLOSING = {"[": "]", "(": ")", "<": ">"}


@dataclass(frozen=True)
class Slot:
    """A place for an argument of a fact."""

    name: str
    case: str = ""
    "`me` for an object, `'s` for an owner, `a` for an indefinite article, or empty."


@dataclass(frozen=True)
class _Choice:
    opening: str
    branches: tuple[tuple["_Node", ...], ...]


_Node = str | Slot | _Choice
Parts = list[str | Slot]


class Pattern:
    """A parsed pattern.

    Raises:
        DataError: It cannot be parsed.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        tokens = TOKEN.finditer(source)
        self._nodes = self._parse(tokens, "")[0]
        if sum(len(token.group()) for token in TOKEN.finditer(source)) != len(source):
            raise DataError(f"{source!r} has a brace that does not close: write {{slot}}")

    def expand(self, random: Random, narrator: bool = False) -> Parts:
        """Choose alternatives and options; verbs agree with the narrator where told so."""
        parts: Parts = []
        _expand(self._nodes, random, narrator, parts)
        return parts

    def _parse(self, tokens: Iterator[re.Match[str]], end: str) -> tuple[tuple[_Node, ...], ...]:
        branches: list[list[_Node]] = [[]]
        for token in tokens:
            name, case, sign, literal = token.groups()
            if sign and sign == end:
                return tuple(tuple(branch) for branch in branches)
            if sign == "|" and end:
                branches.append([])
            elif sign in CLOSING:
                branches[-1].append(_Choice(sign, self._parse(tokens, CLOSING[sign])))
            elif sign:
                raise DataError(f"{self.source!r} has a stray {sign!r}: remove it")
            else:
                branches[-1].append(literal or Slot(name, (case or "").removeprefix(":")))
        if end:
            raise DataError(f"{self.source!r} lacks a {end!r}: add it")
        return (tuple(branches[0]),)


def _expand(nodes: tuple[_Node, ...], random: Random, narrator: bool, parts: Parts) -> None:
    for node in nodes:
        if not isinstance(node, _Choice):
            parts.append(node)
        elif node.opening == "<":
            _expand(node.branches[int(narrator)], random, narrator, parts)
        elif node.opening == "(" or random.random() < 0.5:
            _expand(random.choice(node.branches), random, narrator, parts)
