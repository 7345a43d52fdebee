"""Real builds with TensorRT-RTX, which needs no GPU, through the command itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import artefact, assert_one_line, manifest
from helpers_engine_bundle import engine_bundle, names_in, settings, two_output_bundle
from helpers_tensorrt import tensorrt_rtx
from onnx import TensorProto, helper, numpy_helper

from vad_export.engine.build import Built, engine_from_bundle
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import ExportError, VadError
from vad_runtime.engines.plan_file import read_header, read_sidecar


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tensorrt_rtx()  # skips, or fails where it must be there
    return engine_bundle(tmp_path_factory.mktemp("bundle"))


def build(bundle: Bundle, folder: Path, **changes: Any) -> tuple[Built, list[str]]:
    said: list[str] = []
    wanted = settings(folder, flavour="rtx", **changes)
    return engine_from_bundle(bundle, wanted, said.append), said


def command(bundle: Bundle, *options: str, before: str = "") -> list[str]:
    """Return the command line of `vad-export build-engine`, some Python in front of it."""
    code = (
        f"{before}\nimport sys\n"
        "from vad_export.commands.build_engine import command\n"
        "from vad_runtime.commands import run_command\n"
        "run_command(command)\n"
    )
    return [sys.executable, "-c", code, str(bundle.path), "--flavour", "rtx", *options]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed"])
def test_every_precision_builds_twice_the_same(
    bundle: Bundle, tmp_path: Path, precision: str
) -> None:
    first, _ = build(bundle, tmp_path / "1", precision=precision)
    second, _ = build(bundle, tmp_path / "2", precision=precision)
    assert first.sidecar.sha256 == second.sidecar.sha256
    assert first.plan.read_bytes() == second.plan.read_bytes()
    header = read_header(first.plan)
    about = read_sidecar(first.plan)
    assert (header.family, header.version) == (about.family, about.version)
    assert header.size == about.bytes == first.plan.stat().st_size
    assert (header.sms, header.later_sms) == (tuple(about.sms), about.later_sms)
    assert about.build["layers"] > 5
    assert about.build["peak_rss_bytes"] > about.bytes


def test_a_graph_with_two_outputs_builds_twice_the_same_with_one_of_them(tmp_path: Path) -> None:
    # With both, TensorRT-RTX lays them out in one of two orders.
    two = two_output_bundle(tmp_path)
    plans = {build(two, tmp_path / str(i))[0].plan.read_bytes() for i in range(4)}
    assert len(plans) == 1
    both, _ = build(two, tmp_path / "both", outputs=("embedding",))
    assert {tensor.name for tensor in both.sidecar.outputs} == {"score", "embedding"}


def test_named_gpus_stand_in_the_header(bundle: Bundle, tmp_path: Path) -> None:
    built, _ = build(bundle, tmp_path, sms=(89, 86), batches=(1, 2))
    header = read_header(built.plan)
    assert header.sms is not None
    assert (sorted(header.sms), header.later_sms) == ([86, 89], False)
    assert built.plan.name.startswith("model.b1-2.t8.32.fp32.rtx")
    assert built.plan.name.endswith(".sm86-89.engine")


def heavy_bundle(folder: Path) -> Bundle:
    """Write a bundle whose convolutions want workspace and some time."""
    whole = onnx.load(engine_bundle(folder).path / "model.onnx")
    nodes, size = list(whole.graph.node), 64
    for node in nodes:
        if node.op_type == "Conv":
            node.output[0] = "first"
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Conv") + 1
    held = {one.name: one for one in whole.graph.initializer}
    weight = numpy_helper.to_array(held["weight"])
    wide = weight[:1].repeat(size, axis=0)
    held["weight"].CopyFrom(numpy_helper.from_array(wide, "weight"))
    name = "first"
    for i in range(40):
        more = (weight[:1].repeat(size, axis=0).repeat(size, axis=1) / size) + i * 1e-4
        whole.graph.initializer.append(numpy_helper.from_array(more, f"w{i}"))
        out = "filtered" if i == 39 else f"c{i}"
        extra = helper.make_node("Conv", [name, f"w{i}"], [out], f"deep{i}", pads=[1] * 6)
        nodes.insert(at + i, extra)
        name = out
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    whole.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(whole, folder / "heavy.onnx")
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    return write_bundle(folder / "heavy.vad", about, {"fp32": folder / "heavy.onnx"})


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tensorrt_rtx()
    return heavy_bundle(tmp_path_factory.mktemp("heavy"))


def hungry_bundle(folder: Path) -> Bundle:
    """Write a bundle with a convolution that no kernel computes without workspace."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["clip"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 4, 1, 2, 3]),
        helper.make_node("Conv", ["x", "w0"], ["y"], pads=[1] * 6),
        helper.make_node("Conv", ["y", "w1"], ["z"], pads=[1] * 6),
        helper.make_node("ReduceMean", ["z"], ["score"], axes=[1, 3, 4], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", 8, 32, 32, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 8])],
        [
            numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)
            for name, shape in (("w0", (32, 1, 3, 3, 3)), ("w1", (64, 32, 3, 3, 3)))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "hungry.onnx")
    about = manifest(artefacts={"fp32": artefact(opset=17)})
    return write_bundle(folder / "hungry.vad", about, {"fp32": folder / "hungry.onnx"})


