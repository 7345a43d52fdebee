import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from helpers import artefact, assert_one_line, clip_spec, manifest, motion_model
from helpers_plans import classic_plan, rtx_plan, write_engine
from helpers_triton import parameters_of, triton_config

from vad_export import triton
from vad_export.commands.triton import command
from vad_export.triton import TritonSettings, triton_from_bundle
from vad_runtime.bundle import Bundle, add_artefacts, rewrite_manifest, write_bundle
from vad_runtime.contracts import (
    BackendError,
    EngineTensor,
    ExportError,
    InputError,
    OutputSpec,
    ScoreSpec,
)
from vad_runtime.files import put_in_place


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


def clip_bundle(folder: Path) -> Bundle:
    """A bundle whose score has the shape (N,)."""
    clip = clip_spec()
    graph = motion_model(folder / "clip.onnx", clip, answer="clip")
    about = manifest(clip=clip, score=ScoreSpec(per="clip", form="motion"))
    return write_bundle(folder / "clip.vad", about, {"fp32": graph})


def plan_of(bundle: Bundle, folder: Path, **changes: Any) -> Path:
    """A plan of the bundle's graph: a header, and a sidecar."""
    entry = bundle.manifest.artefacts["fp32"]
    plain = {"precision": "fp32", "source": entry.file, "source_sha256": entry.sha256}
    content = rtx_plan() if changes.get("family") == "rtx" else classic_plan()
    return write_engine(folder, "model.engine", content, **(plain | changes))


def read(folder: Path) -> object:
    return triton_config((folder / "config.pbtxt").read_text())


def test_a_version_never_stands_there_without_a_configuration(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(work: Path, target: Path) -> None:
        assert (target.parent / "config.pbtxt").is_file()
        put_in_place(work, target)

    monkeypatch.setattr("vad_export.triton.put_in_place", seen)
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name="site"))
    assert (written.folder / "1" / "model.onnx").is_file()


def test_a_bundle_becomes_a_model_with_a_configuration_and_one_version(
    bundle: Bundle, tmp_path: Path
) -> None:
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name="site"))
    folder = tmp_path / "repo" / "site"
    assert written.folder == folder
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        "1",
        "1/model.onnx",
        "config.pbtxt",
    ]
    config = read(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("site", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    (clip,) = config.input
    assert (clip.name, clip.data_type, list(clip.dims)) == ("clip", 2, [8, 32, 32, 1])
    (score,) = config.output
    assert (score.name, score.data_type, list(score.dims)) == ("score", 11, [8])
    assert not score.HasField("reshape")
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000


def test_the_configuration_fits_the_graph_that_lies_beside_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    written = triton_from_bundle(bundle, tmp_path, TritonSettings())
    config = read(written.folder)
    session = onnxruntime.InferenceSession(
        str(written.folder / "1" / config.default_model_filename),
        providers=["CPUExecutionProvider"],
    )
    (given,) = session.get_inputs()
    assert (given.name, given.shape[1:]) == (config.input[0].name, list(config.input[0].dims))
    clips = np.zeros((config.max_batch_size, *config.input[0].dims), np.uint8)
    (answer,) = session.run([config.output[0].name], {given.name: clips})
    assert answer.shape == (config.max_batch_size, *config.output[0].dims)


def test_a_score_of_shape_n_is_served_as_n_by_one(tmp_path: Path) -> None:
    written = triton_from_bundle(clip_bundle(tmp_path), tmp_path / "repo", TritonSettings())
    (score,) = read(written.folder).output
    assert list(score.dims) == [1]  # Triton takes no empty dims
    assert score.HasField("reshape")
    assert list(score.reshape.shape) == []


def test_the_parameters_hold_what_turns_a_raw_score_into_an_alarm(
    bundle: Bundle, tmp_path: Path
) -> None:
    about = msgspec.structs.replace(
        bundle.manifest.scoring, method='said "so" \\ at the café', evidence={"many": [1] * 99}
    )
    bundle = rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=about))
    config = read(triton_from_bundle(bundle, tmp_path, TritonSettings()).folder)
    found = parameters_of(config)
    scoring = json.loads(found["scoring"])
    assert scoring["threshold"] == 0.5
    assert scoring["method"] == 'said "so" \\ at the café'
    assert scoring["evidence"] == {}
    assert json.loads(found["clip"])["frames"] == 8
    assert found["artefact_sha256"] == bundle.manifest.artefacts["fp32"].sha256


def test_optional_outputs_are_served_too(bundle: Bundle, tmp_path: Path) -> None:
    outputs = [OutputSpec(name="embedding", shape=["N", 512], meaning="features")]
    bundle = rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, outputs=outputs))
    config = read(triton_from_bundle(bundle, tmp_path, TritonSettings()).folder)
    assert [(o.name, list(o.dims)) for o in config.output] == [("score", [8]), ("embedding", [512])]


