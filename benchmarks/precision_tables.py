"""The page that precision_study.py prints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MEGA = 1e6
BASE, OTHER = "OpenVINO fp32", "OpenVINO int8 by NNCF"

Stages = Mapping[str, dict[str, Any]]
"""What each stage of a model has found: `result` or `failed`."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that the page needs."""

    command: str
    date: str
    device: str
    threads: int
    versions: str
    rounds: int
    clips: int
    check: int
    models: Mapping[str, Stages]


def document(study: Study) -> str:
    """Return the page."""
    parts = [
        header(study),
        table_of_graphs(study),
        "## Artefacts\n",
        ARTEFACTS_TEXT.format(check=study.check),
        table_of_artefacts(study),
        "## Speed at one thread\n",
        f"CPU time of a clip (batch 1), up to {study.rounds} rounds in shuffled order in one "
        "process a model. Read the ratios, which say how many times faster a candidate is than the "
        "exported graph in OpenVINO fp32, and than NNCF's int8: medians of the rounds' ratios, "
        'with their 10-90 %. The same graph is not timed twice: no row "after passes" where no '
        "pass was kept.\n",
        table_of_speed(study, "one", "CPU ms"),
    ]
    if study.threads > 1:
        parts += [
            f"## Speed at {study.threads} threads\n",
            "Wall time of a clip, measured in the same way.\n",
            table_of_speed(study, "all", "wall ms"),
        ]
    parts += ["## Exact passes\n", PASSES_TEXT, table_of_passes(study)]
    return "\n".join([*parts, *failures(study)]).rstrip()


ARTEFACTS_TEXT = """\
* Differences on {check} other clips of the footage, against the exported fp32 graph in ONNX
  Runtime: the largest difference of a score / the largest score; the cosine of the embeddings is
  that of the clip where it is least. With random weights both hang on the footage, in fp32 computed
  in bf16 and in NNCF's graph as well.
* "Built" says that TensorRT-RTX made a plan on this machine, which has no GPU; nothing of it ran.
* Lint: findings of `lint_qdq`, the rules of TensorRT for INT8.
* OpenVINO computes fp16 graphs in fp32; what int8 and mixed leave over, in bf16 where the
  processor has it. ONNX Runtime runs mixed graphs with its optimiser off.
* int8 quantises all layers of the default choice: nothing is searched or put back here.
"""

PASSES_TEXT = """\
Speedup in OpenVINO fp32 at one thread, where it was measured; difference of the scores / the
largest score. A pass that does not apply has no row.
"""


def header(study: Study) -> str:
    """Return title and what the page was made with."""
    trained = [
        n for n, s in study.models.items() if _result(s, "prepare").get("weights") == TRAINED
    ]
    whose = f"Trained weights: {', '.join(trained)}; every other model's" if trained else "All"
    return f"""# Precisions: size, differences, speed

Every kind of model from the exported fp32 graph to int8, fp16 and mixed (int8 and fp16).

**{whose} weights are random (seeded).** Sizes, speeds and whether an engine takes a graph do not
depend on weights; accuracy does. A difference measured on random weights says nothing about a
trained model: `vad-export quantise` and `vad-export verify` measure that.

* Made on {study.date} with
  `{study.command}`
* {study.device}, {study.threads} threads usable, {study.versions}
* Ranges from {study.clips} clips of real footage (drawn evenly, fewer where the footage is too
  short), method of the default configuration. int8, fp16 and mixed are made after the exact passes.
* NNCF gets the same graph (after the exact passes) and the same clips, its own defaults
  (`model_type=TRANSFORMER` for TimeSformer), and is compiled and run like our int8. It quantises
  what it chooses, so compare the number of layers too.
* Two numbers of layers in int8: with ConvTranspose, which is the default, and without.
"""


TRAINED = "trained"


