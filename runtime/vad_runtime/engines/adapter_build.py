"""The building half of the TensorRT adapter: network, parser, settings, build."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vad_runtime.contracts import BackendError, EngineTensor, ExportError
from vad_runtime.engines.adapter_base import DTYPES, Library

PhaseStart = Callable[[str, str | None, int], None]
"""Called with a phase, the phase it is part of, and how many steps it has."""
StepComplete = Callable[[str, int], bool]
"""Called with a phase and the number of the step; False cancels the build."""
PhaseFinish = Callable[[str], None]
"""Called with a phase."""


@dataclass(frozen=True, kw_only=True)
class ParseIssue:
    """Something in a graph that TensorRT cannot take."""

    node: str
    """Name of the node; `node 7` where TensorRT gives no name; empty = the whole file."""
    operator: str
    """ONNX operator; empty where TensorRT does not say."""
    reason: str
    """TensorRT's words, on one line."""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.operator, self.node) if part)
        return f"{where}: {self.reason}" if where else self.reason


class BuildSide(Library):
    """What needs a builder. `lib.can.builder` says whether there is one."""

    _parsed: list[tuple[Any, Any, Any]]
    _monitor: Any = None

    # ------------------------------------------------------------------ builder and network

    def builder(self) -> Any:
        """Return a new builder. Networks of earlier builders must not be used any more.

        Raises:
            BackendError: The library has no builder, or makes none.
            NoDriverError: TensorRT builds on a GPU only, and there is none.
        """
        made = self._new_builder()
        # The parser owns weights that the network points to; both must outlive the build.
        self._parsed = []
        self._monitor = None
        return made

    def _new_builder(self) -> Any:
        if not self.can.builder or not self.can.parser:
            raise BackendError(
                f"{self.name} loads plans but builds none. "
                "Build with TensorRT, or with: pip install 'vad-edge[rtx]'"
            )
        if not self.can.targets:
            from vad_runtime.cuda.driver import driver

            driver()  # without a driver a builder may be a bogus object that crashes the process
        self.fresh_log()
        try:
            made = self.trt.Builder(self.logger)
        except (TypeError, RuntimeError):
            made = None  # pybind11: "factory function returned nullptr"
        # TensorRT-RTX builds without a driver, and complains of it all the same.
        if made is None or not (self.can.targets or self.is_usable(made)):
            raise self.failure(f"{self.name} makes no builder")
        return made

    def dla_cores(self, builder: Any) -> int:
        """Return how many deep-learning accelerators the GPU of this builder has."""
        return int(builder.num_DLA_cores) if self.can.dla else 0

    def network(self, builder: Any) -> Any:
        """Return an empty network: strongly typed where the library can."""
        flags = getattr(self.trt, "NetworkDefinitionCreationFlag", None)
        batch = getattr(flags, "EXPLICIT_BATCH", None)
        typed = getattr(flags, "STRONGLY_TYPED", None)
        if batch is None:  # 11 and TensorRT-RTX: always both
            return builder.create_network(0)
        return builder.create_network(1 << int(batch if typed is None else typed))

    def parse(self, builder: Any, network: Any, file: Path) -> list[ParseIssue]:
        """Read an ONNX file into a network.

        Args:
            builder: From `builder`; it owns the network.
            network: An empty one, from `network`.
            file: ONNX; weights beside it are found.

        Returns:
            What TensorRT cannot take, in its order; empty = all is well.
        """
        self.fresh_log()
        parser = self.trt.OnnxParser(network, self.logger)
        self._parsed.append((builder, network, parser))
        read = parser.parse_from_file(str(file))
        issues = _issues_of(parser)
        if read and not issues and network.num_outputs == 0:
            # A file that is no ONNX at all is an empty message to protobuf, and "parsed".
            return [ParseIssue(node="", operator="", reason=f"{file.name} is no ONNX graph")]
        if not read and not issues:
            issues = [ParseIssue(node="", operator="", reason=self._last_words())]
        return [] if read else issues

    def check(self, file: Path) -> list[ParseIssue]:
        """Ask the parser whether it can take a graph, without a build.

        Args:
            file: ONNX with its weights inside.

        Returns:
            What TensorRT cannot take; empty = all is well.

        Raises:
            BackendError: No builder, or no driver where it needs one.
            OSError: The file cannot be read.
        """
        builder = self._new_builder()
        network = self.network(builder)  # the parser does not keep it alive
        parser = self.trt.OnnxParser(network, self.logger)
        model = file.read_bytes()
        if hasattr(self.trt.OnnxParser, "supports_model_v2"):
            taken = bool(parser.supports_model_v2(model, str(file)))
            issues = _issues_of(parser)
            if not taken and not issues:
                issues = [
                    _of_nodes(parser.get_subgraph_nodes(i))
                    for i in range(parser.num_subgraphs)
                    if not parser.is_subgraph_supported(i)
                ]
        else:
            taken, parts = parser.supports_model(model, str(file))
            issues = _issues_of(parser)
            if not taken and not issues:
                issues = [_of_nodes(nodes) for nodes, fine in parts if not fine]
        if taken:
            return []
        return issues or [ParseIssue(node="", operator="", reason=self._last_words())]

    def _last_words(self) -> str:
        errors = self.errors()
        return errors[-1] if errors else "the parser gives no reason"

    def tensors_of(self, network: Any) -> tuple[list[EngineTensor], list[EngineTensor]]:
        """Return inputs and outputs of a parsed network, in its order."""
        return (
            [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
            [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        )

    # ------------------------------------------------------------------ settings

    def keep_outputs(self, network: Any, names: Collection[str]) -> None:
        """Leave only these outputs; what is computed for others alone goes with them."""
        for tensor in [network.get_output(i) for i in range(network.num_outputs)]:
            if tensor.name not in names:
                network.unmark_output(tensor)

    def config(self, builder: Any) -> Any:
        """Return settings with TensorRT's defaults."""
        return builder.create_builder_config()

    def add_profile(self, builder: Any, config: Any, name: str, shape: Sequence[int]) -> None:
        """Add an optimisation profile, for one shape, to a network with one input.

        Args:
            builder: From `builder`.
            config: From `config`.
            name: The input.
            shape: What it will have.

        Raises:
            ExportError: TensorRT refuses it.
        """
        self.fresh_log()
        profile = builder.create_optimization_profile()
        low = best = high = tuple(shape)
        profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise self.failure(f"no profile for input {name} of shape {best}", ExportError)

    def set_workspace(self, config: Any, nbytes: int) -> None:
        """Limit the scratch memory that kernels may use."""
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, nbytes)

    def set_flag(self, config: Any, name: str, on: bool = True) -> bool:
        """Set or clear a builder flag by its name.

        Returns:
            Whether this version has such a flag.
        """
        # Their numbers change from version to version, so only names are used.
        flag = getattr(self.trt.BuilderFlag, name, None)
        if flag is None:
            return False
        (config.set_flag if on else config.clear_flag)(flag)
        return True

    def known_sms(self) -> tuple[int, ...]:
        """Return the compute capabilities that can be named, ascending; empty without `targets`."""
        found = getattr(self.trt, "ComputeCapability", None)
        names = [] if found is None else list(found.__members__)
        matches = (re.fullmatch(r"SM(\d+)", name) for name in names)
        return tuple(sorted(int(match[1]) for match in matches if match))

    def set_targets(self, config: Any, sms: Sequence[int]) -> None:
        """Name the GPUs to build for.

        Args:
            config: From `config`.
            sms: Some of `known_sms`.

        Raises:
            ExportError: TensorRT refuses one.
        """
        config.num_compute_capabilities = len(sms)
        for i, sm in enumerate(sms):
            target = getattr(self.trt.ComputeCapability, f"SM{sm}", None)
            if target is None or config.set_compute_capability(target, i) is False:
                known = ", ".join(str(one) for one in self.known_sms())
                raise ExportError(
                    f"{self.name} builds for SM {known}, not for SM {sm}. Name those."
                )

    def set_level(self, config: Any, level: int) -> None:
        """Set how hard the builder looks for fast kernels: 0 (quick) to 5; see `can.levels`."""
        config.builder_optimization_level = level

    def set_hardware_compatible(self, config: Any) -> None:
        """Build for all GPUs from Ampere on; see `can.hardware_compatible`."""
        config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def set_dla(self, config: Any, core: int) -> None:
        """Run what it can on a deep-learning accelerator and the rest on the GPU; see `can.dla`."""
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        self.set_flag(config, "GPU_FALLBACK")

    def set_calibrator(self, config: Any, calibrator: Any) -> None:
        """Use a calibrator for INT8; the caller keeps it alive; see `can.legacy_precision`."""
        config.int8_calibrator = calibrator

    def set_timing_cache(self, config: Any, data: bytes | None) -> bool:
        """Start with the kernels that an earlier build has measured; see `can.timing_cache`.

        Args:
            config: From `config`.
            data: From `timing_cache_bytes`; None = start an empty one.

        Returns:
            Whether the data could be used. If not, an empty cache is used.
        """
        before = len(self.warnings()) + len(self.errors())
        cache = config.create_timing_cache(data or b"")
        taken = cache is not None and bool(config.set_timing_cache(cache, False))
        if not taken:
            config.set_timing_cache(config.create_timing_cache(b""), False)
        # Damaged data gives an empty cache and a warning.
        return taken and len(self.warnings()) + len(self.errors()) == before

    def timing_cache_bytes(self, config: Any) -> bytes | None:
        """Return what the build has measured, to be kept in a file; None = nothing."""
        cache = config.get_timing_cache()
        memory = None if cache is None else cache.serialize()
        return None if memory is None else bytes(memory)

    def set_monitor(
        self, config: Any, start: PhaseStart, step: StepComplete, finish: PhaseFinish
    ) -> bool:
        """Have the progress of a build told.

        What the three raise cancels the build, and `build` raises it again.

        Args:
            config: From `config`.
            start: Called when a phase starts; phases nest, and a name may come many times.
            step: Called after each step of a phase; False cancels the build.
            finish: Called when a phase ends.

        Returns:
            False where this version tells nothing.
        """
        if not self.can.monitor:
            return False
        self._monitor = _monitor(self.trt, start, step, finish)
        config.progress_monitor = self._monitor
        return True

    # ------------------------------------------------------------------ build

    def build(self, builder: Any, network: Any, config: Any) -> memoryview:
        """Build a plan.

        Returns:
            The plan in TensorRT's own memory, which lives as long as the view: bytes, shape (n,).

        Raises:
            ExportError: TensorRT gives no plan.
            BaseException: What a function given to `set_monitor` has raised.
        """
        self.fresh_log()
        if self._monitor is not None:
            self._monitor.raised = None  # of an earlier build with the same settings
        memory = builder.build_serialized_network(network, config)
        raised = None if self._monitor is None else self._monitor.raised
        if raised is not None:
            raise raised
        if memory is None:
            raise self.failure("no plan was built", ExportError)
        return memoryview(memory).cast("B")


def _tensor(tensor: Any) -> EngineTensor:
    return engine_tensor(tensor.name, tensor.dtype, tensor.shape)


def engine_tensor(name: str, dtype: Any, shape: Any) -> EngineTensor:
    """Return a tensor as sidecars write it; an unknown type keeps TensorRT's name."""
    return EngineTensor(
        name=name,
        dtype=DTYPES.get(dtype.name, dtype.name.lower()),
        shape=[int(size) for size in tuple(shape)],
    )


_DRIVER_NOISE = re.compile(r"\[checkMacros[^\]]*\] .*?\(cudaError 35: [^)]*\)\)")
"""What TensorRT-RTX adds to each issue on a machine without a driver, which it does not need."""


def _asked(error: Any, name: str) -> Any:
    # 8.x has no node names, and no binding promises the rest.
    found = getattr(error, name, None)
    return found() if callable(found) else found


def _issues_of(parser: Any) -> list[ParseIssue]:
    return [_issue(parser.get_error(i)) for i in range(parser.num_errors)]


def _issue(error: Any) -> ParseIssue:
    index = _asked(error, "node")
    known = isinstance(index, int) and index >= 0
    name = str(_asked(error, "node_name") or (f"node {index}" if known else ""))
    reason = " ".join(str(_asked(error, "desc") or error).split())
    reason = _DRIVER_NOISE.sub("", reason).strip()
    if reason in ("false", "0"):  # the text of the C++ check; it says nothing
        reason = " ".join(str(error).split())
    return ParseIssue(
        node=name,
        operator=str(_asked(error, "node_operator") or ""),
        reason=reason,
    )


def _of_nodes(nodes: Sequence[int]) -> ParseIssue:
    numbers = sorted(int(node) for node in nodes)
    name = f"node {numbers[0]}" if numbers else ""
    count = f" (and {len(numbers) - 1} after it)" if len(numbers) > 1 else ""
    return ParseIssue(node=name, operator="", reason=f"not supported{count}")


def _monitor(trt: Any, start: PhaseStart, step: StepComplete, finish: PhaseFinish) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes on what TensorRT tells, and keeps what was raised: C++ must not see it."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # not super(): the binding asks for this very call
            self.raised: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT."""
            self._call(start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step_index: int) -> bool:
            """Called by TensorRT."""
            go_on = self._call(step, phase_name, step_index)
            return self.raised is None and bool(go_on)

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT."""
            self._call(finish, phase_name)

        def _call(self, told: Callable[..., Any], *facts: Any) -> Any:
            if self.raised is not None:
                return None
            try:
                return told(*facts)
            except BaseException as error:  # KeyboardInterrupt too: `build` raises it again
                self.raised = error
                return None

    return Monitor()
