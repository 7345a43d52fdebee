"""A bundle is whole and unchanged, or it is not opened; it is written whole, or not at all."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest, motion_model

from vad_runtime import bundle as bundle_module
from vad_runtime.bundle import (
    MANIFEST,
    Bundle,
    add_artefacts,
    remove_artefacts,
    require_free_bundle_path,
    rewrite_manifest,
    sha256_of_file,
    write_bundle,
)
from vad_runtime.contracts import Artefact, BundleError, InputError, Manifest, PlanChoice, Scoring


def edit(folder: Path, **changes: Any) -> None:
    """Change the manifest's only artefact entry by hand, as an attacker or an editor would."""
    content = json.loads((folder / MANIFEST).read_bytes())
    content["artefacts"]["fp32"] |= changes
    (folder / MANIFEST).write_text(json.dumps(content))


def refusal(folder: Path, *parts: str) -> None:
    """Assert that a bundle is refused with one line that holds the parts."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert_one_line(caught.value, *parts)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def names(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(child.name for child in folder.iterdir())


# -- opening -----------------------------------------------------------------------------------


def test_a_written_bundle_opens_with_sizes_and_hashes_filled_in(
    tiny_bundle: Bundle, tiny_graph: Path
) -> None:
    opened = Bundle.open(tiny_bundle.path)
    entry = opened.manifest.artefacts["fp32"]
    assert entry.bytes == tiny_graph.stat().st_size
    assert entry.sha256 == hashlib.sha256(tiny_graph.read_bytes()).hexdigest()
    assert opened.file(entry).read_bytes() == tiny_graph.read_bytes()
    assert opened.manifest == tiny_bundle.manifest
    assert opened.name == "tiny.vad"


def test_a_bundle_in_the_working_directory_has_its_folders_name(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle_copy)
    assert Bundle.open(".").name == "copy.vad"


def test_the_hash_is_sha256_over_files_larger_than_a_block(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom((2 << 20) + 17))
    assert sha256_of_file(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_one_flipped_bit_is_noticed(bundle_copy: Path) -> None:
    file = bundle_copy / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refusal(bundle_copy, "model.onnx", "sha256 differs")
    assert Bundle.open(bundle_copy, verify=False).manifest.name == "motion"


def test_a_truncated_artefact_is_noticed(bundle_copy: Path) -> None:
    file = bundle_copy / "model.onnx"
    size = file.stat().st_size
    os.truncate(file, size - 1)
    refusal(bundle_copy, "model.onnx", str(size), str(size - 1))


def test_a_missing_artefact_is_noticed(bundle_copy: Path) -> None:
    (bundle_copy / "model.onnx").unlink()
    refusal(bundle_copy, "model.onnx", "missing")


def test_a_folder_in_place_of_an_artefact_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / "model.onnx").unlink()
    (bundle_copy / "model.onnx").mkdir()
    edit(bundle_copy, bytes=(bundle_copy / "model.onnx").stat().st_size)
    refusal(bundle_copy, "model.onnx")


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx",
        "..",
        ".",
        "",
        "/etc/hostname",
        "sub/model.onnx",
        "./model.onnx",
        "model.onnx/",
        "..\\model.onnx",
        "model.onnx\x00.txt",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_an_artefact_path_that_leaves_the_folder_is_refused(
    bundle_copy: Path, name: str, verify: bool
) -> None:
    shutil.copy(bundle_copy / "model.onnx", bundle_copy.parent / "model.onnx")
    edit(bundle_copy, file=name)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle_copy, verify=verify)
    assert "\n" not in str(caught.value)
    assert MANIFEST in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(bundle_copy: Path) -> None:
    file = bundle_copy / "model.onnx"
    outside = file.rename(bundle_copy.parent / "outside.onnx")
    file.symlink_to(outside)
    refusal(bundle_copy, "model.onnx", "leaves the bundle folder")


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    file = tmp_path / "model.vad"
    file.write_bytes(b"PK")
    refusal(file, "model.vad is a file, not a bundle folder")


def test_a_path_where_nothing_is_says_so(tmp_path: Path) -> None:
    refusal(tmp_path / "none.vad", "none.vad does not exist")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    refusal(tmp_path, "holds no manifest.json")


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    refusal(tmp_path, "manifest.json cannot be read")


def test_a_damaged_manifest_names_its_file(bundle_copy: Path) -> None:
    os.truncate(bundle_copy / MANIFEST, 100)
    refusal(bundle_copy, str(bundle_copy / MANIFEST), "not JSON")


# -- writing -----------------------------------------------------------------------------------


def test_a_bundle_is_written_under_its_name_and_nothing_else_is_left(
    tmp_path: Path, tiny_graph: Path
) -> None:
    target = tmp_path / "made" / "on" / "demand" / "a.vad"
    made = write_bundle(target, manifest(), {"fp32": tiny_graph})
    assert sorted(contents(target)) == [MANIFEST, "model.onnx"]
    assert names(target.parent) == ["a.vad"]
    assert made.path == target
    assert Bundle.open(target).manifest == made.manifest
    assert target.stat().st_mode & 0o777 == 0o755


def test_the_size_and_hash_that_the_caller_claims_do_not_count(
    tmp_path: Path, tiny_graph: Path
) -> None:
    claims = manifest(artefacts={"fp32": artefact(sha256="f" * 64, bytes=1)})
    write_bundle(tmp_path / "a.vad", claims, {"fp32": tiny_graph})
    Bundle.open(tmp_path / "a.vad")


def test_a_name_with_another_ending_is_refused(tmp_path: Path, tiny_graph: Path) -> None:
    with pytest.raises(InputError, match=r"must end with \.vad") as caught:
        write_bundle(tmp_path / "model", manifest(), {"fp32": tiny_graph})
    assert_one_line(caught.value, "model.vad")
    assert not list(tmp_path.iterdir())


def test_an_existing_bundle_is_left_alone_without_overwrite(
    bundle_copy: Path, tiny_graph: Path
) -> None:
    before = contents(bundle_copy)
    with pytest.raises(InputError, match="--overwrite"):
        write_bundle(bundle_copy, manifest(), {"fp32": tiny_graph})
    assert contents(bundle_copy) == before
    assert names(bundle_copy.parent) == ["copy.vad"]


def test_overwrite_replaces_the_whole_bundle(bundle_copy: Path, tiny_graph: Path) -> None:
    (bundle_copy / "stale.onnx").write_bytes(b"old")
    renamed = msgspec.structs.replace(manifest(), name="second")
    write_bundle(bundle_copy, renamed, {"fp32": tiny_graph}, overwrite=True)
    assert Bundle.open(bundle_copy).manifest.name == "second"
    assert sorted(contents(bundle_copy)) == [MANIFEST, "model.onnx"]
    assert names(bundle_copy.parent) == ["copy.vad"]


def test_overwrite_through_a_link_leaves_nothing_behind(
    bundle_copy: Path, tiny_graph: Path
) -> None:
    link = bundle_copy.with_name("current.vad")
    link.symlink_to(bundle_copy)
    renamed = msgspec.structs.replace(manifest(), name="second")
    write_bundle(link, renamed, {"fp32": tiny_graph}, overwrite=True)
    assert Bundle.open(link).manifest.name == "second"
    assert names(link.parent) == ["copy.vad", "current.vad"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_overwrite_never_removes_what_is_no_bundle(
    tmp_path: Path, tiny_graph: Path, kind: str
) -> None:
    target = tmp_path / "photos.vad"
    if kind == "file":
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "wedding.jpg").write_text("precious")
    with pytest.raises(InputError, match="is not a bundle"):
        write_bundle(target, manifest(), {"fp32": tiny_graph}, overwrite=True)
    assert names(tmp_path) == ["photos.vad"]


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("moment", ["copy", "manifest", "check", "rename"])
def test_a_failure_midway_leaves_what_was_there_and_nothing_more(
    tmp_path: Path,
    tiny_bundle: Bundle,
    tiny_graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    there_before: bool,
) -> None:
    target = tmp_path / "a.vad"
    if there_before:
        shutil.copytree(tiny_bundle.path, target)
    before = contents(tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rename = Path.rename

    def failing_rename(self: Path, goal: Path) -> Path:
        # Only the last step fails: the new folder under its final name.
        if Path(goal) == target and (self / MANIFEST).read_bytes() != before.get(
            "a.vad/manifest.json"
        ):
            full()
        return rename(self, goal)

    renamed = msgspec.structs.replace(manifest(), name="second")
    with monkeypatch.context() as patch:
        if moment == "copy":
            patch.setattr(bundle_module.shutil, "copyfile", full)
        elif moment == "manifest":
            patch.setattr(bundle_module, "json_from_manifest", full)
        elif moment == "check":
            patch.setattr(bundle_module.Bundle, "open", full)
        else:
            patch.setattr(Path, "rename", failing_rename)
        with pytest.raises(InputError, match="No space left") as caught:
            write_bundle(target, renamed, {"fp32": tiny_graph}, overwrite=True)
    assert_one_line(caught.value, "a.vad")
    assert contents(tmp_path) == before
    assert names(tmp_path) == (["a.vad"] if there_before else [])


def test_a_bundle_that_would_not_open_is_never_put_in_place(
    tmp_path: Path, tiny_graph: Path
) -> None:
    # Built by hand, `scale` is not checked; read from JSON it is.
    broken = manifest(scoring=Scoring(scale=0.0))
    with pytest.raises(BundleError, match="scale"):
        write_bundle(tmp_path / "a.vad", broken, {"fp32": tiny_graph})
    assert not list(tmp_path.iterdir())


def test_a_source_file_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_bundle(tmp_path / "a.vad", manifest(), {"fp32": tmp_path / "none.onnx"})
    assert_one_line(caught.value, "none.onnx")
    assert not list(tmp_path.iterdir())


def test_an_artefact_name_that_leaves_the_folder_is_not_written(
    tmp_path: Path, tiny_graph: Path
) -> None:
    evil = manifest(artefacts={"fp32": artefact(file="../evil.onnx")})
    with pytest.raises(BundleError, match="leaves the bundle folder"):
        write_bundle(tmp_path / "a.vad", evil, {"fp32": tiny_graph})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, tiny_graph: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_bundle(tmp_path / "file" / "a.vad", manifest(), {"fp32": tiny_graph})
    assert_one_line(caught.value)


def test_a_free_path_is_free(tmp_path: Path) -> None:
    require_free_bundle_path(tmp_path / "a.vad")


# -- the manifest of a bundle that stands ------------------------------------------------------


def with_threshold(about: Manifest, value: float) -> Manifest:
    """Return the manifest with another threshold."""
    scoring = msgspec.structs.replace(about.scoring, threshold=value)
    return msgspec.structs.replace(about, scoring=scoring)


def test_a_rewritten_manifest_is_read_back_and_the_artefact_is_untouched(
    bundle_copy: Path,
) -> None:
    before = contents(bundle_copy)
    opened = Bundle.open(bundle_copy)
    after = rewrite_manifest(opened, with_threshold(opened.manifest, 0.25))
    assert after.manifest.scoring.threshold == 0.25
    assert Bundle.open(bundle_copy).manifest == after.manifest
    assert sorted(contents(bundle_copy)) == sorted(before)
    assert contents(bundle_copy)["model.onnx"] == before["model.onnx"]


def test_a_failed_rewrite_leaves_the_old_manifest_and_no_temporary_file(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle_copy)
    opened = Bundle.open(bundle_copy)

    def full(self: Path, goal: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(BundleError, match="No space left"):
            rewrite_manifest(opened, with_threshold(opened.manifest, 0.25))
    assert contents(bundle_copy) == before


def test_a_manifest_that_would_not_open_is_not_written(bundle_copy: Path) -> None:
    before = contents(bundle_copy)
    opened = Bundle.open(bundle_copy)
    broken = msgspec.structs.replace(opened.manifest, scoring=Scoring(window=0))
    with pytest.raises(BundleError, match="window"):
        rewrite_manifest(opened, broken)
    assert contents(bundle_copy) == before


# -- artefacts added to a bundle that stands ---------------------------------------------------


def entry(precision: str = "int8", **changes: Any) -> Artefact:
    """Return an entry made from the fp32 graph."""
    plain = {"file": f"model.{precision}.onnx", "precision": precision, "made_from": "fp32"}
    return artefact(**(plain | changes))


def planned(precision: str) -> PlanChoice:
    """Return a plan that takes a precision."""
    return PlanChoice(
        backend="openvino",
        precision=precision,  # type: ignore[arg-type]
        target_ms=None,
        median_ms=1.0,
        p95_ms=1.5,
        cpu="a processor",
        threads=1,
        why="the fastest",
    )


@pytest.fixture
def clip_graph(tmp_path: Path) -> Path:
    """Another graph than `tiny_graph`, in a folder of its own."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    return motion_model(folder / "other.onnx", clip_spec(), answer="clip")


