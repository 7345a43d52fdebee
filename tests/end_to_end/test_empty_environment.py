"""A device: a new virtual environment with the wheel and its `runtime` extra, nothing else."""

import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest

from vad_runtime.bundle import Bundle, rewrite_manifest

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = ["torch", "torchvision", "onnx", "onnxscript", "matplotlib"]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command as a user of the new environment would; its standard output."""
    # Nothing of this tree or of the environment around the tests may leak in.
    leaks = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in leaks}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and what `vad-edge[runtime]` needs.

    pip asks the index that the user has set, under the exact versions of constraints.txt.
    """
    folder = tmp_path_factory.mktemp("device")
    # The pure wheel, as for a device without a compiler.
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--config-settings=wheel.cmake=false", f"--config-settings=build-dir={folder}/build"),
        *("--wheel-dir", folder, ROOT),
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    run(
        *(binaries / "python", "-m", "pip", "install", "--quiet"),
        *("-c", ROOT / "constraints.txt", f"{wheel}[runtime]"),
    )
    return binaries


@pytest.mark.slow
def test_the_runtime_imports_without_any_training_library(device: Path, tmp_path: Path) -> None:
    find = "importlib.util.find_spec(name) is not None"
    code = (
        "import importlib.util, vad_runtime; "
        f"print(vad_runtime.__file__, [name for name in {TRAINING_ONLY} if {find}])"
    )
    where, there = run(device / "python", "-c", code, cwd=tmp_path).strip().split(" ", 1)
    assert Path(where).is_relative_to(device.parent)  # the wheel, not this tree
    assert there == "[]"


@pytest.mark.slow
def test_vad_run_explains_itself(device: Path, tmp_path: Path) -> None:
    assert "Usage: vad-run" in run(device / "vad-run", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_a_bundle_scores_a_video(
    device: Path, tiny_bundle: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    run_a_bundle(device, tiny_bundle.path, tiny_video, tmp_path)


# What a device does with a bundle.
def run_a_bundle(device: Path, bundle: Path, video: Path, folder: Path) -> None:
    out = folder / "out"
    command = [device / "vad-run", "score", bundle, video, "-o", out]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == (
        "no scores.png: matplotlib is not installed; pip install 'vad-edge[plot]'\n"
    )
    header, *scores = (out / "scores.csv").read_text().splitlines()
    assert header
    assert scores


@pytest.mark.slow
def test_doctor_says_what_a_device_can_run(device: Path, tmp_path: Path) -> None:
    said = run(device / "vad-run", "doctor", cwd=tmp_path)
    assert "openvino" in said
    assert "pip install 'vad-edge[" in said  # the next step for what is missing
    assert "portable: numpy (no compiled module)" in said


@pytest.mark.slow
def test_a_device_without_a_compiled_module_gives_the_scores_of_one_that_has_it(
    device: Path, bundle_copy: Path, tiny_video: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    clip = msgspec.structs.replace(bundle.manifest.clip, resizer="portable")
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, clip=clip))
    here = Path(sys.executable).parent
    for binaries, out in ((device, "there"), (here, "here")):
        command = [binaries / "vad-run", "score", bundle_copy, tiny_video, "-o", tmp_path / out]
        run(*command, "--no-overlay", "--no-plot", cwd=tmp_path)
    report = msgspec.json.decode((tmp_path / "there" / "report.json").read_bytes())
    assert report["resizer"] == "portable: numpy (no compiled module)"
    tables = [(tmp_path / out / "scores.csv").read_bytes() for out in ("there", "here")]
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no wheel of TensorRT-RTX"
)
def test_a_device_builds_an_engine_without_onnx_and_torch(
    device: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    # The extra comes with the wheel's own words, so this also shows that they can be installed.
    (wheel,) = device.parent.parent.glob("*.whl")
    run(
        *(device / "python", "-m", "pip", "install", "--quiet"),
        *("-c", ROOT / "constraints.txt", f"{wheel}[rtx]"),
    )
    bundle = tmp_path / "site.vad"
    shutil.copytree(tiny_bundle.path, bundle)
    run(device / "vad-export", "build-engine", bundle, "--flavour", "rtx", cwd=tmp_path)
    (plan,) = (bundle / "engines").glob("*.engine")
    assert plan.with_name(f"{plan.name}.json").exists()
    assert plan.name in run(device / "vad-export", "inspect", bundle, cwd=tmp_path)
