"""The tables of docs/precision.md say what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from vad_calibration.histograms import METHODS
from vad_calibration.lint import RULES
from vad_export.passes import NEEDED, PASSES
from vad_export.precision_config import PrecisionConfig, read_precision_config

PAGE = Path(__file__).parents[2] / "docs" / "precision.md"


def rows_of(head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with `head`, without head and ruler."""
    lines = PAGE.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def keys_of(struct: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield each key of a configuration with its value, dotted where it is nested."""
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def test_the_keys_and_defaults_are_those_of_the_configuration() -> None:
    told = {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in rows_of("key")}
    assert told == dict(keys_of(PrecisionConfig()))


@pytest.mark.parametrize(
    "setting", [f"{row[0].strip('`')}={row[1].strip('`')}" for row in rows_of("key")]
)
def test_every_key_can_be_set_to_its_default(setting: str) -> None:
    assert read_precision_config(None, [setting]) == PrecisionConfig()


def test_the_methods_are_those_that_there_are() -> None:
    assert {row[0].strip("`") for row in rows_of("`method`")} == set(METHODS)


def test_the_rules_are_those_of_the_lint() -> None:
    told = [name for row in rows_of("rule") for name in re.findall(r"`([a-z-]+)`", row[0])]
    assert sorted(told) == sorted(RULES)


def test_the_passes_are_those_that_there_are_and_stay_for_the_reason_told() -> None:
    told = {row[0].strip("`"): row[2] for row in rows_of("pass")}
    assert told == {name: "if exact" if name in NEEDED else "if faster" for name in PASSES}