def test_an_added_artefact_stands_beside_the_others_with_size_and_hash(
    bundle_copy: Path, clip_graph: Path
) -> None:
    before = contents(bundle_copy)
    made = add_artefacts(
        Bundle.open(bundle_copy), {"int8": (entry(), clip_graph)}, calibration={"clips": 8}
    )
    opened = Bundle.open(bundle_copy)
    assert opened.manifest == made.manifest
    assert opened.manifest.calibration == {"clips": 8}
    added = opened.manifest.artefacts["int8"]
    assert (added.file, added.bytes) == ("model.int8.onnx", clip_graph.stat().st_size)
    assert added.sha256 == hashlib.sha256(clip_graph.read_bytes()).hexdigest()
    assert names(bundle_copy) == [MANIFEST, "model.int8.onnx", "model.onnx"]
    assert contents(bundle_copy)["model.onnx"] == before["model.onnx"]


def test_a_replaced_artefact_gets_another_name_and_the_old_file_goes(
    bundle_copy: Path, tiny_graph: Path, clip_graph: Path
) -> None:
    bundle = add_artefacts(Bundle.open(bundle_copy), {"int8": (entry(), clip_graph)})
    bundle = add_artefacts(bundle, {"int8": (entry(), tiny_graph)})
    digits = sha256_of_file(tiny_graph)[:8]
    assert names(bundle_copy) == [MANIFEST, f"model.int8.{digits}.onnx", "model.onnx"]
    # The same graph once more, with the bundle's own file as the source.
    source = bundle.file(bundle.manifest.artefacts["int8"])
    bundle = add_artefacts(bundle, {"int8": (entry(details={"again": 1}), source)})
    assert names(bundle_copy) == [MANIFEST, "model.int8.onnx", "model.onnx"]
    assert Bundle.open(bundle_copy).manifest.artefacts["int8"].details == {"again": 1}


