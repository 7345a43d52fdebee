"""`--dry-run`: what would be built, and what TensorRT would refuse, without a build."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from vad_export.engine.build import Job, job_for
from vad_export.engine.graph_facts import graph_facts
from vad_export.engine.settings import EngineSettings, graph_of, graph_problems, library_for
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ExportError, NoDriverError, Precision
from vad_runtime.engines.adapter import TensorRt

_MOST = 20


def lint_engine(bundle: Bundle, settings: EngineSettings, say: Callable[[str], None]) -> list[str]:
    """Look for what would make a build fail.

    The static rules need no library. Where one is there that can build here, its parser is asked
    too, which needs no GPU with TensorRT-RTX.

    Args:
        bundle: An opened bundle.
        settings: What would be built.
        say: Is told what would be built and what was not checked, in lines for people.

    Returns:
        What was found, a line each; empty = nothing.

    Raises:
        ExportError: The bundle has no graph of the precision.
    """
    short, artefact = graph_of(bundle, settings.precision)
    file = bundle.file(artefact)
    lines = graph_problems(graph_facts(file), settings)
    lines += _qdq_lines(file, artefact.precision, say)
    try:
        lib = library_for(settings)
    except BackendError as error:
        say(f"{short}: checked against the static rules alone: {error}")
        return [f"{short}: {line}" for line in lines]
    try:
        job = job_for(bundle, settings)
        say(_plan_line(job, short))
        lines += _parser_lines(lib, job.graph)
    except NoDriverError as error:
        say(f"{short}: checked against the static rules alone: {error}")
    except (BackendError, ExportError) as error:
        lines.append(str(error))
    return [f"{short}: {line}" for line in lines]


def _plan_line(job: Job, short: str) -> str:
    profiles = ", ".join(f"batch {batch}" for batch in job.settings.batches)
    size = job.graph.stat().st_size / 1e6
    there = "; it exists already" if job.plan.exists() else ""
    return (
        f"{short}: would build {job.plan} with {job.target.line} from {job.graph.name} "
        f"({size:.1f} MB), optimised for {profiles}{there}"
    )


def _parser_lines(lib: TensorRt, graph: Path) -> list[str]:
    lib.fresh_log()
    issues = lib.check(graph)
    lines = [f"{lib.name} does not take {issue}" for issue in issues[:_MOST]]
    if len(issues) > _MOST:
        lines.append(f"and {len(issues) - _MOST} more that {lib.name} does not take")
    return lines


def _qdq_lines(file: Path, precision: Precision, say: Callable[[str], None]) -> list[str]:
    if precision not in ("int8", "mixed"):
        return []
    if importlib.util.find_spec("onnx") is None:
        say("the rules of Q/DQ graphs were not checked; for that: pip install onnx")
        return []
    import onnx

    from vad_calibration.lint import lint_qdq

    return [finding.line for finding in lint_qdq(onnx.load(file))[:_MOST]]