def _result(stages: Stages, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = stages.get(stage, {}).get("result", {})
    return found


def _table(head: str, rows: Iterator[list[str]]) -> str:
    columns = head.count("|") - 1
    lines = [head, "|---" * columns + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def table_of_graphs(study: Study) -> str:
    """Return what each model is and what its calibration took."""

    def rows() -> Iterator[list[str]]:
        for model, stages in study.models.items():
            found = _result(stages, "prepare")
            if not found:
                yield [model, f"failed: {_why(stages, 'prepare')}", *["-"] * 6]
                continue
            layers = " / ".join(str(n) for n in found["layers"].values())
            nncf = _result(stages, "nncf")
            yield [
                model,
                found["weights"],
                "x".join(str(n) for n in found["clip"]),
                f"{layers} of {found['all_layers']}",
                str(found["tensors"]),
                f"{found['export_s']:.0f}",
                f"{found['ranges_s_a_clip']:.2f}",
                f"{nncf['seconds'] / found['clips']:.2f}" if nncf else "-",
            ]

    head = (
        "| model | weights | clip | layers in int8 | tensors | export, s | ranges, s a clip "
        "| NNCF in all, s a clip |"
    )
    return _table(head, rows())


def table_of_artefacts(study: Study) -> str:
    """Return size, lint, build and differences of every artefact."""

    def rows() -> Iterator[list[str]]:
        for model, stages in study.models.items():
            prepared = _result(stages, "prepare")
            for artefact, found in _result(stages, "accuracy").items():
                file = found["file"]
                size = prepared["bytes"].get(file) or _result(stages, "nncf").get("bytes")
                # bf16 is another arithmetic of a file that has its own row.
                same = "bf16" in artefact
                yield [
                    model,
                    artefact,
                    "-" if same or size is None else f"{size / MEGA:.1f}",
                    "-" if same else str(prepared["lint"].get(file, "-")),
                    "-" if same else _built(stages, file),
                    *_answers(found.get("onnxruntime")),
                    *_answers(found.get("openvino")),
                    (found.get("openvino") or {}).get("layers") or "-",
                ]

    head = (
        "| model | artefact | MB | lint | RTX built | ONNX Runtime: difference | cosine "
        "| OpenVINO: difference | cosine | int8 layers in OpenVINO |"
    )
    return _table(head, rows())


def _built(stages: Stages, file: str) -> str:
    found = _result(stages, f"build:{file}")
    if found:
        return f"{found['bytes'] / MEGA:.1f} MB, {found['seconds']:.1f} s"
    stage = f"build:{file}"
    return f"no: {_why(stages, stage)}" if stages.get(stage) else "-"


def _answers(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["-", "-"]
    if "failed" in found:
        return [f"no: {_cell(found['failed'])}", "-"]
    if not found["finite"]:
        return ["ran, not finite", "-"]
    cosine = found["cosine"]
    return [f"{found['difference']:.1e}", "-" if cosine is None else f"{cosine:.6f}"]


def table_of_speed(study: Study, stage: str, unit: str) -> str:
    """Return the times of every candidate, and their ratios to fp32 and to NNCF."""

    def rows() -> Iterator[list[str]]:
        for model, stages in study.models.items():
            found = _result(stages, stage)
            times = {name: np.array(values) for name, values in found.get("times", {}).items()}
            for name, values in times.items():
                low, middle, high = np.percentile(values, [10, 50, 90])
                yield [
                    model,
                    name,
                    f"{middle:.1f}",
                    f"{low:.1f}-{high:.1f}",
                    _ratio(times.get(BASE), values),
                    _ratio(times.get(OTHER), values),
                    str(len(values)),
                ]
            for name, why in found.get("failed", {}).items():
                yield [model, name, f"no: {_cell(why)}", *["-"] * 4]

    base = f"x {BASE}"
    return _table(f"| model | engine | {unit} | 10-90 % | {base} | x NNCF | rounds |", rows())


def _ratio(base: np.ndarray | None, values: np.ndarray) -> str:
    """Return the median of the rounds' ratios and their middle 80 %."""
    if base is None:
        return "-"
    low, middle, high = np.percentile(base / values, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def table_of_passes(study: Study) -> str:
    """Return what each exact pass did."""

    def rows() -> Iterator[list[str]]:
        for model, stages in study.models.items():
            for report in _result(stages, "prepare").get("passes", []):
                if not report["places"]:
                    continue
                speedup = report["speedup"]
                yield [
                    model,
                    report["name"],
                    str(report["places"]),
                    f"{report['difference']:.1e}",
                    "-" if speedup is None else f"{speedup:.3f}",
                    "yes" if report["kept"] else "no",
                    _cell(report["why"]),
                ]

    return _table("| model | pass | places | difference | speedup | kept | why |", rows())


def failures(study: Study) -> Iterator[str]:
    """Yield a list of the stages that did not end well; builds stand in their table."""
    lines = [
        f"* {model}, {stage}: {_why(stages, stage)}"
        for model, stages in study.models.items()
        for stage, found in stages.items()
        if "result" not in found and not stage.startswith("build:")
    ]
    if lines:
        yield "## Not measured\n"
        yield from lines


def _why(stages: Stages, stage: str) -> str:
    return _cell(str(stages.get(stage, {}).get("failed", "not run")))


def _cell(text: str) -> str:
    """Return text that does not break a table."""
    return " ".join(text.split()).replace("|", "/")[:200]