def test_what_others_changed_meanwhile_is_kept(bundle_copy: Path, clip_graph: Path) -> None:
    opened = Bundle.open(bundle_copy)
    rewrite_manifest(opened, with_threshold(opened.manifest, 0.25))
    add_artefacts(opened, {"int8": (entry(), clip_graph)})
    assert Bundle.open(bundle_copy).manifest.scoring.threshold == 0.25


def test_an_artefact_made_from_a_graph_that_was_replaced_meanwhile_is_refused(
    bundle_copy: Path, clip_graph: Path
) -> None:
    opened = Bundle.open(bundle_copy)
    write_bundle(bundle_copy, opened.manifest, {"fp32": clip_graph}, overwrite=True)
    before = contents(bundle_copy)
    with pytest.raises(BundleError, match="replaced while int8 was made from it") as caught:
        add_artefacts(opened, {"int8": (entry(), clip_graph)})
    assert_one_line(caught.value, "Run the command again")
    assert contents(bundle_copy) == before


class Crash(BaseException):
    """Ends the process, as far as the code can see."""


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize(
    "moment", ["copy", "half a copy", "flush", "manifest", "replace", "after replace"]
)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Crash()])
def test_a_crash_at_any_step_leaves_a_bundle_that_opens_and_nothing_stray(
    bundle_copy: Path,
    tiny_graph: Path,
    clip_graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    there_before: bool,
    error: BaseException,
) -> None:
    bundle = Bundle.open(bundle_copy)
    if there_before:
        bundle = add_artefacts(bundle, {"int8": (entry(), tiny_graph)})
    before = contents(bundle_copy)
    replace = Path.replace

    def crash(*args: object) -> None:
        raise error

    def half(source: Path, goal: Path) -> None:
        goal.write_bytes(source.read_bytes()[:100])
        raise error

    def late(self: Path, goal: Path) -> Path:
        replace(self, goal)
        raise error

    with monkeypatch.context() as patch:
        if moment == "copy":
            patch.setattr(bundle_module.shutil, "copyfile", crash)
        elif moment == "half a copy":
            patch.setattr(bundle_module.shutil, "copyfile", half)
        elif moment == "flush":
            patch.setattr(bundle_module, "flush_to_disk", crash)
        elif moment == "manifest":
            patch.setattr(bundle_module, "rewrite_manifest", crash)
        elif moment == "replace":
            patch.setattr(Path, "replace", crash)
        else:
            patch.setattr(Path, "replace", late)
        expected = Crash if isinstance(error, Crash) else BundleError
        with pytest.raises(expected) as caught:
            add_artefacts(
                bundle, {"int8": (entry(), clip_graph), "fp16": (entry("fp16"), tiny_graph)}
            )
    if expected is BundleError:
        assert_one_line(caught.value, "copy.vad", "No space left")
    opened = Bundle.open(bundle_copy)
    if moment == "after replace":
        assert sorted(opened.manifest.artefacts) == ["fp16", "fp32", "int8"]
        files = {a.file for a in opened.manifest.artefacts.values()}
        assert names(bundle_copy) == sorted({MANIFEST, *files})
    else:
        assert contents(bundle_copy) == before