def test_without_batches_there_is_no_batcher(bundle: Bundle, tmp_path: Path) -> None:
    config = read(triton_from_bundle(bundle, tmp_path, TritonSettings(max_batch=1)).folder)
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


def test_a_mixed_graph_is_served_without_the_optimiser_that_is_wrong_for_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    entry = artefact(file="model.mixed.onnx", precision="mixed", made_from="fp32")
    bundle = add_artefacts(
        bundle, {"mixed": (entry, bundle.file(bundle.manifest.artefacts["fp32"]))}
    )
    plain = read(triton_from_bundle(bundle, tmp_path, TritonSettings(name="plain")).folder)
    mixed = TritonSettings(name="mixed", precision="mixed")
    config = read(triton_from_bundle(bundle, tmp_path, mixed).folder)
    assert config.optimization.graph.level == 2
    assert not plain.HasField("optimization")


def test_a_key_that_triton_does_not_know_is_found(bundle: Bundle, tmp_path: Path) -> None:
    written = triton_from_bundle(bundle, tmp_path, TritonSettings())
    text = (written.folder / "config.pbtxt").read_text().replace("max_batch_size", "max_batch")
    with pytest.raises(text_format.ParseError):
        triton_config(text)


# -- versions ------------------------------------------------------------------------------------


def test_a_second_export_is_version_two_beside_the_first(bundle: Bundle, tmp_path: Path) -> None:
    triton_from_bundle(bundle, tmp_path, TritonSettings(name="site"))
    scoring = msgspec.structs.replace(bundle.manifest.scoring, threshold=0.75)
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
    written = triton_from_bundle(Bundle.open(bundle.path), tmp_path, TritonSettings(name="site"))
    assert written.version == 2
    assert sorted(p.name for p in written.folder.iterdir()) == ["1", "2", "config.pbtxt"]
    assert json.loads(parameters_of(read(written.folder))["scoring"])["threshold"] == 0.75


def test_a_version_that_is_there_is_replaced_only_when_asked(
    bundle: Bundle, tmp_path: Path
) -> None:
    seven = TritonSettings(name="site", version=7)
    folder = triton_from_bundle(bundle, tmp_path, seven).folder
    (folder / "7" / "model.onnx").write_bytes(b"old")
    with pytest.raises(InputError) as raised:
        triton_from_bundle(bundle, tmp_path, seven)
    assert_one_line(raised.value, "7", "--overwrite")
    assert (folder / "7" / "model.onnx").read_bytes() == b"old"
    triton_from_bundle(bundle, tmp_path, dataclasses.replace(seven, overwrite=True))
    assert (folder / "7" / "model.onnx").stat().st_size > 100
    assert sorted(p.name for p in folder.iterdir()) == ["7", "config.pbtxt"]


def test_a_model_with_other_inputs_or_outputs_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    folder = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name="site")).folder
    before = (folder / "config.pbtxt").read_text()
    other = clip_bundle(tmp_path)
    with pytest.raises(InputError) as raised:
        triton_from_bundle(other, tmp_path / "repo", TritonSettings(name="site"))
    assert_one_line(raised.value, "config.pbtxt", "--name")
    assert (folder / "config.pbtxt").read_text() == before
    assert sorted(p.name for p in folder.iterdir()) == ["1", "config.pbtxt"]


def test_a_server_never_sees_half_a_version(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = triton.shutil.copyfile

    def slow_copy(source: Path, target: Path) -> None:
        real(source, target)
        folder = tmp_path / "site"
        seen.append([p.name for p in folder.iterdir() if p.name.isdecimal()])

    monkeypatch.setattr(triton.shutil, "copyfile", slow_copy)
    triton_from_bundle(bundle, tmp_path, TritonSettings(name="site"))
    assert seen == [[]]


def test_an_export_that_fails_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton.shutil, "copyfile", full)
    with pytest.raises(InputError) as raised:
        triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name="site"))
    assert_one_line(raised.value, "No space left")
    assert list((tmp_path / "repo").iterdir()) == []


def test_what_a_killed_export_left_goes_with_the_next_one(bundle: Bundle, tmp_path: Path) -> None:
    folder = triton_from_bundle(bundle, tmp_path, TritonSettings(name="site")).folder
    (folder / ".2.abcd.part").mkdir()
    (folder / ".2.abcd.part" / "model.onnx").write_bytes(b"half")
    triton_from_bundle(bundle, tmp_path, TritonSettings(name="site"))
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2", "config.pbtxt"]


