"""TensorRT engines from a bundle's graphs.

Two builds of one graph with the same settings give the same bytes where the graph has one output.
With several, TensorRT-RTX 1.7.1 orders them by address, so that one of two forms comes out at
random; both are right, since tensors are bound by their names.
"""

import datetime
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vad_export.engine.graph_facts import GraphFacts, graph_facts
from vad_export.engine.legacy import legacy_graph, set_legacy_precision
from vad_export.engine.monitor import BuildMonitor, watched
from vad_export.engine.settings import (
    EngineSettings,
    Target,
    free_disk_bytes,
    graph_of,
    require_graph,
    require_outputs,
    require_room,
    target_for,
)
from vad_export.engine.store import remove_leftovers, require_free_plan, write_plan
from vad_export.engine.timing_cache import (
    read_timing_cache,
    timing_cache_file,
    write_timing_cache,
)
from vad_export.engine.workspace import (
    MIB,
    PeakMemory,
    memory_for,
    second_workspace,
    workspace_bytes,
)
from vad_runtime import __version__
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import Artefact, EngineSidecar, EngineTensor, ExportError
from vad_runtime.engines.adapter import ParseIssue, TensorRt
from vad_runtime.engines.plan_file import ENGINE_FOLDER, engine_name
from vad_runtime.files import made_folder

Say = Callable[[str], None]
Prepare = Callable[[TensorRt, Any], Any]
"""Adds to a builder's configuration; what it returns is kept alive until the build is over."""

_LONGEST_NAME = 230  # bytes; 255 less `.`, `.json` and `.PID.part` of the temporary file


@dataclass(frozen=True, kw_only=True)
class EngineBytes:
    """A plan in memory, and how it came to be."""

    content: memoryview
    """The plan in TensorRT's own memory, which lives as long as this view."""
    inputs: list[EngineTensor]
    outputs: list[EngineTensor]
    host_code: bool
    """The lean runtime is in the plan."""
    facts: dict[str, Any]
    """`seconds`, `peak_rss_bytes`, `layers`, `workspace_bytes`, `tries`."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A plan on disk."""

    plan: Path
    sidecar: EngineSidecar


@dataclass(frozen=True, kw_only=True)
class Job:
    """What will be built: everything that is known before the build."""

    bundle: Bundle
    artefact: Artefact
    target: Target
    settings: EngineSettings
    graph: Path
    """The file that the library parses; with TensorRT 8, int8 is built from the fp32 one."""
    plan: Path
    """Where the plan will lie."""


def job_for(bundle: Bundle, settings: EngineSettings) -> Job:
    """Decide what will be built, from which graph, with which library and for which GPUs.

    Raises:
        ExportError: The bundle has no graph of the precision, the DLA has not that precision, or
            the plan's name would be too long.
        BackendError: No library can build it, or an option cannot be honoured.
        NoDriverError: TensorRT needs a GPU to build, and there is none.
    """
    require_outputs(bundle, settings)
    _, artefact = graph_of(bundle, settings.precision)
    target = target_for(settings)
    if settings.dla is not None and artefact.precision == "fp32":
        raise ExportError(
            f"--dla {settings.dla}: the DLA computes in FP16 and INT8, so an fp32 graph would run "
            "on the GPU alone. Build --precision fp16, or leave out --dla."
        )
    graph = bundle.file(artefact)
    if target.lib.can.legacy_precision:
        graph = legacy_graph(target.lib, bundle, artefact)
    folder = settings.out or bundle.path / ENGINE_FOLDER
    name = plan_name(bundle, artefact, target, settings)
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise ExportError(
            f"the plan's name, which lists every batch, would be too long ({name[:40]}…). "
            "Name fewer sizes with --batch."
        )
    return Job(
        bundle=bundle,
        artefact=artefact,
        target=target,
        settings=settings,
        graph=graph,
        plan=folder / name,
    )