def test_what_a_killed_process_left_is_swept_by_the_next_and_other_files_stay(
    bundle_copy: Path, clip_graph: Path
) -> None:
    (bundle_copy / "model.int8.onnx").write_bytes(b"half of it")
    (bundle_copy / "model.int8.0123abcd.onnx").write_bytes(b"an old one")
    (bundle_copy / "notes.txt").write_text("mine")
    add_artefacts(Bundle.open(bundle_copy), {"int8": (entry(), clip_graph)})
    assert names(bundle_copy) == [MANIFEST, "model.int8.onnx", "model.onnx", "notes.txt"]
    Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    ("short", "about", "reason"),
    [
        ("second", entry("fp32"), "fp32 and second are both fp32"),
        ("int8", entry(made_from="fp64"), "made from fp64, which is not there"),
        ("int8", entry(file="../model.int8.onnx"), "leaves the bundle folder"),
        ("int8", entry(file=""), "leaves the bundle folder"),
    ],
)
def test_an_entry_that_would_not_open_changes_nothing(
    bundle_copy: Path, clip_graph: Path, short: str, about: Artefact, reason: str
) -> None:
    before = contents(bundle_copy.parent)
    with pytest.raises(BundleError, match=reason) as caught:
        add_artefacts(Bundle.open(bundle_copy), {short: (about, clip_graph)})
    assert_one_line(caught.value, "copy.vad")
    assert contents(bundle_copy.parent) == before


