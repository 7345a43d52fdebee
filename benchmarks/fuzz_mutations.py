"""Ways to spoil a file, for fuzz_inputs.py: bytes, JSON trees, lines of YAML. All by a `Random`."""

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS: Sequence[Any] = (
    *(0, -1, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1e-300, 1e300, -1e300, float("nan"), float("inf"), float("-inf")),
)
TEXTS: Sequence[str] = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "..",
        ".",
        "/",
        "../../etc/passwd",
        "/dev/zero",
        "a" * 5000,
        "é" * 200,
    ),
    *(
        "\ud800",
        "\U0010ffff",
        "\u202e",
        "\x1b[2J",
        "a\nb",
        "{}",
        "null",
        "%s%n",
        "${HOME}",
        "~root",
    ),
    *("NaN", "1e999", "2026-02-30", "fp64", "onnx\r\n", "\ufeff", "model.onnx/", "con", "-o"),
)
YAML_LINES: Sequence[str] = (
    *("\tkey: 1", "  - a", "? [a, b]", "key: &a [*a]", "- &x {<<: *x}", "<<: 1", "<<: [1, 2]"),
    *("!!python/object/apply:os.system ['true']", "x: !!binary aaa", "a: *nowhere", "...", "---"),
    *(
        "%YAML 9.9",
        "%TAG ! x",
        "key: |",
        "  text",
        "key: >-",
        "'",
        '"',
        "{",
        "[",
        "]",
        "}",
        "@",
        "`",
    ),
    *("source: ${file:/dev/zero}", "source: ${file:.}", "source: ${file:/etc/shadow}", "a: ${"),
    *("source: ${credential:../x}", "source: ${MISSING}", "source: 'rtsp://u:p@h/s'", "hop: 1e99"),
    *("hop: 0x10", "hop: 1_000", "hop: .inf", "hop: 12:30:00", "health: null", "port: 99999999999"),
    *("streams: {}", "streams: []", "streams: null", "streams: {a: {source: }}", "name: ' '"),
    *("name: 2026-11-22", "threshold: .nan", "? ", ": ", "- - - -", "key: 'a\0b'", "a: b: c"),
)
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))
"""Nine to the power of eleven texts, if the aliases were followed."""


def spoiled_bytes(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes of a file one to four times; half of the places lie near its ends."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        random.choice(_BYTE_CHANGES)(out, random, others)
    return bytes(out)


def spoiled_json(tree: Any, random: Random, base: bytes) -> bytes:
    """Change the tree of a JSON document, sometimes its bytes as well or instead."""
    if random.random() < 0.25:
        return spoiled_bytes(base, random, [b'{"schema": 1}', b"[" * 100])
    if random.random() < 0.05:
        return _nest(base, random)
    text = json.dumps(spoiled_tree(tree, random), ensure_ascii=random.random() < 0.5)
    out = text.encode("utf-8", "surrogatepass")
    return spoiled_bytes(out, random) if random.random() < 0.1 else out


def spoiled_tree(tree: Any, random: Random) -> Any:
    """Return a copy of a tree of plain values with one to three places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return tree
        holder, key = random.choice(places)
        kind = random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = random.choice(NUMBERS)
        elif kind == 2:
            holder[key] = random.choice(TEXTS)
        elif kind == 3:
            holder[key] = random.choice((None, True, False, [], {}, [holder[key]], {"a": 1}))
        elif kind == 4:  # what stands elsewhere
            other, there = random.choice(places)
            holder[key] = copy.deepcopy(other[there]) if there in _keys(other) else None
        elif kind == 5 and isinstance(holder, dict):
            holder[random.choice((*TEXTS, str(key) + "s"))] = holder[key]
        elif kind == 6 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * random.choice((-1, 0.5, 2, 1000, 10**9))
        else:
            for _ in range(random.choice((3, 60, 300))):
                holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}
    return tree


def spoiled_yaml(text: str, random: Random) -> bytes:
    """Change lines of a YAML document, sometimes its encoding or its bytes."""
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines) + 1)
        line = lines[at] if at < len(lines) else ""
        kind = random.randrange(8)
        if kind == 0 and at < len(lines):
            del lines[at]
        elif kind == 1:
            lines.insert(at, random.choice(YAML_LINES))
        elif kind == 2:  # under the heading that stands above
            indent = " " * (len(line) - len(line.lstrip()))
            lines.insert(at, indent + random.choice(YAML_LINES))
        elif kind == 3 and at < len(lines):
            lines[at] = " " * random.randrange(9) + line.lstrip()
        elif kind == 4 and ":" in line:
            value = str(random.choice((*NUMBERS, *TEXTS, True, None, [], "no", "0o7", "'x'")))
            lines[at] = line.split(":")[0] + ": " + value.replace("\n", " ")
        elif kind == 5 and ":" in line:
            name = line.split(":")[0]
            lines[at] = line.replace(name, name + random.choice(("s", "_", "é", " ", "\0")), 1)
        elif kind == 6:
            lines.insert(at, line)
        elif random.random() < 0.1:
            lines.append(BOMB)
        else:
            lines = lines[:at] or ["x"]
    whole = "\n".join(lines) + "\n"
    encoding = random.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "latin-1"))
    out = whole.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")
    return spoiled_bytes(out, random) if random.random() < 0.2 else out


def _nest(base: bytes, random: Random) -> bytes:
    """Return JSON with something very deep in it."""
    depth = random.choice((500, 5000, 200_000))
    deep = random.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    at = base.find(b":") + 1
    return base[:at] + deep + base[base.find(b",", at) :] if random.random() < 0.5 else deep


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        for key in list(_keys(tree)):
            yield tree, key
            yield from _places(tree[key])


def _at(out: bytearray, random: Random) -> int:
    size = max(len(out), 1)
    near = random.randrange(min(size, 600))
    return random.choice((random.randrange(size), near, size - 1 - near))


_Change = Callable[[bytearray, Random, Sequence[bytes]], None]


def _flip(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    for _flip in range(random.choice((1, 1, 8, 64))):
        if out:
            out[_at(out, random)] ^= 1 << random.randrange(8)


def _put(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    width = random.choice((1, 2, 4, 8))
    value = random.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 2)))
    at = _at(out, random)
    out[at : at + width] = value.to_bytes(width, random.choice(("big", "little")))


def _cut(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    del out[_at(out, random) :]


def _drop(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = _at(out, random)
    del out[at : at + random.choice((1, 4, 100, 5000))]


def _insert(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = _at(out, random)
    out[at:at] = random.choice(
        (b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\n", random.randbytes(random.randrange(1, 300)))
    )


def _double(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at, size = _at(out, random), random.choice((1, 16, 1000, 20_000))
    out[at:at] = out[at : at + size]


def _fill(out: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at, size = _at(out, random), random.choice((4, 64, 2000))
    size = min(size, len(out) - at)
    out[at : at + size] = bytes([random.choice((0, 0xFF))]) * size


def _splice(out: bytearray, random: Random, others: Sequence[bytes]) -> None:
    other = random.choice(others) if others else bytes(out)
    at, start = _at(out, random), random.randrange(max(len(other), 1))
    size = random.choice((8, 500, 10_000))
    out[at : at + random.choice((0, size))] = other[start : start + size]


_BYTE_CHANGES: Sequence[_Change] = (_flip, _put, _cut, _drop, _insert, _double, _fill, _splice)