def plan_name(bundle: Bundle, artefact: Artefact, target: Target, settings: EngineSettings) -> str:
    """Return the file name of a plan, which says where it fits."""
    about = bundle.manifest
    features = None if about.features is None else (about.features.segments, about.features.size)
    clip = None if features else (about.clip.frames, about.clip.height, about.clip.width)
    # model.int8.onnx, model.int8.0123abcd.onnx, model.int8.0123abcd-2.onnx -> model
    stem = re.sub(rf"(\.{artefact.precision})?(\.[0-9a-f]{{8}}(-\d+)?)?\.onnx$", "", artefact.file)
    return engine_name(
        stem=stem or "model",
        batches=settings.batches,
        clip_shape=clip,
        features=features,
        precision=artefact.precision,
        family=target.family,
        version=target.lib.version,
        sms=target.sms,
        later_sms=target.later_sms,
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible,
    )


def engine_from_bundle(bundle: Bundle, settings: EngineSettings, say: Say) -> Built:
    """Build an engine from one of a bundle's graphs and write it with its sidecar.

    Args:
        bundle: An opened bundle; its manifest is not changed.
        settings: What is asked for.
        say: Is told what is done, in lines for people.

    Returns:
        The plan and its sidecar.

    Raises:
        BackendError: No library, or one that cannot do what is asked.
        NoDriverError: TensorRT needs a GPU to build.
        ExportError: TensorRT refuses the graph or cannot build it; the plan exists already.
        InputError: The folder cannot be written, or the disk is full.
        Interrupted: Ctrl-C came. Nothing is left on disk.
    """
    job = job_for(bundle, settings)
    require_free_plan(job.plan, overwrite=settings.overwrite)
    facts = graph_facts(job.graph)
    require_graph(facts, settings)
    folder = made_folder(job.plan.parent)
    for old in remove_leftovers(folder):
        say(f"removed {old.name}, which a build that was killed had left")
    require_room(folder, job.graph.stat().st_size, free_disk_bytes)
    say(f"building {job.plan.name} with {job.target.line}")
    gpu = job.target.gpu
    if gpu is not None and gpu.sm not in job.target.sms:
        say(f"{gpu.name} of this machine (SM {gpu.sm}) is not among these: it may not run here")

    def prepare(lib: TensorRt, config: Any) -> Any:
        if lib.can.legacy_precision:
            return set_legacy_precision(lib, config, bundle, job.artefact)
        return None

    made = engine_from_onnx(facts, job.target, settings, say, prepare)
    sidecar = write_plan(
        job.plan,
        made.content,
        lambda sha256: sidecar_of(job, made, sha256),
        overwrite=settings.overwrite,
    )
    return Built(plan=job.plan, sidecar=sidecar)


def engine_from_onnx(
    facts: GraphFacts,
    target: Target,
    settings: EngineSettings,
    say: Say,
    prepare: Prepare | None = None,
) -> EngineBytes:
    """Build a plan in memory. Out of memory, it is tried once more with another workspace.

    Args:
        facts: Of the ONNX file, as `graph_facts` reads them.
        target: The library and the GPUs, as `target_for` finds them.
        settings: What is asked for; files and folders do not matter here.
        say: Is told what is done, in lines for people.
        prepare: Adds to the configuration before the build.

    Raises:
        ExportError: TensorRT refuses the graph or cannot build it.
        Interrupted: Ctrl-C came.
    """
    lib, peak, start = target.lib, PeakMemory(), time.perf_counter()
    memory = memory_for(target.gpu)
    limit = workspace_bytes(settings.workspace_bytes, memory, say)
    made, more, tries = None, None, 1
    try:
        made = _built(facts, target, settings, limit, say, prepare)
    except ExportError:
        more = second_workspace(limit, lib.errors(), memory_for(target.gpu))
        if more is None:
            raise
    if more is not None:  # not above, where the error keeps the first network in memory
        say(f"{limit / MIB:.4g} MiB of workspace did not do; once more with {more / MIB:.4g} MiB")
        limit, tries = more, 2
        made = _built(facts, target, settings, limit, say, prepare)
    assert made is not None, "otherwise the error was raised"
    about = {
        "seconds": round(time.perf_counter() - start, 3),
        "peak_rss_bytes": peak.peak_bytes,
        "workspace_bytes": limit,
        "tries": tries,
    }
    return replace(made, facts=about | made.facts)