def test_the_versions_of_two_exports_at_once_do_not_mix(bundle: Bundle, tmp_path: Path) -> None:
    done: list[int] = []

    def export() -> None:
        done.append(triton_from_bundle(bundle, tmp_path, TritonSettings(name="site")).version)

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [1, 2, 3, 4]
    names = sorted(p.name for p in (tmp_path / "site").iterdir())
    assert names == ["1", "2", "3", "4", "config.pbtxt"]


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_of_a_repository_is_refused(
    name: str, bundle: Bundle, tmp_path: Path
) -> None:
    if not name:
        bundle.path.rename(tmp_path / "a b.vad")
        bundle = Bundle.open(tmp_path / "a b.vad")
    with pytest.raises(InputError) as raised:
        triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name=name or None))
    assert_one_line(raised.value, "--name")
    assert not (tmp_path / "repo").exists()


def test_a_graph_that_the_bundle_has_not_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as raised:
        triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(precision="int8"))
    assert_one_line(raised.value, "no int8 graph", "vad-export quantise")


# -- plans ---------------------------------------------------------------------------------------


def test_a_plan_is_served_in_the_batches_that_it_has_profiles_for(
    bundle: Bundle, tmp_path: Path
) -> None:
    plan = plan_of(bundle, tmp_path, batches=[4, 1, 2, 3, 8])
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(plan=plan))
    config = read(written.folder)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 4)
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (1, ["1", "2", "3", "0"])
    assert (written.folder / "1" / "model.plan").read_bytes() == plan.read_bytes()
    assert any("10.3.0" in note for note in written.notes)
    assert any("8" in note and "not used" in note for note in written.notes)


def test_a_plan_serves_the_outputs_that_it_kept(bundle: Bundle, tmp_path: Path) -> None:
    outputs = [OutputSpec(name="embedding", shape=["N", 512], meaning="features")]
    bundle = rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, outputs=outputs))
    both = [EngineTensor(name=n, dtype="float32", shape=[-1, 8]) for n in ("score", "embedding")]
    for kept in (both, both[:1]):
        plan = plan_of(bundle, tmp_path / str(len(kept)), outputs=kept)
        settings = TritonSettings(plan=plan)
        config = read(triton_from_bundle(bundle, tmp_path / f"repo{len(kept)}", settings).folder)
        assert [output.name for output in config.output] == [tensor.name for tensor in kept]


def test_a_version_compatible_plan_says_how_the_server_is_started(
    bundle: Bundle, tmp_path: Path
) -> None:
    # Without the lean runtime in it, it needs the version that built it, like any other.
    plan = plan_of(bundle, tmp_path, version_compatible=True)
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(plan=plan))
    assert "10.x" not in written.notes[0]
    plan = plan_of(bundle, tmp_path / "lean", version_compatible=True, host_code=True)
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(plan=plan))
    assert "version-compatible=true" in written.notes[0]
    assert "10.x" in written.notes[0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"family": "rtx"}, ("TensorRT-RTX", "--flavour tensorrt")),
        ({"batches": [4, 8]}, ("batches of 4, 8", "--batch")),
        ({"source_sha256": "0" * 64}, ("another graph", "build-engine")),
        ({"sha256": "0" * 64}, ("changed or damaged", "build-engine")),
        ({"precision": "fp16"}, ("no fp16 graph", "quantise")),
    ],
    ids=lambda value: "",
)
def test_a_plan_that_triton_cannot_serve_is_refused(
    changes: dict[str, object], parts: tuple[str, ...], bundle: Bundle, tmp_path: Path
) -> None:
    plan = plan_of(bundle, tmp_path, **changes)
    with pytest.raises((ExportError, BackendError)) as raised:
        triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(plan=plan))
    assert_one_line(raised.value, *parts)
    assert not (tmp_path / "repo").exists()


def test_a_plan_does_not_become_a_version_of_a_graph(bundle: Bundle, tmp_path: Path) -> None:
    triton_from_bundle(bundle, tmp_path / "repo", TritonSettings(name="site"))
    plan = TritonSettings(name="site", plan=plan_of(bundle, tmp_path))
    with pytest.raises(InputError) as raised:
        triton_from_bundle(bundle, tmp_path / "repo", plan)
    assert_one_line(raised.value, "another back end")


# -- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(bundle: Bundle, tmp_path: Path) -> None:
    run = CliRunner().invoke(command, [str(bundle.path), "-o", str(tmp_path / "repo")])
    assert run.exit_code == 0, run.output
    assert f"{tmp_path / 'repo' / 'copy'}: version 1, onnxruntime, fp32, batches up to 8" in (
        run.output
    )


def test_the_version_can_be_read_by_a_server_of_another_user(
    bundle: Bundle, tmp_path: Path
) -> None:
    written = triton_from_bundle(bundle, tmp_path / "repo", TritonSettings())
    assert os.stat(written.folder / "1").st_mode & 0o777 == 0o755  # noqa: PTH116


def test_a_command_with_a_plan_and_a_precision_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    arguments = [str(bundle.path), "-o", str(tmp_path), "--engine", "x", "--precision", "fp16"]
    run = CliRunner().invoke(command, arguments)
    assert "a plan has a precision of its own" in str(run.exception)