def test_a_source_that_is_missing_or_lies_in_the_bundle_already_is_refused(
    bundle_copy: Path, clip_graph: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    with pytest.raises(InputError, match=r"none\.onnx is not a file"):
        add_artefacts(bundle, {"int8": (entry(), clip_graph.with_name("none.onnx"))})
    inside = bundle_copy / "model.int8.onnx"
    shutil.copy(clip_graph, inside)
    with pytest.raises(BundleError, match="lies in the bundle already"):
        add_artefacts(bundle, {"int8": (entry(), inside)})
    assert inside.read_bytes() == clip_graph.read_bytes()


def test_a_plan_goes_with_the_graph_that_it_runs_and_stays_with_others(
    bundle_copy: Path, tiny_graph: Path, clip_graph: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    both = {"int8": (entry(), clip_graph), "fp16": (entry("fp16"), clip_graph)}
    bundle = add_artefacts(bundle, both, plan=planned("int8"))
    assert bundle.manifest.plan == planned("int8")
    bundle = add_artefacts(bundle, {"fp16": (entry("fp16"), tiny_graph)})
    assert bundle.manifest.plan == planned("int8")
    bundle = add_artefacts(bundle, {"int8": (entry(), tiny_graph)})
    assert bundle.manifest.plan is None
    assert Bundle.open(bundle_copy).manifest == bundle.manifest


def test_removed_artefacts_leave_the_manifest_and_the_folder(
    bundle_copy: Path, tiny_graph: Path
) -> None:
    before = contents(bundle_copy)
    both = {"int8": (entry(), tiny_graph), "fp16": (entry("fp16"), tiny_graph)}
    bundle = add_artefacts(Bundle.open(bundle_copy), both, plan=planned("fp16"))
    bundle = remove_artefacts(bundle, ["int8"])
    assert bundle.manifest.plan == planned("fp16")
    assert names(bundle_copy) == [MANIFEST, "model.fp16.onnx", "model.onnx"]
    assert remove_artefacts(bundle, ["fp16"]).manifest.plan is None
    assert contents(bundle_copy).keys() == before.keys()
    assert list(Bundle.open(bundle_copy).manifest.artefacts) == ["fp32"]


def test_what_a_bundle_needs_is_not_removed(
    bundle_copy: Path, tmp_path: Path, tiny_graph: Path
) -> None:
    chain = {
        "int8": (entry(), tiny_graph),
        "mixed": (entry("mixed", made_from="int8"), tiny_graph),
    }
    bundle = add_artefacts(Bundle.open(bundle_copy), chain)
    before = contents(bundle_copy)
    for name, reason in (
        ("fp32", "fp32 graph"),
        ("bf16", "no artefact bf16. Name some of: fp32, int8, mixed"),
        ("int8", "mixed of .* was made from int8. Remove mixed too"),
    ):
        with pytest.raises(BundleError, match=reason) as caught:
            remove_artefacts(bundle, [name])
        assert_one_line(caught.value, "copy.vad")
    assert contents(bundle_copy) == before
    lone = manifest(artefacts={"half": artefact(precision="fp16")})
    last = write_bundle(tmp_path / "half.vad", lone, {"half": tiny_graph})
    with pytest.raises(BundleError, match="no artefact left"):
        remove_artefacts(last, ["half"])
    assert Bundle.open(last.path).manifest == last.manifest


def test_a_removal_that_fails_changes_nothing(
    bundle_copy: Path, tiny_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = add_artefacts(Bundle.open(bundle_copy), {"int8": (entry(), tiny_graph)})
    before = contents(bundle_copy)

    def full(self: Path, goal: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(BundleError, match="No space left"):
            remove_artefacts(bundle, ["int8"])
    assert contents(bundle_copy) == before
