"""A manifest is read strictly: half-understood settings are worse than no start."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest

from vad_runtime.contracts import (
    BundleError,
    Manifest,
    OutputSpec,
    PlanChoice,
    ScoreSpec,
    Scoring,
)
from vad_runtime.contracts.manifest import SCHEMA, json_from_manifest, manifest_from_json

WHERE = "/somewhere/m.vad/manifest.json"
Tree = dict[str, Any]


def plan(**changes: Any) -> PlanChoice:
    """Return a plan, changed as asked."""
    plain: dict[str, Any] = {
        "backend": "openvino",
        "precision": "int8",
        "target_ms": 40.0,
        "median_ms": 12.0,
        "p95_ms": 14.5,
        "cpu": "a processor",
        "threads": 2,
        "why": "the most faithful one under 40 ms",
    }
    return PlanChoice(**(plain | changes))


def tree() -> Tree:
    """Return a whole manifest as plain JSON values."""
    whole = msgspec.structs.replace(
        manifest(
            artefacts={
                "fp32": artefact(sha256="0" * 64, bytes=3),
                "int8": artefact(
                    file="model.int8.onnx",
                    precision="int8",
                    made_from="fp32",
                    details={"method": "entropy", "kept": ["conv1"]},
                ),
            }
        ),
        plan=plan(),
        outputs=[OutputSpec(name="embedding", shape=["N", 512], meaning="features")],
    )
    return json.loads(json_from_manifest(whole))


def refusal(content: object) -> BundleError:
    """Return the error that a manifest gives which is read, after checking its form."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(BundleError) as caught:
        manifest_from_json(text, WHERE)
    assert_one_line(caught.value, WHERE)
    # A user does not see msgspec's own traceback above the line.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def test_what_was_written_is_read_back() -> None:
    whole = manifest_from_json(json.dumps(tree()).encode(), WHERE)
    assert manifest_from_json(json_from_manifest(whole), WHERE) == whole
    assert whole.schema == SCHEMA


def test_the_json_is_indented_utf8_that_ends_with_a_newline() -> None:
    text = json_from_manifest(msgspec.structs.replace(manifest(), name="Tür")).decode()
    assert "Tür" in text
    assert text.startswith('{\n  "schema"')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    "place",
    [
        lambda t: t,
        lambda t: t["clip"],
        lambda t: t["score"],
        lambda t: t["scoring"],
        lambda t: t["outputs"][0],
        lambda t: t["artefacts"]["fp32"],
        lambda t: t["plan"],
    ],
    ids=["top", "clip", "score", "scoring", "outputs", "artefacts", "plan"],
)
def test_an_unknown_key_at_any_depth_is_refused_by_name(place: Callable[[Tree], Tree]) -> None:
    content = tree()
    place(content)["treshold"] = 0.5
    assert "treshold" in str(refusal(content))


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (lambda t: t, "family"),
        (lambda t: t, "clip"),
        (lambda t: t, "score"),
        (lambda t: t, "artefacts"),
        (lambda t: t["clip"], "frames"),
        (lambda t: t["artefacts"]["fp32"], "sha256"),
        (lambda t: t["plan"], "target_ms"),
    ],
)
def test_a_missing_key_is_refused_by_name(place: Callable[[Tree], Tree], key: str) -> None:
    content = tree()
    del place(content)[key]
    assert key in str(refusal(content))


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (lambda t: t["clip"], "frames", "16"),
        (lambda t: t["clip"], "frames", 1.5),
        (lambda t: t["clip"], "frames", None),
        (lambda t: t["clip"], "colour", "bgr"),
        (lambda t: t["scoring"], "threshold", "0.5"),
        (lambda t: t["scoring"], "threshold", True),
        (lambda t: t["scoring"], "scale", 0),
        (lambda t: t["scoring"], "scale", -1.0),
        (lambda t: t["scoring"], "window", 0),
        (lambda t: t["scoring"], "release", 1.5),
        (lambda t: t["scoring"], "min_duration_s", -1),
        (lambda t: t["scoring"], "smoothing", "gauss"),
        (lambda t: t["score"], "per", "pixel"),
        (lambda t: t["artefacts"]["fp32"], "bytes", -1),
        (lambda t: t["artefacts"]["fp32"], "format", "pickle"),
        (lambda t: t["artefacts"]["fp32"], "precision", "fp8"),
        (lambda t: t["artefacts"]["int8"], "made_from", 1),
        (lambda t: t["artefacts"]["int8"], "details", []),
        (lambda t: t["plan"], "backend", ""),
        (lambda t: t["plan"], "precision", "auto"),
        (lambda t: t["plan"], "target_ms", 0),
        (lambda t: t["plan"], "median_ms", -1.0),
        (lambda t: t["plan"], "p95_ms", None),
        (lambda t: t["plan"], "threads", 0),
        (lambda t: t, "plan", []),
        (lambda t: t, "artefacts", []),
    ],
)
def test_a_wrong_type_or_value_is_refused_with_its_place(
    place: Callable[[Tree], Tree], key: str, value: object
) -> None:
    content = tree()
    place(content)[key] = value
    assert f"{key}" in str(refusal(content))