def _built(
    facts: GraphFacts,
    target: Target,
    settings: EngineSettings,
    workspace: int,
    say: Say,
    prepare: Prepare | None,
) -> EngineBytes:
    lib = target.lib
    lib.fresh_log()
    builder = lib.builder()
    network = lib.network(builder)
    issues = lib.parse(builder, network, facts.file)
    if issues:
        raise ExportError(refusal(lib, facts.file, issues))
    lib.keep_outputs(network, ("score", *settings.outputs))
    config = lib.config(builder)
    host_code = _configure(builder, config, facts, target, settings, workspace)
    kept = None if prepare is None else prepare(lib, config)
    cache_file = timing_cache_file(settings, target)
    before = read_timing_cache(cache_file, named=settings.timing_cache is not None)
    if cache_file is not None and not lib.set_timing_cache(config, before) and before:
        say(f"{cache_file} comes from another version or GPU, or is damaged; it starts anew")
        before = None
    monitor = BuildMonitor()
    stoppable = lib.set_monitor(config, monitor.start, monitor.step, monitor.finish)
    if not stoppable:
        say(f"{lib.name} tells no progress; a large engine takes minutes")
    try:
        content = watched(
            lambda: lib.build(builder, network, config),
            monitor,
            "build",
            stoppable=stoppable,
        )
    except ExportError as error:
        raise ExportError(f"{facts.file.name}: {error}") from None
    failure = getattr(kept, "failure", None)
    if failure is not None:
        raise ExportError(f"{facts.file.name}: {failure}")
    if cache_file is not None:
        problem = write_timing_cache(cache_file, before, lib.timing_cache_bytes(config))
        if problem:
            say(problem)
    inputs, outputs = lib.tensors_of(network)
    return EngineBytes(
        content=content,
        inputs=inputs,
        outputs=outputs,
        host_code=host_code,
        facts={"layers": int(network.num_layers)},
    )


def _configure(
    builder: Any,
    config: Any,
    facts: GraphFacts,
    target: Target,
    settings: EngineSettings,
    workspace: int,
) -> bool:
    """Set what was asked for; return whether the plan will hold the lean runtime."""
    lib = target.lib
    lib.set_workspace(config, workspace)
    lib.set_flag(config, "TF32", settings.tf32)
    for batch in settings.batches if facts.free_batch else ():
        one = facts.inputs[0]
        shape = (batch, *(int(size) for size in one.shape[1:]))
        lib.add_profile(builder, config, one.name, shape)
    if settings.sms:
        lib.set_targets(config, target.sms)
    if settings.level is not None:
        lib.set_level(config, settings.level)
    if settings.hardware_compatible:
        lib.set_hardware_compatible(config)
    if settings.dla is not None:
        cores = lib.dla_cores(builder)
        if settings.dla >= cores:
            raise ExportError(
                f"--dla {settings.dla}: this machine has {cores} DLA cores, counted from 0. "
                "Name another, or leave out --dla."
            )
        lib.set_dla(config, settings.dla)
    if not settings.version_compatible:
        return False
    lib.set_flag(config, "VERSION_COMPATIBLE")
    return settings.host_code or not lib.set_flag(config, "EXCLUDE_LEAN_RUNTIME")


def refusal(lib: TensorRt, file: Path, issues: list[ParseIssue]) -> str:
    """Return the one line for a graph that the parser does not take."""
    more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
    return (
        f"{lib.name} does not take {file.name}: {issues[0]}{more}. See all with: "
        "vad-export build-engine BUNDLE --dry-run"
    )


def sidecar_of(job: Job, made: EngineBytes, sha256: str) -> EngineSidecar:
    """Return the sidecar of a plan that was just built."""
    target, settings = job.target, job.settings
    options = settings.options
    if job.graph.name != job.artefact.file:
        options["graph"] = job.graph.name  # TensorRT 8: ranges of one graph, layers of another
    tools = {"vad-edge": __version__, target.lib.flavour: target.lib.version}
    return EngineSidecar(
        file=job.plan.name,
        sha256=sha256,
        bytes=made.content.nbytes,
        family=target.family,
        version=target.lib.version,
        architecture=platform.machine(),
        sms=list(target.sms),
        later_sms=target.later_sms,
        gpu=None if target.gpu is None else target.gpu.name,
        cuda=target.cuda,
        l4t=target.l4t,
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible,
        host_code=made.host_code,
        precision=job.artefact.precision,
        source=job.artefact.file,
        source_sha256=job.artefact.sha256,
        inputs=made.inputs,
        outputs=made.outputs,
        batches=list(settings.batches),
        options=options,
        build=made.facts | {"tools": tools},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
