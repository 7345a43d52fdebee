"""YAML with line numbers: the tree of a site file, read strictly and within limits.

Every plain scalar stays the text that it is; what it means is decided by the type that is wanted
there (`site_convert`), so that `no`, `08` and `12:30` never turn into something else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from vad_runtime.contracts.errors import ConfigError

_MOST_BYTES = 256 * 1024
_DEEPEST = 20
_NULLS = frozenset(["", "~", "null", "Null", "NULL"])


@dataclass(slots=True)
class Node:
    """One value and the line, from 1, on which it starts."""

    line: int


@dataclass(slots=True)
class Scalar(Node):
    """A text; `plain` = without quotes."""

    text: str
    plain: bool

    @property
    def null(self) -> bool:
        """Whether it stands for nothing."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Sequence(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping(Node):
    """Keys and values; the line of each key."""

    items: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def tree_from_yaml(content: bytes, where: str) -> Node:
    """Read one YAML document.

    Anchors, aliases and `<<` work; tags, several documents and a key that is given twice do not.

    Args:
        content: UTF-8 text.
        where: Name of the file, for messages.

    Returns:
        Its tree; a node that is used by several aliases is the same object everywhere.

    Raises:
        ConfigError: No YAML, or beyond the limits; one line with the number of the line.
    """
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{where} is larger than {_MOST_BYTES // 1024} KiB. Is it a site file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{where}:{line}: no UTF-8 text. Save the file as UTF-8.") from None
    try:
        return _Composer(text, where).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        for number, here in enumerate(text.split("\n")[:line], 1):
            if re.match(r" *\t\s*[^\s#]", here):  # PyYAML stumbles over it some lines later
                raise ConfigError(
                    f"{where}:{number}: no YAML (a tab cannot indent). Write spaces."
                ) from None
        step = "Check indents and quotes"
        if any("${" in here for here in text.split("\n")[line - 1 : line]):
            step = 'Within {…} and […] YAML wants quotes: "${NAME}"'
        raise ConfigError(
            f"{where}:{line}: no YAML ({_one_line(error.problem)}). {step}."
        ) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        reason = _one_line(getattr(error, "reason", None))
        raise ConfigError(f"{where}:{line}: no YAML ({reason}). Remove it.") from None
    except (RecursionError, ValueError, OverflowError):
        raise ConfigError(f"{where} is no YAML that makes sense. Check it.") from None


def _one_line(text: str | None) -> str:
    return " ".join((text or "not readable").split())


class _Composer:
    """Builds the tree from PyYAML's events, so that nothing is constructed that was not asked."""

    def __init__(self, text: str, where: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._where = where
        self._anchors: dict[str, Node] = {}

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._refusal(event, "a second document. Keep one")
                root = self._node(next(self._events), 0)
        if root is None:
            raise ConfigError(f"{self._where} is empty. Write streams: and sinks: into it.")
        return root

    def _refusal(self, event: yaml.Event, what: str) -> ConfigError:
        end = "" if what.endswith("?") else "."
        return ConfigError(f"{self._where}:{_line(event)}: {what}{end}")

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._refusal(event, f"no anchor &{event.anchor} above. Define it first")
            return self._anchors[event.anchor]
        if depth > _DEEPEST:
            raise self._refusal(event, f"nested more than {_DEEPEST} deep. Is it a site file?")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._refusal(event, f"the tag {str(tag)[:40]!r} is not allowed. Remove it")
        node = self._content(event, depth)
        # Known only from here on, so that nothing can hold itself.
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _content(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(line, event.value, plain=event.style is None)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Sequence(line, items)
        return self._mapping(line, depth)

    def _mapping(self, line: int, depth: int) -> Mapping:
        found = Mapping(line)
        merged: list[Mapping] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise self._refusal(event, "a key must be a plain name. Check the indents")
            key = event.value
            value = self._node(next(self._events), depth + 1)
            if key == "<<" and event.style is None:
                merged += self._merged(event, value)
                continue
            if key in found.items:
                raise self._refusal(
                    event, f"{key!r} stands here again, first on line {found.lines[key]}. Keep one"
                )
            found.items[key] = value
            found.lines[key] = _line(event)
        for other in merged:  # what stands here itself goes first, then what was named first
            for key, value in other.items.items():
                if key not in found.items:
                    found.items[key] = value
                    found.lines[key] = other.lines[key]
        return found

    def _merged(self, event: yaml.Event, value: Node) -> list[Mapping]:
        parts = value.items if isinstance(value, Sequence) else [value]
        maps = [part for part in parts if isinstance(part, Mapping)]
        if len(maps) != len(parts):
            raise self._refusal(event, "<< takes a mapping, as in <<: *defaults")
        return maps


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 1