def test_too_small_a_workspace_is_tried_once_more(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle
    built, said = build(hungry_bundle(tmp_path), tmp_path, workspace_bytes=4096)
    assert built.sidecar.build["tries"] == 2
    assert built.sidecar.build["workspace_bytes"] > 1 << 20
    assert any("once more" in line for line in said)


def test_a_real_refusal_of_the_parser_names_the_node(bundle: Bundle, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["clip"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Det", ["float"], ["det"], "determinant"),
        helper.make_node("Flatten", ["det"], ["score"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", 8, 32, 32, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "det.onnx")
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    odd = write_bundle(tmp_path / "odd.vad", about, {"fp32": tmp_path / "det.onnx"})
    with pytest.raises(ExportError) as error:
        build(odd, tmp_path / "out")
    assert_one_line(error.value, "TensorRT-RTX", "determinant", "Det", "--dry-run")
    assert names_in(tmp_path / "out") == []


def started(line: list[str]) -> "subprocess.Popen[str]":
    """Start a build and wait until it has begun."""
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unbuffered()
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("building")
    return process


def unbuffered() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


SLOW = (
    "import time\n"
    "from vad_export.engine.monitor import BuildMonitor\n"
    "real = BuildMonitor.step\n"
    "def step(self, name, index):\n"
    "    time.sleep(0.05)\n"
    "    return real(self, name, index)\n"
    "BuildMonitor.step = step\n"
)
"""Stretches a real build: every step of it takes 50 ms longer."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_a_real_build_and_leaves_nothing(
    heavy: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    process = started(command(heavy, "-o", str(tmp_path / "out"), before=SLOW))
    time.sleep(0.4)
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.strip().endswith("Interrupted.")
    assert time.monotonic() - start < 10
    assert names_in(tmp_path / "out") == []


def test_a_killed_build_leaves_no_plan_and_the_next_one_works(
    heavy: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(command(heavy, "-o", str(out), before=SLOW))
    time.sleep(0.4)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name for name in names_in(out) if not name.startswith(".")] == []
    build(heavy, out)
    assert [name.rpartition(".")[2] for name in names_in(out)] == ["engine", "json"]


def test_a_build_that_is_killed_while_it_writes_leaves_no_plan(
    bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    dies = (
        "import os, signal\n"
        "import vad_export.engine.store as store\n"
        "real = store.json_from_sidecar\n"
        "def die(sidecar):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.json_from_sidecar = die\n"
    )
    done = subprocess.run(
        command(bundle, "-o", str(out), before=dies), capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = names_in(out)
    assert len(left) == 1
    assert left[0].endswith(".part")
    _, said = build(bundle, out, precision="fp16")
    assert [name for name in names_in(out) if name.endswith(".part")] == []
    assert any(left[0] in line for line in said)


def test_a_full_disk_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    done = subprocess.run(
        command(bundle, "-o", str(out), before=limit), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert_one_line(VadError(done.stderr.strip()), "File too large", "MB", "-o")
    assert names_in(out) == []


def test_the_command_needs_neither_onnx_nor_torch(bundle: Bundle, tmp_path: Path) -> None:
    hidden = "import sys\nfor name in ('onnx', 'torch', 'onnxruntime', 'openvino', 'scipy'):\n"
    hidden += "    sys.modules[name] = None\n"
    options = ("--precision", "fp32", "--precision", "int8", "-o", str(tmp_path / "out"))
    done = subprocess.run(
        command(bundle, *options, before=hidden), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(names_in(tmp_path / "out")) == 4
    assert done.stdout.count(" MB, ") == 2
    dry = subprocess.run(
        command(bundle, "--precision", "int8", "--dry-run", "--batch", "2", before=hidden),
        capture_output=True,
        text=True,
        check=False,
    )
    assert dry.returncode == 0, dry.stderr
    assert "pip install onnx" in dry.stdout
