"""Plan files as files: headers, sidecars, names."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import assert_one_line
from helpers_plans import classic_plan, rtx_plan, wrapped, write_engine
from helpers_tensorrt import build

from vad_runtime.contracts import BackendError
from vad_runtime.engines.plan_file import (
    TARGETS,
    engine_name,
    looks_like_onnx,
    read_header,
    read_sidecar,
    sidecar_path,
)


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(BackendError) as refused:
        read_header(path, build="vad-export build-engine site.vad")
    assert_one_line(refused.value)
    return str(refused.value)


def test_a_plan_of_tensorrt_gives_its_version(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(classic_plan((10, 13, 3, 9)))
    header = read_header(path)
    assert (header.family, header.version) == ("tensorrt", "10.13.3")
    assert (header.size, header.sms, header.later_sms, header.offset) == (None, None, False, 0)
    assert header.wrapper is None


@pytest.mark.parametrize(
    ("sms", "later"), [((86,), False), ((75, 121), False), ((80, 86, 89, 120, 121), True)]
)
def test_a_plan_of_rtx_gives_its_targets(tmp_path: Path, sms: tuple[int, ...], later: bool) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(rtx_plan(sms=sms, later=later, length=900))
    header = read_header(path)
    assert (header.family, header.version, header.size) == ("rtx", "1.7.1.116", 900)
    assert (header.sms, header.later_sms) == (sms, later)


@pytest.mark.parametrize("mask", [0, 1 << 7, 1 << 40 | 4])
def test_targets_that_are_not_understood_are_not_guessed(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(rtx_plan(mask=mask))
    assert read_header(path).sms is None


def test_a_real_plan_of_rtx_is_read(tmp_path: Path, tiny_graph: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(build(tiny_graph))
    header = read_header(path)
    import tensorrt_rtx_bindings

    assert header.version == tensorrt_rtx_bindings.__version__
    assert header.size == path.stat().st_size
    assert header.sms == TARGETS[1:]
    assert header.later_sms


def test_the_bits_of_the_mask_are_the_libraries_own_order() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    assert sorted(int(name[2:]) for name in names) == list(TARGETS)


def test_a_plan_that_ultralytics_wrapped_is_recognised(tmp_path: Path) -> None:
    about = {"task": "detect", "names": {"0": "person"}, "imgsz": [640, 640]}
    path = tmp_path / "yolo.engine"
    path.write_bytes(wrapped(rtx_plan(sms=(89,), later=False, length=700), about))
    header = read_header(path)
    assert header.wrapper == about
    assert path.read_bytes()[header.offset :][:4] == b"vtrt"
    assert (header.size, header.sms) == (700, (89,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"Sorry, the link has expired.\n", "is a text file, not a plan"),
        ("Größe ".encode() * 2000, "is a text file, not a plan"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x052.6.0" + bytes(60), "is an ONNX graph, not a plan"),
        (b"ftrt", "cut off"),
        (rtx_plan()[:39], "cut off"),
        (rtx_plan(length=600)[:400], "400 of its 600 bytes"),
        (rtx_plan(length=600) + bytes(7), "has 607 bytes, its header says 600"),
        (b"PK\x03\x04" + bytes(90), "no TensorRT plan (it begins with b'PK\\x03\\x04')"),
        (b"ptrt" + bytes(90), "a TensorRT that this vad-edge does not know"),
        (classic_plan((0, 0, 0, 0)), "names no version"),
        (wrapped(b"", {}), "no plan behind"),
        (wrapped(b"onnx" + bytes(90), {"task": "detect"}), "no plan behind"),
        (struct.pack("<i", 6) + b"{'a':}" + classic_plan(), "its metadata are damaged"),
        (struct.pack("<i", 5000) + b"{" * 5000 + classic_plan(), "its metadata are damaged"),
        (struct.pack("<i", 9 << 20) + b"{}" + classic_plan(), "no TensorRT plan"),
        (struct.pack("<i", -5) + b"{}" + classic_plan(), "no TensorRT plan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_plan_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    message = refusal(path)
    assert words in message
    assert message.startswith(str(path))


def test_each_kind_of_file_has_a_message_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    messages = set()
    kinds = [b"", b"text", b"\x08\x0a\x12x\0", b"vtrt\0", rtx_plan()[:99], b"\xff\xfe\0", b"xtrt\0"]
    for content in kinds:
        path.write_bytes(content)
        messages.add(refusal(path))
    assert len(messages) == len(kinds)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (os.mkfifo, "is no plain file"),
    ],
)
def test_what_cannot_be_opened_says_why(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "model.engine"
    make(path)
    assert words in refusal(path)


def test_a_name_with_a_nul_is_refused_in_one_line() -> None:
    assert "cannot be read" in refusal(Path("a\0b.engine"))


def test_every_beginning_of_a_plan_is_refused(tmp_path: Path) -> None:
    whole = rtx_plan(length=80)
    path = tmp_path / "model.engine"
    for length in range(80):
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_sidecar_named_as_the_engine_is_told_from_other_texts(tmp_path: Path) -> None:
    path = write_engine(tmp_path, "model.engine", classic_plan())
    assert "Name the engine: model.engine" in refusal(sidecar_path(path))


def test_a_graph_is_known_by_its_first_bytes(tiny_graph: Path) -> None:
    assert looks_like_onnx(tiny_graph.read_bytes()[:16])
    assert not looks_like_onnx(classic_plan())
    assert not looks_like_onnx(b"\x08")


def test_a_sidecar_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_engine(tmp_path, "model.engine", classic_plan(), batches=[1, 4])
    assert sidecar_path(path).name == "model.engine.json"
    sidecar = read_sidecar(path)
    assert (sidecar.batches, sidecar.sms, sidecar.bytes) == ([1, 4], [87], 600)


def test_a_plan_without_sidecar_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(classic_plan())
    with pytest.raises(BackendError, match="has no sidecar") as refused:
        read_sidecar(path, header=read_header(path), build="vad-export build-engine site.vad")
    assert str(refused.value).endswith("build-engine site.vad")
    assert_one_line(refused.value)


def test_a_plan_of_ultralytics_without_sidecar_has_another_message(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(wrapped(classic_plan(), {"task": "detect"}))
    with pytest.raises(BackendError, match="Ultralytics wrote"):
        read_sidecar(path, header=read_header(path))


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"schema": true}', b'{"schema": 1}', b"[" * 9999]
)
def test_a_damaged_sidecar_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = write_engine(tmp_path, "model.engine", classic_plan())
    sidecar_path(path).write_bytes(content)
    with pytest.raises(BackendError) as refused:
        read_sidecar(path)
    assert_one_line(refused.value)
    assert str(sidecar_path(path)) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"schema": 2}, "Upgrade"), ({"colour": 1}, "colour"), ({"sms": "87"}, "sms")],
)
def test_a_sidecar_is_read_strictly(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = write_engine(tmp_path, "model.engine", classic_plan())
    text = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**text, **change}))
    with pytest.raises(BackendError, match=words):
        read_sidecar(path)


def test_the_name_of_an_engine_says_where_it_fits() -> None:
    plain = engine_name(
        stem="model",
        batches=[1],
        clip_shape=(16, 112, 112),
        precision="fp16",
        family="tensorrt",
        version="10.3.0",
        sms=[87],
    )
    assert plain == "model.b1.t16.112.fp16.trt10.3.0.sm87.engine"
    rtx = engine_name(
        stem="model",
        batches=[1, 4, 8],
        clip_shape=(16, 112, 160),
        precision="int8",
        family="rtx",
        version="1.7.1.116",
        sms=[121, 80, 86],
        later_sms=True,
    )
    assert rtx == "model.b1-4-8.t16.112x160.int8.rtx1.7.1.116.sm80plus.engine"
    head = engine_name(
        stem="head",
        batches=[2],
        features=(32, 2048),
        precision="fp32",
        family="rtx",
        version="1.7.1.116",
        sms=[89, 86],
    )
    assert head == "head.b2.s32.2048.fp32.rtx1.7.1.116.sm86-89.engine"


def test_a_compatible_engine_is_named_as_one() -> None:
    name = engine_name(
        stem="model",
        batches=[1],
        clip_shape=(8, 32, 32),
        precision="fp32",
        family="tensorrt",
        version="10.3.0",
        sms=[86],
        version_compatible=True,
        hardware_compatible=True,
    )
    assert name == "model.b1.t8.32.fp32.trt10.3.0vc.sm80plus.engine"


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_shape": None},
        {"features": (32, 2048)},
        {"batches": []},
        {"sms": []},
    ],
)
def test_a_name_needs_all_its_parts(wrong: dict[str, object]) -> None:
    values = {
        "stem": "model",
        "batches": [1],
        "clip_shape": (8, 32, 32),
        "precision": "fp32",
        "family": "tensorrt",
        "version": "10.3.0",
        "sms": [86],
    }
    with pytest.raises(ValueError, match="a plan"):
        engine_name(**{**values, **wrong})  # type: ignore[arg-type]
