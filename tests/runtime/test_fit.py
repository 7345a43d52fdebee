"""Which plans fit this machine, and what is said about those that do not."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_one_line
from helpers_plans import (
    GRAPH_SHA256,
    classic_plan,
    desktop,
    engine_sidecar,
    gpu,
    jetson,
    rtx_plan,
    wrapped,
    write_engine,
)

from vad_runtime.contracts import BackendError, EngineTensor
from vad_runtime.engines.fit import (
    Machine,
    contradictions,
    differences,
    engines_of,
    find_engine,
    flavour_for,
    notes,
    rebuild_command,
    require_fit,
    same_version,
    this_machine,
)
from vad_runtime.engines.plan_file import read_header, sidecar_path

REBUILD = "vad-export build-engine site.vad --precision fp16"


def fields(found: list[Any]) -> list[str]:
    return [difference.field for difference in found]


def refusal(plan: Path, machine: Machine, source_sha256: str | None = None) -> str:
    """Return the one line with which a plan is refused."""
    with pytest.raises(BackendError) as refused:
        require_fit(plan, machine, source_sha256=source_sha256, rebuild=REBUILD)
    assert_one_line(refused.value, plan.name)
    return str(refused.value)


# -- what fits ---------------------------------------------------------------------------------


def test_a_plan_fits_the_machine_it_was_built_on(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    fit = require_fit(plan, jetson(), source_sha256=GRAPH_SHA256, rebuild=REBUILD)
    assert (fit.plan, fit.flavour) == (plan, "tensorrt")
    assert (fit.header.version, fit.sidecar.sms) == ("10.3.0", [87])


def test_a_plan_of_rtx_built_without_a_gpu_fits_a_desktop(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan())
    fit = require_fit(plan, desktop(), source_sha256=GRAPH_SHA256, rebuild=REBUILD)
    assert fit.flavour == "rtx"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.3.0", "10.3.0", True),
        ("10.3.0", "10.3.0.26", True),
        ("10.3.0.26", "10.3.0.30", False),
        ("10.3.0", "10.13.3", False),
        ("1.7.1.116", "1.7.1.117", False),
        ("10.3.0.post12", "10.3.0", True),
        ("", "10.3.0", False),
        ("unknown", "unknown", False),
    ],
)
def test_versions_are_compared_as_far_as_both_go(one: str, other: str, same: bool) -> None:
    assert same_version(one, other) is same
    assert same_version(other, one) is same


# -- what does not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "expected", "words"),
    [
        (jetson(libraries={"tensorrt": "10.13.3.9"}), ["version"], "TensorRT 10.13.3.9"),
        (jetson(libraries={"tensorrt": "10.2.0"}), ["version"], "needs TensorRT 10.3.0"),
        (jetson(libraries={"rtx": "1.7.1.116"}), ["library"], "here is only TensorRT-RTX"),
        (jetson(libraries={"lean": "10.3.0"}), ["library"], "TensorRT lean runtime 10.3.0"),
        (jetson(libraries={}), ["library"], "here is no TensorRT"),
        (jetson(gpu=gpu(110, "Thor")), ["SM"], "here is SM 110 (Thor)"),
        (jetson(architecture="x86_64"), ["architecture"], "built for aarch64"),
        (jetson(cuda="11.8"), ["CUDA"], "up to 11.8"),
        (jetson(l4t="35.4.1"), ["L4T"], "here is Jetson Linux 35.4.1"),
        (jetson(l4t=None), ["L4T"], "here is no Jetson Linux"),
        (jetson(gpu=gpu(110), l4t="38.2", cuda="11.4"), ["SM", "CUDA", "L4T"], "SM 87"),
    ],
)
def test_a_plan_for_another_machine_says_what_differs(
    tmp_path: Path, machine: Machine, expected: list[str], words: str
) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    assert fields(differences(engine_sidecar(classic_plan()), machine)) == expected
    message = refusal(plan, machine)
    assert words in message
    assert all(f"{field}: " in message for field in expected)


def test_a_refusal_ends_with_the_command_that_builds_it_here(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    assert refusal(plan, jetson(gpu=gpu(110))).endswith(f"Build it here with: {REBUILD}")


def test_without_any_library_the_next_step_is_to_install_it(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan())
    missing = {"rtx": "TensorRT-RTX is not installed. Install with: pip install RTX"}
    assert refusal(plan, desktop(libraries={}, missing=missing)).endswith(missing["rtx"])


@pytest.mark.parametrize(
    "machine",
    [
        jetson(cuda="12.2"),  # minor versions of a driver are compatible
        jetson(cuda="13.0"),
        jetson(cuda=None),
        jetson(l4t="36.4.3"),
        jetson(gpu=None, no_gpu="No driver.", cuda=None),
        jetson(gpu=gpu(87, "Orin Nano")),
        jetson(architecture="arm64"),
        jetson(libraries={"rtx": "1.7.1.116", "tensorrt": "10.3.0.30", "lean": "11.4.0"}),
    ],
)
def test_what_may_differ_is_no_difference(machine: Machine) -> None:
    assert differences(engine_sidecar(classic_plan()), machine) == []


def test_a_plan_of_a_desktop_does_not_fit_a_jetson() -> None:
    sidecar = engine_sidecar(classic_plan(), l4t=None, gpu="RTX 3080", sms=[86], cuda="12.4")
    found = differences(sidecar, jetson())
    assert fields(found) == ["SM", "L4T"]
    assert "was not built on a Jetson" in str(found[1])


@pytest.mark.parametrize(
    ("sm", "later", "fits"),
    [(86, True, True), (75, True, False), (90, True, True), (90, False, False), (130, True, True)],
)
def test_rtx_is_tried_on_gpus_that_it_has_no_bit_for(sm: int, later: bool, fits: bool) -> None:
    sidecar = engine_sidecar(rtx_plan(), later_sms=later)
    machine = desktop(gpu=gpu(sm, "some GPU"))
    assert (differences(sidecar, machine) == []) is fits
    tried = any("whether it runs is seen" in note for note in notes(sidecar, machine))
    assert tried is (fits and sm not in sidecar.sms)


def test_rtx_does_not_ask_for_the_driver_of_the_build_machine() -> None:
    sidecar = engine_sidecar(rtx_plan(), cuda="14.0", l4t="36.4.0", gpu="H100")
    assert differences(sidecar, desktop()) == []


def test_rtx_needs_its_version_to_the_last_number() -> None:
    found = differences(engine_sidecar(rtx_plan()), desktop(libraries={"rtx": "1.7.2.5"}))
    assert fields(found) == ["version"]


# -- compatible plans --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("libraries", "host_code", "flavour"),
    [
        ({"tensorrt": "10.3.0"}, False, "tensorrt"),
        ({"tensorrt": "10.13.3", "lean": "10.3.0"}, False, "lean"),
        ({"tensorrt": "10.13.3", "lean": "10.3.0"}, True, "tensorrt"),
        ({"tensorrt": "10.13.3"}, False, None),
        ({"tensorrt": "10.2.0", "lean": "10.4.0"}, True, "lean"),
        ({"lean": "10.4.0"}, False, None),
        ({"lean": "10.3.0", "dispatch": "10.3.0"}, True, "lean"),
        ({"lean": "11.4.0"}, False, None),
        ({"dispatch": "10.3.0"}, True, "dispatch"),
        ({"dispatch": "10.3.0"}, False, None),
        ({"tensorrt": "11.1.0"}, True, None),
        ({"rtx": "1.7.1.116"}, True, None),
    ],
)
def test_a_plan_with_its_lean_runtime_is_loaded_by_later_ones_of_its_major_version(
    libraries: dict[Any, str], host_code: bool, flavour: str | None
) -> None:
    sidecar = engine_sidecar(classic_plan(), version_compatible=True, host_code=host_code)
    machine = jetson(libraries=libraries)
    assert flavour_for(sidecar, machine) == flavour
    assert bool(differences(sidecar, machine)) is (flavour is None)


def test_other_plans_are_not_given_to_the_lean_runtime() -> None:
    sidecar = engine_sidecar(classic_plan())
    assert flavour_for(sidecar, jetson(libraries={"lean": "10.3.0"})) is None
    assert flavour_for(sidecar, jetson(libraries={"tensorrt": "10.13.0"})) is None


def test_the_lean_runtime_that_is_too_old_is_named() -> None:
    sidecar = engine_sidecar(classic_plan(), version_compatible=True)
    found = differences(sidecar, jetson(libraries={"lean": "10.1.0"}))
    assert "10.3.0:" in str(found[0]) or "10.3.0," in str(found[0])
    assert "or later" not in str(found[0])
    sidecar = engine_sidecar(classic_plan(), version_compatible=True, host_code=True)
    found = differences(sidecar, jetson(libraries={"lean": "10.1.0"}))
    assert "10.3.0 or later" in str(found[0])
    assert "lean runtime 10.1.0" in str(found[0])


@pytest.mark.parametrize(("sm", "fits"), [(86, True), (89, True), (120, True), (75, False)])
def test_a_hardware_compatible_plan_runs_from_ampere_on(sm: int, fits: bool) -> None:
    sidecar = engine_sidecar(
        classic_plan(), hardware_compatible=True, sms=[86], l4t=None, architecture="x86_64"
    )
    machine = desktop(gpu=gpu(sm, "a GPU"), libraries={"tensorrt": "10.3.0"})
    assert (differences(sidecar, machine) == []) is fits


def test_notes_tell_what_is_worth_knowing() -> None:
    machine = jetson(gpu=gpu(87, "Orin Nano"))
    sidecar = engine_sidecar(classic_plan(), host_code=True)
    tuned, host = notes(sidecar, machine)
    assert "tuned on Orin, here is Orin Nano" in tuned
    assert "--host-code" in host
    assert notes(engine_sidecar(classic_plan()), jetson()) == []
    assert notes(engine_sidecar(classic_plan()), jetson(gpu=None)) == []


# -- damaged and foreign files -----------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 25, 40, 599])
def test_a_flipped_byte_is_seen(tmp_path: Path, position: int) -> None:
    content = bytearray(classic_plan())
    plan = write_engine(tmp_path, "model.engine", bytes(content))
    content[position] ^= 0x10
    plan.write_bytes(content)
    message = refusal(plan, jetson())
    if position:
        assert "changed or damaged: its sha256" in message


def test_every_refused_kind_has_a_message_of_its_own(tmp_path: Path) -> None:
    whole = classic_plan()
    flipped = whole[:300] + b"\0" + whole[301:]
    messages: dict[str, str] = {}

    def refuse(kind: str, content: bytes, machine: Machine | None = None, **changes: Any) -> None:
        plan = write_engine(tmp_path, "model.engine", whole, **changes)
        plan.write_bytes(content)
        if kind == "alone":
            sidecar_path(plan).unlink()
        graph = "cd" * 32 if kind == "stale" else GRAPH_SHA256
        messages[kind] = refusal(plan, machine or jetson(), graph)

    refuse("flipped", flipped)
    refuse("truncated", whole[:500])
    refuse("longer", whole + b"\0")
    refuse("another SM", whole, jetson(gpu=gpu(86)))
    refuse("another version", whole, jetson(libraries={"tensorrt": "10.7.0"}))
    refuse("alone", whole)
    refuse("text", b"not found\n")
    refuse("empty", b"")
    refuse("stale", whole)
    refuse("contradiction", whole, version="10.13.3")
    refuse("wrapped", wrapped(whole, {"task": "detect"}))
    assert len(set(messages.values())) == len(messages)
    assert all("vad-export build-engine site.vad" in text for text in messages.values()), messages
    assert "cut off: it has 500 bytes" in messages["truncated"]
    assert "another model.fp16.onnx" in messages["stale"]
    assert (
        "version in the header: the plan has 10.3.0, its sidecar 10.13.3"
        in (messages["contradiction"])
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"family": "tensorrt"}, ["family in the header"]),
        ({"version": "1.7.1.115"}, ["version in the header"]),
        ({"sms": [80, 86]}, ["SM in the header"]),
        ({"later_sms": False}, ["SM in the header"]),
        ({"bytes": 601}, ["size in the header"]),
    ],
)
def test_header_and_sidecar_are_held_against_each_other(
    tmp_path: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    plan = write_engine(tmp_path, "model.engine", rtx_plan())
    header = read_header(plan)
    sidecar = engine_sidecar(rtx_plan(), **changes)
    assert fields(contradictions(sidecar, header)) == expected


def test_a_wrapped_plan_with_a_sidecar_fits_and_tells_where_it_begins(tmp_path: Path) -> None:
    plan = write_engine(
        tmp_path,
        "model.engine",
        wrapped(rtx_plan(), {"task": "detect"}),
        family="rtx",
        version="1.7.1.116",
        architecture="x86_64",
        sms=[80, 86, 89, 120, 121],
        later_sms=True,
    )
    fit = require_fit(plan, desktop(), source_sha256=None, rebuild=REBUILD)
    assert plan.read_bytes()[fit.header.offset :] == rtx_plan()


def test_a_plan_on_a_failing_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("vad_runtime.engines.fit.sha256_of_file", fails)
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    assert "cannot be read (Input/output error)" in refusal(plan, jetson())


# -- the best of several -----------------------------------------------------------------------


def best(folder: Path, machine: Machine, precision: Any = "fp16") -> str:
    return find_engine(folder, precision, GRAPH_SHA256, machine, REBUILD).plan.name


def test_the_plan_of_the_right_precision_is_taken(tmp_path: Path) -> None:
    write_engine(tmp_path, "a.engine", classic_plan(), precision="fp32")
    write_engine(tmp_path, "b.engine", classic_plan())
    assert best(tmp_path, jetson()) == "b.engine"
    assert best(tmp_path, jetson(), "fp32") == "a.engine"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"version_compatible": True}),
        ({"version_compatible": True}, {"version_compatible": True, "version": "10.2.0"}),
        ({}, {"hardware_compatible": True}),
        ({}, {"gpu": "Orin Nano"}),
        ({"created": "2026-02-01T00:00:00Z"}, {"created": "2026-01-01T00:00:00Z"}),
        ({}, {"sms": [86]}),
        ({}, {"source_sha256": "cd" * 32}),
    ],
)
@pytest.mark.parametrize("names", [("a.engine", "b.engine"), ("b.engine", "a.engine")])
def test_the_better_of_two_plans_is_taken(
    tmp_path: Path, better: dict[str, Any], worse: dict[str, Any], names: tuple[str, str]
) -> None:
    for name, changes in zip(names, (better, worse), strict=True):
        numbers = (10, 2, 0, 1) if changes.get("version") == "10.2.0" else (10, 3, 0, 26)
        write_engine(tmp_path, name, classic_plan(numbers), **changes)
    assert best(tmp_path, jetson()) == names[0]


def test_tensorrt_comes_before_rtx_where_both_fit(tmp_path: Path) -> None:
    write_engine(tmp_path, "a.engine", rtx_plan())
    about: dict[str, Any] = {"sms": [89], "architecture": "x86_64", "l4t": None}
    write_engine(tmp_path, "b.engine", classic_plan(), **about)
    both = desktop(libraries={"tensorrt": "10.3.0", "rtx": "1.7.1.116"})
    assert best(tmp_path, both) == "b.engine"
    assert best(tmp_path, desktop()) == "a.engine"


def test_a_damaged_plan_does_not_hide_a_whole_one(tmp_path: Path) -> None:
    damaged = write_engine(tmp_path, "a.engine", classic_plan(), created="2026-03-01")
    damaged.write_bytes(classic_plan()[:-1] + b"\0")
    (tmp_path / "b.engine").write_text("not a plan")
    write_engine(tmp_path, "c.engine", classic_plan(), created="2026-01-01")
    assert best(tmp_path, jetson()) == "c.engine"


def test_no_engine_and_no_folder_say_how_to_build_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "engines"):
        with pytest.raises(BackendError, match="holds no engine") as refused:
            find_engine(folder, "fp16", GRAPH_SHA256, jetson(), REBUILD)
        assert_one_line(refused.value, REBUILD)


def test_engines_of_other_precisions_are_named(tmp_path: Path) -> None:
    write_engine(tmp_path, "a.engine", classic_plan(), precision="fp32")
    write_engine(tmp_path, "b.engine", classic_plan(), precision="int8")
    with pytest.raises(BackendError, match="holds no fp16 engine, but fp32, int8"):
        find_engine(tmp_path, "fp16", GRAPH_SHA256, jetson(), REBUILD)


def test_the_only_engine_is_refused_with_its_own_message(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "a.engine", classic_plan())
    write_engine(tmp_path, "b.engine", classic_plan(), precision="fp32")
    with pytest.raises(BackendError) as refused:
        find_engine(tmp_path, "fp16", GRAPH_SHA256, jetson(gpu=gpu(110)), REBUILD)
    assert str(refused.value) == refusal(plan, jetson(gpu=gpu(110)), GRAPH_SHA256)


def test_several_that_do_not_fit_are_told_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    write_engine(folder, "a.engine", classic_plan(), sms=[86])
    write_engine(folder, "b.engine", classic_plan(), source_sha256="cd" * 32)
    (folder / "c.engine").write_bytes(b"")
    damaged = write_engine(folder, "d.engine", classic_plan())
    damaged.write_bytes(classic_plan()[:-1] + b"\0")
    with pytest.raises(BackendError) as refused:
        find_engine(folder, "fp16", GRAPH_SHA256, jetson(), REBUILD)
    message = str(refused.value)
    assert "\n" not in message
    assert "none of 4 engines" in message
    assert "a.engine does not fit this machine: SM: the plan was built for SM 86" in message
    assert "b.engine was built from another model.fp16.onnx" in message
    assert "and 2 more. Build one" in message
    assert f"(vad-export inspect {folder})" in message
    assert message.endswith(REBUILD)
    assert message.count(REBUILD) == 1


def test_a_folder_that_holds_many_engines_is_refused_in_a_readable_line(tmp_path: Path) -> None:
    folder = tmp_path / "a-rather-long-name-of-a-site.vad" / "engines"
    for sm in (75, 80, 86, 89, 90, 100, 120, 121):
        name = f"model.b1-4-8.t16.112.fp16.trt10.3.0.sm{sm}.engine"
        write_engine(folder, name, classic_plan(), sms=[sm])
    with pytest.raises(BackendError) as refused:
        find_engine(folder, "fp16", GRAPH_SHA256, jetson(), REBUILD)
    assert_one_line(refused.value, "none of 8 engines", "and 6 more. ", REBUILD)


def test_hidden_and_unfinished_files_are_no_engines(tmp_path: Path) -> None:
    write_engine(tmp_path, "b.engine", classic_plan())
    write_engine(tmp_path, "a.engine", classic_plan())
    (tmp_path / ".c.engine.123.part").write_bytes(b"")
    (tmp_path / ".d.engine").write_bytes(b"")
    assert [path.name for path in engines_of(tmp_path)] == ["a.engine", "b.engine"]
    assert engines_of(tmp_path / "missing") == []
    assert engines_of(tmp_path / "a.engine") == []


# -- the command that builds it again ----------------------------------------------------------


def test_the_rebuild_command_keeps_what_was_asked_for() -> None:
    plain = rebuild_command("site.vad", None, "fp16")
    assert plain == "vad-export build-engine site.vad --precision fp16"
    assert rebuild_command("site.vad", None, None) == "vad-export build-engine site.vad"
    sidecar = engine_sidecar(
        classic_plan(), batches=[1, 4], version_compatible=True, hardware_compatible=True
    )
    assert rebuild_command("site.vad", sidecar, None) == (
        "vad-export build-engine site.vad --precision fp16 --batch 1,4 --version-compatible "
        "--hardware-compatible --overwrite"
    )
    rtx = rebuild_command("site.vad", engine_sidecar(rtx_plan()), "int8")
    assert "--precision int8" in rtx
    assert "--flavour rtx" in rtx


def test_the_rebuild_command_keeps_options_that_change_the_engine() -> None:
    options = {"level": 4, "dla": None, "tf32": True, "workspace_bytes": 1 << 30}
    sidecar = engine_sidecar(
        classic_plan(), options=options, version_compatible=True, host_code=True
    )
    assert rebuild_command("site.vad", sidecar, None).endswith(
        "--version-compatible --host-code --tf32 --opt-level 4 --overwrite"
    )


def test_the_rebuild_command_keeps_the_outputs() -> None:
    tensors = [
        EngineTensor(name=name, dtype="float32", shape=[-1, 8]) for name in ("score", "embedding")
    ]
    assert "--output" not in rebuild_command("site.vad", engine_sidecar(classic_plan()), None)
    sidecar = engine_sidecar(classic_plan(), outputs=tensors)
    assert "--output embedding" in rebuild_command("site.vad", sidecar, None)


def test_the_rebuild_command_leaves_out_what_the_library_here_has_not() -> None:
    classic = engine_sidecar(classic_plan(), version_compatible=True, batches=[4])
    there = rebuild_command("site.vad", classic, None, desktop())
    assert there == "vad-export build-engine site.vad --precision fp16 --batch 4 --overwrite"
    assert "--version-compatible" in rebuild_command("site.vad", classic, None, jetson())
    rtx = engine_sidecar(rtx_plan())
    assert "--flavour" not in rebuild_command("site.vad", rtx, None, jetson())
    assert "--flavour rtx" in rebuild_command("site.vad", rtx, None, desktop())


@pytest.mark.parametrize(("sm", "named"), [(75, True), (80, False), (89, False), (70, False)])
def test_a_gpu_that_rtx_leaves_out_unasked_is_named(sm: int, named: bool) -> None:
    command = rebuild_command("site.vad", None, "fp16", desktop(gpu=gpu(sm, "a GPU")))
    assert (f"--sm {sm}" in command) is named


def test_a_machine_that_builds_nothing_is_not_told_to_build(tmp_path: Path) -> None:
    plan = write_engine(tmp_path, "model.engine", classic_plan())
    message = refusal(plan, jetson(libraries={"lean": "10.3.0"}))
    assert "Build one that fits on a machine with TensorRT: vad-export" in message


def test_a_bundle_with_a_space_in_its_name_is_quoted() -> None:
    words = shlex.split(rebuild_command("my site.vad", None, "fp16"))
    assert words[2] == "my site.vad"


# -- this machine ------------------------------------------------------------------------------


def test_this_machine_is_looked_at_without_making_a_runtime() -> None:
    machine = this_machine()
    assert machine.architecture
    assert {*machine.libraries, *machine.missing} == {"tensorrt", "rtx", "lean", "dispatch"}
    assert (machine.gpu is None) == bool(machine.no_gpu)


def test_a_gpu_that_is_not_there_is_a_reason_and_no_error() -> None:
    machine = this_machine("cuda:99")
    assert machine.gpu is None
    assert machine.no_gpu
