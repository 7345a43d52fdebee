"""anomalib's side of anomalib_study.py: answers requests in an environment of its own.

Started by that study with the Python in which anomalib is installed; nothing of this project has to
be installed there. Requests and answers are lines of JSON.
"""

import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def peer() -> None:
    """Answer requests until there are none."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print what they like
    held: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        found = {"load": load, "call": call, "own": own, "facts": facts, "fuvas": fuvas}[
            request.pop("do")
        ](held, **request)
        answers.write(json.dumps(found) + "\n")


def inferencer_of(path: str, config: dict[str, str]) -> Any:
    """Return anomalib's inferencer, imported as late as that."""
    with_torchvision()
    return importlib.import_module("anomalib.deploy").OpenVINOInferencer(
        path, device="CPU", config=config
    )


def with_torchvision() -> None:
    """Make torchvision importable beside a PyTorch of another build; see the module."""
    file = ROOT / "training/vad_training/models/operators.py"
    spec = importlib.util.spec_from_file_location("operators", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["operators"] = module  # its declarations last as long as it
    spec.loader.exec_module(module)
    module.declare_torchvision_operators()


def load(held: dict[str, Any], clips: str, graphs: dict[str, Any]) -> dict[str, Any]:
    """Compile the graphs, and say what each computes in."""
    held["clips"] = np.load(clips)
    held["graphs"] = {name: inferencer_of(*graph) for name, graph in graphs.items()}
    hints = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT")
    return {
        name: {hint: str(one.model.get_property(hint)) for hint in hints}
        for name, one in held["graphs"].items()
    }


def call(held: dict[str, Any], graph: str, clip: int, bare: bool) -> dict[str, Any]:
    """Score a clip with the inferencer, or with the model that it holds."""
    inferencer, frames = held["graphs"][graph], held["clips"][clip]
    if not bare:
        return timed(lambda: inferencer.predict(frames).pred_score)
    ready = np.ascontiguousarray(inferencer.pre_process(frames))
    return timed(lambda: inferencer.model({inferencer.input_blob.any_name: ready})["pred_score"])


def own(held: dict[str, Any], graph: str, count: int) -> dict[str, Any]:
    """Time the inferencer around a model that answers at once."""
    inferencer, frames = held["graphs"][graph], held["clips"][0]
    name, model = inferencer.input_blob.any_name, inferencer.model
    answer = model({name: np.ascontiguousarray(inferencer.pre_process(frames))})
    inferencer.model = lambda _inputs: answer
    found = timed(lambda: [inferencer.predict(frames) for _ in range(count)][-1].pred_score)
    inferencer.model = model
    return found


def facts(_held: dict[str, Any]) -> dict[str, Any]:
    """Name the versions of what is installed here."""
    from importlib.metadata import version

    names = ("anomalib", "openvino", "numpy", "torch")
    return {name: version(name) for name in names}


def fuvas(_held: dict[str, Any], threads: int, folder: str) -> dict[str, Any]:
    """Let anomalib's FUVAS score a clip, and try to export it and to give a clip to `predict`."""
    with_torchvision()
    torch: Any = importlib.import_module("torch")
    hub = importlib.import_module("pytorchvideo.models.hub")
    # Drawn weights, and the same code from its package: no download.
    torch.hub.load = lambda _repo, model, **_: getattr(hub, model)(pretrained=False)
    models = importlib.import_module("anomalib.models")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = models.Fuvas(pre_trained=False).eval()
    clips = torch.rand(6, 8, 3, 224, 224)
    with torch.no_grad():
        model.model.fit(model.model.get_features(clips)[0])
        times = [timed(lambda: model.model(clips[:1]).pred_score.numpy()) for _ in range(5)]
    try:
        export = f"gave {model.to_openvino(folder, input_size=(224, 224)).name}"
    except Exception as error:
        export = said(error)
    file = Path(folder) / "fuvas.onnx"
    names = {"input_names": ["input"], "output_names": ["pred_score", "anomaly_map"]}
    torch.onnx.export(model.model, (clips[:1],), str(file), dynamo=True, **names)
    inferencer = inferencer_of(str(file), F32)
    try:
        predict = f"gave {inferencer.predict(clips[:1].numpy()).pred_score}"
    except Exception as error:
        predict = said(error)
    return {
        "wall_ms": statistics.median(x["wall_ms"] for x in times[1:]),
        "cpu_ms": statistics.median(x["cpu_ms"] for x in times[1:]),
        "export": export,
        "predict": predict,
    }


def said(error: Exception) -> str:
    """Return an error as one short line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def timed(work: Callable[[], Any]) -> dict[str, Any]:
    """Call it; return its answer and its wall and processor time."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    answer = work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    flat = np.asarray(answer, np.float64).ravel().tolist()
    return {"wall_ms": wall_s * 1e3, "cpu_ms": cpu_s * 1e3, "score": flat}


if __name__ == "__main__":
    peer()
