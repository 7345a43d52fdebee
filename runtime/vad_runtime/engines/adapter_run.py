"""The running half of the TensorRT adapter: runtime, engine, execution context."""

from collections.abc import Sequence
from typing import Any

from vad_runtime.contracts import BackendError, EngineTensor
from vad_runtime.engines.adapter_base import Library
from vad_runtime.engines.adapter_build import engine_tensor


class Context:
    """An execution context: one engine, one profile, one set of addresses at a time.

    Made by `TensorRt.context`. It keeps its engine alive; the caller keeps the runtime alive.
    """

    def __init__(
        self, lib: Library, engine: Any, raw: Any, config: Any = None, cache: Any = None
    ) -> None:
        # Python lets go of them in this order: the context (which its method holds too), then what
        # it was made with, then the engine.
        self._execute = raw.execute_async_v3
        self.raw = raw
        """TensorRT's `IExecutionContext`."""
        self._config = config
        self._cache = cache
        self._engine = engine
        self._lib = lib

    def select_profile(self, index: int, stream: int) -> None:
        """Use an optimisation profile from now on.

        Raises:
            BackendError: TensorRT refuses.
        """
        self._lib.fresh_log()
        if not self.raw.set_optimization_profile_async(index, stream):
            raise self._lib.failure(f"profile {index} cannot be used")

    def set_shape(self, name: str, shape: Sequence[int]) -> None:
        """Fix the shape of an input.

        Raises:
            BackendError: The profile does not cover it.
        """
        self._lib.fresh_log()
        if not self.raw.set_input_shape(name, tuple(shape)):
            raise self._lib.failure(f"input {name} cannot have shape {tuple(shape)}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, now that those of all inputs are set; -1 = not known."""
        return tuple(int(size) for size in tuple(self.raw.get_tensor_shape(name)))

    def set_address(self, name: str, address: int) -> None:
        """Say where on the device a tensor lies; the caller owns that memory.

        Raises:
            BackendError: There is no such tensor.
        """
        self._lib.fresh_log()
        if not self.raw.set_tensor_address(name, address):
            raise self._lib.failure(f"tensor {name} cannot lie at an address")

    def execute(self, stream: int) -> None:
        """Enqueue one run.

        Raises:
            BackendError: TensorRT refuses.
        """
        if not self._execute(stream):
            raise self._lib.failure("the engine does not run")

    def runtime_cache_bytes(self) -> bytes | None:
        """Return the kernels compiled so far; None where the library keeps none."""
        memory = None if self._cache is None else self._cache.serialize()
        return None if memory is None else bytes(memory)


class RunSide(Library):
    """What loads and runs plans. Every flavour has it."""

    def runtime(self, *, host_code: bool = False) -> Any:
        """Return a runtime. It must outlive its engines.

        Args:
            host_code: Let plans run code of their own on the host.

        Raises:
            NoDriverError: No driver. Without one, a runtime is a bogus object: its next call
                crashes the process (seen with lean and dispatch 11.4).
            BackendError: The library makes none, for example because the driver is too old for it,
                or it has no switch for host code.
        """
        from vad_runtime.cuda.driver import driver

        driver()
        self.fresh_log()
        try:
            made = self.trt.Runtime(self.logger)
        except (TypeError, RuntimeError):
            made = None  # pybind11: "factory function returned nullptr"
        if not self.is_usable(made):
            raise self.failure(f"{self.name} makes no runtime")
        if self.can.host_code_switch:
            made.engine_host_code_allowed = host_code
        elif host_code:
            raise BackendError(f"{self.name} has no switch for host code. Run without --host-code.")
        return made

    def deserialise(self, runtime: Any, data: Any) -> Any:
        """Load a plan.

        Args:
            runtime: From `runtime`.
            data: The plan: bytes, or a view of them, which TensorRT copies.

        Raises:
            BackendError: TensorRT refuses it, in its own words.
        """
        self.fresh_log()
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self.failure("the plan cannot be loaded")
        return engine

    def io(self, engine: Any) -> tuple[list[EngineTensor], list[EngineTensor]]:
        """Return inputs and outputs of an engine, in its order."""
        inputs: list[EngineTensor] = []
        outputs: list[EngineTensor] = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            tensor = engine_tensor(
                name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name)
            )
            is_input = engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(tensor)
        return inputs, outputs

    def profiles(self, engine: Any, name: str) -> list[tuple[int, ...]]:
        """Return the largest shape that an input may have, for each optimisation profile."""
        return [
            tuple(int(size) for size in tuple(engine.get_tensor_profile_shape(name, i)[2]))
            for i in range(engine.num_optimization_profiles)
        ]

    def context(
        self, engine: Any, *, runtime_cache: bytes | None = None, graphs: bool = True
    ) -> Context:
        """Return an execution context.

        Args:
            engine: From `deserialise`.
            runtime_cache: Kernels of an earlier run, where `can.runtime_cache`; data that does not
                fit is left aside.
            graphs: Let the library make CUDA graphs, where `can.own_graphs`.

        Raises:
            BackendError: TensorRT makes none, for example because memory is short.
        """
        self.fresh_log()
        if not (self.can.runtime_cache or self.can.own_graphs):
            config, cache, raw = None, None, engine.create_execution_context()
        else:
            config = engine.create_runtime_config()
            if self.can.own_graphs:
                strategies = self.trt.CudaGraphStrategy
                config.cuda_graph_strategy = (
                    strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
                )
            cache = self._cache(config, runtime_cache)
            raw = engine.create_execution_context(config)
        if raw is None:
            raise self.failure("no execution context")
        return Context(self, engine, raw, config, cache)

    def _cache(self, config: Any, data: bytes | None) -> Any:
        if not self.can.runtime_cache:
            return None
        cache = config.create_runtime_cache()
        if data and not cache.deserialize(data):
            cache = config.create_runtime_cache()
        config.set_runtime_cache(cache)
        return cache
