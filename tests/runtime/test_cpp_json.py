"""C++'s Json against msgspec: what is accepted, what it means, how it is written."""

import math
import random
import struct

import msgspec
import numpy as np
from helpers_core_probe import answered, as_64_bits, asked

_SEEDS = [
    rb'{"a": [1, -2.5e-3, "x\u00e9\n", true, false, null], "b": {"c": {}, "d": []}, "a": 0}',
    rb'["\ud83d\ude00", "\\\"/\/", 12345678901234567890, 1e308, -0.0, -0, 0.1E+1]',
    '{"Zürich": "grün 雨 😀", "": "", "n": [[[[]]]]}'.encode(),
    b" [ 1 ,\t2 ,\r\n3 ] ",
    b"9223372036854775807",
    b"-9223372036854775809",
]


def _mutated(rng: random.Random, text: bytes) -> bytes:
    out = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + rng.randint(1, 4)] = b""
            case 1:
                out[at:at] = bytes(rng.choices(b'{}[]",:\\u0123456789.eE+-truefalsn \n\x00', k=2))
            case 2:
                out[at:at] = bytes(rng.choices(range(256), k=rng.randint(1, 4)))
            case _:
                other = rng.choice(_SEEDS)
                start = rng.randrange(len(other))
                out[at:at] = other[start : start + rng.randint(1, 12)]
    return bytes(out)


def test_json_is_accepted_refused_and_written_as_by_msgspec() -> None:
    rng = random.Random(7)
    texts = _SEEDS + [_mutated(rng, rng.choice(_SEEDS)) for _ in range(6000)]
    answers = asked([{"do": "json", "hex": text.hex()} for text in texts])
    accepted = 0
    for text, answer in zip(texts, answers, strict=True):
        try:
            expected = msgspec.json.encode(as_64_bits(msgspec.json.decode(text)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            assert "error" in answer, text
            continue
        accepted += 1
        assert "answer" in answer, (text, answer)
        assert msgspec.json.encode(answer["answer"]) == expected, text
    assert 500 < accepted < 5500  # else the mutations show one side only


def test_indented_json_is_laid_out_as_by_msgspec() -> None:
    answers = asked([{"do": "format", "hex": text.hex()} for text in _SEEDS])
    for text, answer in zip(_SEEDS, answers, strict=True):
        value = msgspec.json.encode(as_64_bits(msgspec.json.decode(text)))
        assert answer["answer"] == msgspec.json.format(value, indent=2).decode()


def test_doubles_are_read_to_the_bit_and_written_with_the_same_digits() -> None:
    rng = random.Random(8)
    values = [math.ldexp(sign, n) for n in range(-1074, 1024) for sign in (1.0, -1.0)]
    values += [struct.unpack("d", rng.randbytes(8))[0] for _ in range(4000)]
    values += [float(np.float32(rng.gauss(0, 1))) for _ in range(1000)]
    values += [rng.randint(0, 10**6) / 10 ** rng.randint(0, 12) for _ in range(1000)]
    values = [value for value in values if math.isfinite(value)]
    case = {"do": "json", "hex": msgspec.json.encode(values).hex()}
    line = answered(msgspec.json.encode(case))
    assert line == b'{"answer":' + msgspec.json.encode(values) + b"}\n"
