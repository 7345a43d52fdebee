"""The tree of a site file to settings, by their types: all mistakes, each with its line."""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect as types

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import Secret
from vad_runtime.secrets import has_reference, is_secret_header, literal_password
from vad_runtime.site_yaml import Mapping, Node, Scalar, Sequence

_INTEGER = re.compile(r"[-+]?[0-9]{1,15}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?\Z")
_TRUE = frozenset(["true", "True", "TRUE", "yes", "Yes", "on", "On"])
_FALSE = frozenset(["false", "False", "FALSE", "no", "No", "off", "Off"])
_MOST_VALUES = 100_000
_MOST_MISTAKES = 100
_INSTEAD = "Write ${NAME} and set NAME in the environment, or ${file:/path}"
_BAD: Any = object()


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong in a site file."""

    line: int
    path: str
    """Where, for example `streams.gate.hop`; empty = the file."""
    text: str
    """What, and what to do about it; without secrets."""


class Converter:
    """Turns one tree into settings and collects what is wrong with it.

    Args:
        resolve: Returns a text with its references filled in; raises ConfigError.
        secrets: Whether secrets are filled in, too; without, a `Secret` holds what stands in the
            file, for commands that need none.
    """

    def __init__(self, resolve: Callable[[str], str], *, secrets: bool = True) -> None:
        self._resolve, self._secrets = resolve, secrets
        self._left = _MOST_VALUES
        self.mistakes: list[Mistake] = []
        self.lines: dict[str, int] = {}
        """The line of each value that was read, by its path."""
        self.built: dict[str, Any] = {}
        """Settings by their path. What is wrong in them has its default here: for looking for
        further mistakes, so that one look finds them all."""

    def settings(self, node: Node, cls: type[Any]) -> Any | None:
        """Return settings of a class of `contracts.site`, None where something is wrong."""
        found = self._value(node, types.type_info(cls), "")
        return None if found is _BAD else found

    def refuse(self, path: str, text: str, line: int | None = None) -> None:
        """Note a mistake; without a line it is that of the nearest value that was read."""
        nearest = path
        while line is None and nearest:
            line = self.lines.get(nearest)
            nearest = nearest.rpartition(".")[0]
        if len(self.mistakes) < _MOST_MISTAKES:
            self.mistakes.append(Mistake(line or 1, path, text))

    def _bad(self, node: Node, path: str, text: str) -> Any:
        self.refuse(path, text, node.line)
        return _BAD

    def _value(self, node: Node, wanted: types.Type, path: str) -> Any:
        self._left -= 1
        if self._left < 0:  # aliases of aliases
            if self._left == -1:
                self.refuse("", "the file holds too much. Use fewer aliases", 1)
            return _BAD
        self.lines[path] = node.line
        if isinstance(wanted, types.Metadata):
            return self._value(node, wanted.type, path)
        if isinstance(wanted, types.UnionType):
            return self._union(node, wanted, path)
        if isinstance(wanted, types.StructType):
            return self._struct(node, wanted, path)
        if isinstance(wanted, types.DictType):
            return self._dict(node, wanted, path)
        if isinstance(wanted, types.ListType):
            return self._list(node, wanted, path)
        if not isinstance(node, Scalar):
            return self._bad(node, path, f"expected {_words(wanted)}, got {_kind(node)}")
        return self._scalar(node, wanted, path)

    # -- things with parts -----------------------------------------------------------------------

    def _union(self, node: Node, wanted: types.UnionType, path: str) -> Any:
        kinds = [kind for kind in wanted.types if not isinstance(kind, types.NoneType)]
        if len(kinds) < len(wanted.types) and isinstance(node, Scalar) and node.null:
            # `health:` with everything below it commented out is not `health: null`.
            empty = not node.text and isinstance(kinds[0], types.StructType)
            return self._value(node, kinds[0], path) if empty else None
        if len(kinds) == 1:
            return self._value(node, kinds[0], path)
        by_tag = {str(k.tag): k for k in kinds if isinstance(k, types.StructType)}
        names = ", ".join(by_tag)
        if not isinstance(node, Mapping):
            return self._bad(node, path, f"expected a mapping with kind: {names}")
        tag = node.items.get("kind")
        if not isinstance(tag, Scalar):
            return self._bad(node, path, f"kind is missing. Use one of: {names}")
        if tag.text not in by_tag:
            hint = _did_you_mean(tag.text, list(by_tag))
            return self._bad(tag, f"{path}.kind", f"no kind {tag.text[:40]!r}. {hint}")
        return self._struct(node, by_tag[tag.text], path)

    def _struct(self, node: Node, wanted: types.StructType, path: str) -> Any:
        if isinstance(node, Scalar) and node.null:
            node = Mapping(node.line)  # a heading whose settings are all commented out
        if not isinstance(node, Mapping):
            return self._bad(node, path, f"expected a mapping, got {_kind(node)}")
        before = len(self.mistakes)
        fields = {field.name: field for field in wanted.fields}
        for key in node.items:
            # As in compose files, x-… at the top is room for anchors.
            mine = key in fields or (wanted.tag_field is not None and key == wanted.tag_field)
            if not mine and not (not path and key.startswith("x-")):
                hint = _did_you_mean(key, list(fields))
                self.refuse(path, f"unknown key {key[:60]!r}. {hint}", node.lines[key])
        values = {}
        for name, field in fields.items():
            if name in node.items:
                values[name] = self._value(node.items[name], field.type, _join(path, name))
            elif field.required:
                self.refuse(path, f"{name} is missing. Add it", node.line)
        good = {name: value for name, value in values.items() if value is not _BAD}
        for name in values.keys() - good.keys():
            if rest := self._built_in(_join(path, name)):
                good[name] = rest
        try:
            self.built[path] = wanted.cls(**good)
        except (TypeError, ValueError) as error:  # without what must be there, told already
            if len(self.mistakes) == before:
                self.refuse(path, str(error), node.line)
        return _BAD if len(self.mistakes) > before else self.built[path]

    def _built_in(self, path: str) -> dict[str, Any]:
        """Return what was built right below a path, by its name."""
        parts = ((one.rpartition("."), settings) for one, settings in self.built.items())
        return {name: settings for (above, _, name), settings in parts if above == path}

    def _dict(self, node: Node, wanted: types.DictType, path: str) -> Any:
        if isinstance(node, Scalar) and node.null:
            node = Mapping(node.line)
        if not isinstance(node, Mapping):
            return self._bad(node, path, f"expected names with settings, got {_kind(node)}")
        if len(node.items) < (wanted.min_length or 0):
            return self._bad(node, path, "is empty. Add one")
        found = {}
        for key, value in node.items.items():
            found[key] = self._value(value, wanted.value_type, _join(path, key[:80]))
        return _BAD if _BAD in found.values() else found

    def _list(self, node: Node, wanted: types.ListType, path: str) -> Any:
        if isinstance(node, Scalar) and not node.null:
            node = Sequence(node.line, [node])  # `to: me@example.org`
        if not isinstance(node, Sequence):
            return self._bad(node, path, f"expected a list, got {_kind(node)}")
        if len(node.items) < (wanted.min_length or 0):
            return self._bad(node, path, "is empty. Add one")
        found = [
            self._value(item, wanted.item_type, f"{path}[{i}]") for i, item in enumerate(node.items)
        ]
        return _BAD if _BAD in found else found

    # -- scalars ---------------------------------------------------------------------------------

    def _scalar(self, node: Scalar, wanted: types.Type, path: str) -> Any:
        if isinstance(wanted, types.CustomType) and wanted.cls is Secret:
            return self._secret(node, path)
        if node.null and not isinstance(wanted, types.NoneType):
            return self._bad(node, path, f"expected {_words(wanted)}, got nothing")
        text, plain = node.text, node.plain
        if has_reference(text) or "$${" in text:
            plain = True  # within {…} YAML wants quotes around ${PORT}
            try:
                text = self._resolve(text)
            except ConfigError as error:
                return self._bad(node, path, str(error).rstrip("."))
        value = _plain_value(text, plain, wanted)
        if value is _BAD:
            got = repr(node.text[:60]) + ("" if node.plain else " in quotes")
            if isinstance(wanted, types.LiteralType):
                hint = _did_you_mean(node.text, [str(value) for value in wanted.values])
                return self._bad(node, path, f"cannot be {got}. {hint}")
            return self._bad(node, path, f"expected {_words(wanted)}, got {got}")
        outside = _outside(value, wanted)
        if outside:
            return self._bad(node, path, f"must be {outside}, got {node.text[:40]}")
        return value

    def _secret(self, node: Scalar, path: str) -> Any:
        if node.null or not node.text:
            return self._bad(node, path, "expected a text, got nothing")
        if not self._secrets:
            return Secret(node.text)
        literal = _literal_secret(node.text, path)
        if literal:
            return self._bad(node, path, f"{literal} must not stand in the file. {_INSTEAD}")
        try:
            return Secret(self._resolve(node.text))
        except ConfigError as error:
            return self._bad(node, path, str(error).rstrip("."))


def _literal_secret(text: str, path: str) -> str | None:
    """Return what must not be written out, None where nothing is."""
    parts = path.split(".")
    name = parts[-1]
    if name in ("password", "secret"):
        return None if has_reference(text) else f"a {name}"
    if len(parts) >= 2 and parts[-2] == "headers" and is_secret_header(name):
        return None if has_reference(text) else f"the header {name}"
    return literal_password(text)


def _plain_value(text: str, plain: bool, wanted: types.Type) -> Any:
    """Return what a text means where `wanted` is expected, `_BAD` where nothing."""
    if isinstance(wanted, types.StrType):
        return _BAD if "\0" in text else text
    if isinstance(wanted, types.LiteralType):
        return text if text in wanted.values else _BAD
    if not plain:
        return _BAD
    if isinstance(wanted, types.BoolType):
        return True if text in _TRUE else False if text in _FALSE else _BAD
    if isinstance(wanted, types.IntType):
        return int(text) if _INTEGER.match(text) else _BAD
    if isinstance(wanted, types.FloatType):
        number = float(text) if len(text) < 40 and _FLOAT.match(text) else math.inf
        return number if math.isfinite(number) else _BAD
    return _BAD


def _outside(value: Any, wanted: types.Type) -> str:
    """Return the bound that a number breaks, in words; empty = none."""
    if not isinstance(wanted, types.IntType | types.FloatType):
        return ""
    if wanted.gt is not None and value <= wanted.gt:
        return f"more than {wanted.gt:g}"
    if wanted.ge is not None and value < wanted.ge:
        return f"at least {wanted.ge:g}"
    if wanted.le is not None and value > wanted.le:
        return f"at most {wanted.le:g}"
    return ""


def _words(wanted: types.Type) -> str:
    if isinstance(wanted, types.LiteralType):
        return "one of " + ", ".join(str(value) for value in wanted.values)
    names: dict[type[Any], str] = {
        types.IntType: "an integer",
        types.FloatType: "a number",
        types.BoolType: "true or false",
    }
    return names.get(type(wanted), "a text")


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return repr(node.text[:60]) if not node.null else "nothing"
    return "a list" if isinstance(node, Sequence) else "a mapping"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word[:60], known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Use one of: {', '.join(known)}"


def plain_settings(settings: Any) -> Any:
    """Return settings as plain values, with `***` for secrets: for comparing and showing."""
    return msgspec.to_builtins(settings, enc_hook=lambda _: "***")