def test_nonsense_in_the_clip_is_refused_with_the_value() -> None:
    content = tree()
    content["clip"]["height"] = -5
    assert "ClipSpec.height must be at least 1, got -5" in str(refusal(content))


@pytest.mark.parametrize(("first", "count"), [(4, 5), (-1, 4), (8, 1), (0, 0), (0, 9)])
def test_a_score_outside_the_clip_is_refused(first: int, count: int) -> None:
    content = tree()
    content["score"] |= {"first": first, "count": count}
    assert "a clip has 8" in str(refusal(content))
    with pytest.raises(ValueError, match="a clip has 8"):
        manifest(score=ScoreSpec(per="frame", form="x", first=first, count=count))


def test_a_manifest_without_artefacts_is_refused() -> None:
    content = tree()
    content["artefacts"] = {}
    assert "artefacts is empty" in str(refusal(content))


def test_a_newer_schema_says_how_to_upgrade_whatever_else_is_new() -> None:
    content = tree() | {"schema": SCHEMA + 1, "unheard_of": 1}
    assert "pip install -U vad-edge" in str(refusal(content))


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_existed_is_refused(schema: int) -> None:
    assert "never existed" in str(refusal(tree() | {"schema": schema}))


@pytest.mark.parametrize("schema", [None, "1", 1.0, True, [1]])
def test_a_schema_that_is_no_number_is_refused(schema: object) -> None:
    assert "schema" in str(refusal(tree() | {"schema": schema}))


@pytest.mark.parametrize("content", [[], [1], "text", 3, None])
def test_json_that_is_no_object_is_refused(content: object) -> None:
    assert "no schema number" in str(refusal(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x02",
        b"{",
        b'{"schema": 1,}',
        b'{"schema": NaN}',
        b'{"schema": "\xff\xfe"}',
        b"[" * 100_000,
        json.dumps(tree()).encode()[:-40],
        json.dumps(tree()).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(tree()).encode(),
    ],
    ids=[
        "empty",
        "binary",
        "open brace",
        "trailing comma",
        "NaN",
        "bad UTF-8",
        "deep",
        "cut off",
        "UTF-16",
        "byte order mark",
    ],
)
def test_what_is_not_json_is_refused(content: bytes) -> None:
    assert "not JSON" in str(refusal(content))


@pytest.mark.parametrize("field", ["threshold", "offset", "scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_never_gets_into_a_manifest(field: str, value: float) -> None:
    # JSON would write it as null, and null for the threshold means: never raise an alarm.
    with pytest.raises(ValueError, match=field):
        Scoring(**{field: value})


def test_a_number_too_large_for_a_float_is_refused() -> None:
    text = json.dumps(tree()).replace('"threshold": 0.5', '"threshold": 1e999').encode()
    assert b"1e999" in text
    refusal(text)


def test_defaults_raise_no_alarm_and_change_no_score() -> None:
    scoring = Scoring()
    assert (scoring.offset, scoring.scale, scoring.smoothing) == (0.0, 1.0, "none")
    assert scoring.threshold is None


def test_free_form_parts_keep_what_they_are_given() -> None:
    content = tree()
    content["training"] = {"videos": 3, "nested": {"any": ["thing", 1.5, None]}}
    whole: Manifest = manifest_from_json(json.dumps(content).encode(), WHERE)
    assert whole.training == content["training"]
    assert whole.clip == clip_spec()


# -- several artefacts, and the plan -----------------------------------------------------------


def test_a_manifest_from_before_precisions_is_read_with_nothing_planned() -> None:
    content = tree()
    del content["plan"], content["artefacts"]["int8"]
    for key in ("made_from", "details"):
        del content["artefacts"]["fp32"][key]
    whole = manifest_from_json(json.dumps(content).encode(), WHERE)
    assert whole.plan is None
    assert whole.artefacts["fp32"].made_from is None
    assert whole.artefacts["fp32"].details == {}


def test_each_precision_finds_its_artefact_and_bf16_is_the_fp32_graph() -> None:
    whole = manifest_from_json(json.dumps(tree()).encode(), WHERE)
    for precision, short in (("fp32", "fp32"), ("bf16", "fp32"), ("int8", "int8")):
        found = whole.artefact_of(precision)  # type: ignore[arg-type]
        assert found == (short, whole.artefacts[short])
    assert whole.artefact_of("mixed") is None
    assert whole.plan is not None
    assert whole.plan.artefact_precision == "int8"
    assert plan(precision="bf16").artefact_precision == "fp32"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "fp32"}, "fp32 and int8 are both fp32"),
        ({"file": "model.onnx"}, "fp32 and int8 are the same file 'model.onnx'"),
        ({"made_from": "fp64"}, "int8 was made from fp64, which is not there"),
        ({"made_from": "int8"}, "int8 says that it was made from itself"),
    ],
)
def test_artefacts_that_contradict_each_other_are_refused(changes: Tree, reason: str) -> None:
    content = tree()
    content["artefacts"]["int8"] |= changes
    assert reason in str(refusal(content))


@pytest.mark.parametrize("field", ["target_ms", "median_ms", "p95_ms"])
def test_a_time_that_is_not_finite_never_gets_into_a_plan(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        plan(**{field: math.nan})
    assert plan(target_ms=None).target_ms is None
