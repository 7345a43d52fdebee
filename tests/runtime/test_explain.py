"""What TensorRT's error lines mean. The lines come from runs and from TensorRT's issue tracker."""

import re

import pytest

from vad_runtime.engines.explain import EXPLANATIONS, cause_of, explain

LINES = {
    "version-tag": "[stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization "
    "(Serialization assertion stdVersionRead == serializationVersion failed.Version tag does not "
    "match. Note: Current Version: 213, Serialized Engine Version: 205)",
    "library-version": "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine "
    "plan file is not compatible with this version of TensorRT, expecting library version "
    "10.12.0.36 got .)",
    "other-gpu": "The engine plan file is generated on an incompatible device, expecting compute "
    "8.7 got compute 8.6, please rebuild.",
    "other-model": "Using an engine plan file across different models of devices is not "
    "recommended and is likely to affect performance or even cause errors.",
    "platform-tag": "Error Code 1: Serialization (Serialization assertion plan->header.pad == "
    "expectedPlatformTag failed.Platform specific tag mismatch detected.)",
    "magic-tag": "1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization "
    "assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
    "host-code": "Error Code 3: API Usage Error (condition getEngineHostCodeAllowed() is false)",
    "no-driver": "CUDA initialization failure with error: 35. Please check your CUDA installation",
    "no-gpu": "Cuda initialization failure with error 100. Please check cuda installation",
    "no-kernel": "Error Code 1: Cuda Runtime (no kernel image is available for execution on the "
    "device)",
    "lean-stub": "Error Code 1: Internal Error Unexpected call to stub loadRunner for "
    "ReformatRunner",
    "gpu-memory": "[virtualMemoryBuffer.cpp::resizePhysical::127] Error Code 2: OutOfMemory "
    "(Requested size was 4294967296 bytes.)",
    "workspace": "Error Code 2: OutOfMemory (Requested size was 525952256 bytes.)",
    "no-implementation": "Error Code 10: Internal Error (Could not find any implementation for "
    "node /conv1/Conv.)",
    "out-of-memory": "Error Code 1: Cuda Runtime (out of memory)",
    "skipped-kernel": "Skipping tactic 3 due to insuficient memory on requested size of 538 "
    "detected for tactic 4.",
    "volume": "Error Code 4: Internal Error (Tensor volume exceeds 2147483647, dimensions are "
    "[900000,8,32,32,1])",
    "turing": "Error Code 9: API Usage Error (Cannot compile operation node_conv3d for Turing)",
    "cancelled": "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by "
    "user)",
    "unsupported-node": "In node 1 with name: top and operator: Optional (checkOptional): "
    "UNSUPPORTED_NODE: false",
    "no-profile": "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
    "optimization profile has been defined.)",
    "profile-shape": "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter "
    "check failed. Set dimensions [9,3] for tensor x does not satisfy any optimization profiles.)",
    "no-output": "Error Code 4: API Usage Error (Network must have at least one output.)",
    "precision-flag": "Error Code 3: API Usage Error (Strongly typed network: precision flags must "
    "not be set)",
    "calibration": "Error Code 4: Internal Error (Calibration failure occurred with no scaling "
    "factors detected.)",
    "missing-scale": "Missing scale and zero-point for tensor a, expect fall back to non-int8",
    "cuda-version": "TensorRT was linked against cuDNN 8.9.0 but loaded cuDNN 8.6.0",
    "illegal-address": "Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    "dla": "Layer '/model.24/Constant' (CONSTANT): Unsupported on DLA. Switching this layer's "
    "device type to GPU.",
    "library-missing": "libnvinfer.so.10: cannot open shared object file: No such file",
    "timing-cache": "Failed to deserialize timing cache. Returning an empty timing cache.",
    "address-not-set": "Error Code 3: API Usage Error (Address is not set for input tensor x. Call "
    "setInputTensorAddress before enqueue.)",
}
"""One line for each explanation."""


def test_every_explanation_has_a_line_here() -> None:
    assert set(LINES) == {known.name for known in EXPLANATIONS}
    assert len({known.name for known in EXPLANATIONS}) == len(EXPLANATIONS)


@pytest.mark.parametrize("name", LINES)
def test_a_known_line_is_explained(name: str) -> None:
    ((number, known),) = explain(LINES[name])
    assert (number, known.name) == (1, name)
    found = cause_of([LINES[name]])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("known", EXPLANATIONS, ids=lambda known: known.name)
def test_an_explanation_reads_well_in_one_line(known: object) -> None:
    cause, remedy = known.cause, known.remedy  # type: ignore[attr-defined]
    assert "\n" not in cause + remedy
    assert not cause.endswith(".")
    assert remedy[0].isupper()
    # A command at the end must be ready to be copied.
    assert remedy.endswith(".") != bool(re.search(r": (?:vad-export|vad-run) [^.]+$", remedy))


def test_every_remedy_names_commands_that_there_are() -> None:
    from vad_export.cli import cli as export_cli
    from vad_runtime.cli import cli as run_cli

    there = {f"vad-export {name}" for name in export_cli.commands}
    there |= {f"vad-run {name}" for name in run_cli.commands}
    named = {
        command
        for known in EXPLANATIONS
        for command in re.findall(r"vad-(?:export|run) [a-z][a-z-]*", known.remedy)
    }
    assert named
    assert named <= there


def test_a_log_is_explained_line_by_line_and_each_meaning_once() -> None:
    log = "\n".join(
        [
            "[I] building",
            "[W] Using an engine plan file across different models of devices is not recommended",
            "[E] Error Code 1: Cuda Runtime (out of memory)",
            "[E] Error Code 1: Cuda Runtime (out of memory)",
            "[E] CUDA initialization failure with error: 35",
        ]
    )
    assert [(number, known.name) for number, known in explain(log)] == [
        (2, "other-model"),
        (3, "out-of-memory"),
        (5, "no-driver"),
    ]


def test_a_log_without_known_lines_gives_nothing() -> None:
    assert explain("hello\nworld\n") == []
    assert explain("") == []
    assert cause_of(["hello"]) is None
    assert cause_of([]) is None


def test_numbers_of_other_cuda_errors_are_not_taken_for_known_ones() -> None:
    assert explain("CUDA initialization failure with error: 999") == []
    assert explain("cudaError 350: something") == []
    assert explain("cudaError 20") == []


def test_the_size_that_is_missing_counts_more_than_the_memory_that_ran_out() -> None:
    found = cause_of(["Error Code 1: Cuda Runtime (out of memory)", LINES["workspace"]])
    assert found is not None
    assert found.name == "workspace"


def test_a_node_without_kernels_is_said_to_be_short_of_memory() -> None:
    found = cause_of([LINES["no-implementation"], LINES["skipped-kernel"]])
    assert found is not None
    assert found.name == "no-implementation"
    assert "memory" in found.cause


def test_the_other_words_for_too_little_workspace_are_known() -> None:
    line = (
        "Tactic Selection: no tactics to implement the operation within workspace limit. "
        "Consider increase the allowed workspace size"
    )
    assert [known.name for _, known in explain(line)] == ["workspace"]
