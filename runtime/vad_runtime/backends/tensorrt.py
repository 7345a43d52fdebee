"""TensorRT, its lean and dispatch runtimes, and TensorRT for RTX: runs plans on an NVIDIA GPU.

Importing this module imports no TensorRT; which of the four libraries is taken, the plan decides.

::

    clips ─ copy ─► pinned ═══► device ─ execute ─► device ═══► pinned ─ copy ─► results
                     └──────────── one CUDA graph ────────────────┘

    ring ─ two copies there ──► device ─ execute ─► device ═══► pinned ─ copy ─► results
                                           └───── another graph ────┘

The second way is for a clip of a ring of `ring()`, whose frames are on the device already. Rings
are uint8, as all graphs of the contract take their clips.
"""

import contextlib
import math
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Inputs, Options, Outputs
from vad_runtime.backends.checks import checked_clips, checked_graph, checked_score, input_dtype
from vad_runtime.contracts import BackendError, EngineTensor, Manifest
from vad_runtime.cuda import open_cuda
from vad_runtime.cuda.base import Cuda
from vad_runtime.cuda.driver import Gpu, driver, gpu_of
from vad_runtime.cuda.graphs import GraphCache
from vad_runtime.cuda.ring import DeviceRing, RingMemory
from vad_runtime.engines.adapter import Context, found
from vad_runtime.engines.fit import Fit, Machine, this_machine
from vad_runtime.engines.lookup import plan_for
from vad_runtime.engines.runtime_cache import RuntimeCache, runtime_cache
from vad_runtime.ring import FrameRing


@dataclass(frozen=True, kw_only=True)
class _Output:
    name: str
    host: npt.NDArray[Any]
    """Pinned, shape (batch, ...), in the plan's own type."""
    address: int
    """Of the same on the device."""


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """One optimisation profile: its context and its buffers, made once."""

    index: int
    batch: int
    context: Context
    cuda: Cuda
    stream: int
    host: npt.NDArray[Any]
    """The input, pinned, shape (batch, ...)."""
    address: int
    """Of the input on the device."""
    outputs: Sequence[_Output]

    def enqueue(self) -> None:
        """Put all that one inference takes on the stream."""
        self.cuda.copy_in(self.address, self.host, self.stream)
        self.enqueue_rest()

    def enqueue_rest(self) -> None:
        """Put on the stream what is left where the input is on the device."""
        self.context.execute(self.stream)
        for output in self.outputs:
            self.cuda.copy_out(output.host, output.address, self.stream)


class TensorRtBackend:
    """One plan on one GPU, with one context for each batch size that the plan was built for.

    N clips take as few runs as possible: the smallest batch that holds all that is left, or else
    the largest. Places in a batch that no clip needs are computed and ignored.
    """

    def __init__(self, file: Path, manifest: Manifest, options: Options) -> None:
        self._manifest = manifest
        self._cuda: Cuda | None = None
        self._graphs: GraphCache | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._lanes: list[_Lane] = []
        self._rings: weakref.WeakSet[DeviceRing] = weakref.WeakSet()
        self._ring_memory: list[RingMemory] = []
        """Of rings that are gone: one stream after another takes the same."""
        # Before anything of TensorRT is made: without a driver its runtimes crash the process.
        gpu = gpu_of(options.device)
        machine = _machine(options.device)
        if options.precision == "bf16":
            raise BackendError("tensorrt has no bf16 plans. Use --precision fp16 or fp32.")
        precision = "fp32" if options.precision == "auto" else options.precision
        fit = plan_for(
            file,
            manifest,
            precision,
            machine,
            engine=options.engine,
            rebuild=options.rebuild,
        )
        self._lib = found(fit.flavour)
        if fit.sidecar.host_code and not options.host_code:
            raise BackendError(
                f"{fit.plan} carries code that runs on the host. If you trust whoever built it, "
                "add --host-code; otherwise build it again without."
            )
        try:
            self._load(fit, gpu, options)
        except BaseException as error:
            # The frames of the calls that failed hold contexts, which must go before their GPU.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise
        batches = "+".join(str(lane.batch) for lane in self._lanes)
        self.device = (
            f"{self._lib.name} on cuda:{gpu.index} ({gpu.name}, SM {gpu.sm}), {precision}, "
            f"batch {batches}, {self._graph_text()}"
        )

    @staticmethod
    def require(device: str) -> None:
        """Refuse a machine that can run no plan at all.

        Raises:
            BackendError: No driver, no GPU of this name, no TensorRT, or no CUDA binding.
        """
        gpu = gpu_of(device)
        _machine(device)
        open_cuda(gpu).close()

    # -- loading -------------------------------------------------------------------------------

    def _load(self, fit: Fit, gpu: Gpu, options: Options) -> None:
        """Make everything and run it twice, so that `infer` makes and compiles nothing."""
        lib = self._lib
        lib.fresh_log()
        cuda = self._cuda = open_cuda(gpu)
        stream = self._stream = cuda.stream()
        cuda.activate()
        self._runtime = lib.runtime(host_code=options.host_code)
        with fit.plan.open("rb") as plan:
            plan.seek(fit.header.offset)
            self._engine = lib.deserialise(self._runtime, plan.read())
        inputs, outputs = lib.io(self._engine)
        self._check(fit.plan, inputs, outputs)
        # A library that records graphs itself must not be recorded by us as well.
        self._own_graphs = bool(lib.can.own_graphs) and options.graphs
        profiles = lib.profiles(self._engine, inputs[0].name)
        self._graphs = GraphCache(
            cuda,
            stream,
            enabled=options.graphs and not self._own_graphs,
            limit=len(profiles) + 1,  # and one for rings, so that none is ever made again
        )
        with contextlib.ExitStack() as stack:
            cache: RuntimeCache | None = None
            if lib.can.runtime_cache:
                here = driver()
                facts = (fit.sidecar.sha256, gpu.uuid, gpu.name, here.kernel or here.cuda, lib.name)
                cache = stack.enter_context(runtime_cache(*facts))
            for index, shape in enumerate(profiles):
                # Each context starts with what those before it have compiled.
                context = lib.context(
                    self._engine,
                    runtime_cache=cache.data if cache else None,
                    graphs=self._own_graphs,
                )
                lane = self._lane(index, context, shape, inputs[0], outputs)
                self._lanes.append(lane)
                self._warm_up(lane)
                if cache:
                    cache.keep(context.runtime_cache_bytes())
        self._lanes.sort(key=lambda lane: lane.batch)
        self._shapes = {out.name: out.host.shape[1:] for out in self._lanes[0].outputs}
        lib.fresh_log()  # a run does not do so itself, and what failed until now is not its cause

    def _check(
        self, plan: Path, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor]
    ) -> None:
        if [tensor.name for tensor in inputs] != [self._manifest.input_name]:
            raise BackendError(
                f"{plan.name} has no single input `{self._manifest.input_name}`. "
                "Build it again from a bundle."
            )
        checked_graph(
            plan,
            self._manifest,
            dtype=inputs[0].dtype,
            # The batch is whatever the profiles say.
            shape=[None, *(None if n < 0 else n for n in inputs[0].shape[1:])],
            outputs=[tensor.name for tensor in outputs],
        )
        for tensor in outputs:
            if any(n < 0 for n in tensor.shape[1:]):
                raise BackendError(
                    f"output {tensor.name} of {plan.name} has no fixed shape ({tensor.shape}). "
                    "Export the bundle again without it."
                )

    def _lane(
        self,
        index: int,
        context: Context,
        shape: tuple[int, ...],
        given: EngineTensor,
        outputs: Sequence[EngineTensor],
    ) -> _Lane:
        assert self._cuda is not None
        cuda, batch = self._cuda, shape[0]
        if shape[1:] != tuple(self._manifest.input_shape):
            raise BackendError(
                f"profile {index} of the plan takes {shape[1:]}, the manifest says "
                f"{tuple(self._manifest.input_shape)}. Build the engine again."
            )
        host = _pinned(cuda, shape, input_dtype(self._manifest))
        context.select_profile(index, self._stream)
        context.set_shape(given.name, shape)
        lane = _Lane(
            index=index,
            batch=batch,
            context=context,
            cuda=cuda,
            stream=self._stream,
            host=host,
            address=cuda.allocate(host.nbytes),
            outputs=[self._output(one, context.shape(one.name), batch) for one in outputs],
        )
        context.set_address(given.name, lane.address)
        for output in lane.outputs:
            context.set_address(output.name, output.address)
        return lane

    def _output(self, tensor: EngineTensor, shape: tuple[int, ...], batch: int) -> _Output:
        assert self._cuda is not None
        if shape != (batch, *tensor.shape[1:]):  # TensorRT would write beyond our buffer
            raise BackendError(
                f"output {tensor.name} of the plan has shape {shape} for {batch} clips, so not "
                "one entry for each. Export the bundle again without it."
            )
        try:
            dtype = np.dtype(tensor.dtype)
        except TypeError:
            raise BackendError(
                f"output {tensor.name} of the plan is {tensor.dtype}, which NumPy has not. "
                "Export the bundle again with float32 outputs."
            ) from None
        host = _pinned(self._cuda, shape, dtype)
        return _Output(name=tensor.name, host=host, address=self._cuda.allocate(host.nbytes))

    def _warm_up(self, lane: _Lane) -> None:
        """Run a lane directly and, where it was recorded, from its graph; both must agree."""
        assert self._graphs is not None
        noise = np.random.default_rng(0).random(lane.host.shape, np.float32)
        np.copyto(
            lane.host, noise * 255 if lane.host.dtype == np.uint8 else noise, casting="unsafe"
        )
        self._run(lane)
        direct = [output.host.copy() for output in lane.outputs]
        if len(self._graphs) == 0:
            return
        for output in lane.outputs:
            output.host.view(np.uint8)[...] = 0xFF
        self._run(lane)
        for output, before in zip(lane.outputs, direct, strict=True):
            if not _alike(output.host, before):
                self._graphs.close()
                self._graphs.fallback = "replayed, it gave other numbers"

    def _graph_text(self) -> str:
        assert self._graphs is not None
        if self._own_graphs:
            return "CUDA graph by the library"
        why = self._graphs.fallback
        return "CUDA graph" if why is None else f"no CUDA graph ({why.rstrip('.')})"

    # -- running -------------------------------------------------------------------------------

    def ring(self) -> FrameRing:
        """See `HasRing.ring`."""
        spec = self._manifest.clip
        if self._cuda is None:
            raise BackendError("This engine is closed. Open it again.")
        memory = self._ring_memory.pop() if self._ring_memory else None
        made = DeviceRing(self._cuda, self._stream, spec.frames, spec.frame_shape, memory=memory)
        weakref.finalize(made, self._ring_memory.append, made.memory)
        self._rings.add(made)
        # Now and not at the first clip, since what is recorded runs once before; and it waits for
        # what a ring that is gone had under way.
        self._run(self._lanes[0], on_device=True)
        return made

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`. Nothing but the arrays that it returns is made."""
        checked_clips(clips, self._manifest)
        count = len(clips)
        lane = self._lanes[0]
        on_device = count == 1 and any(ring.gather(clips, lane.address) for ring in self._rings)
        results = {
            name: np.empty((count, *shape), np.float32) for name, shape in self._shapes.items()
        }
        done = 0
        while done < count:
            lane = self._lane_for(count - done)
            end = min(done + lane.batch, count)
            if not on_device:
                np.copyto(lane.host[: end - done], clips[done:end])
            self._run(lane, on_device=on_device)
            for output in lane.outputs:
                np.copyto(
                    results[output.name][done:end], output.host[: end - done], casting="same_kind"
                )
            done = end
        checked_score(results["score"], count, self._manifest)
        return results

    def _lane_for(self, count: int) -> _Lane:
        for lane in self._lanes:
            if lane.batch >= count:
                return lane
        return self._lanes[-1]

    def _run(self, lane: _Lane, *, on_device: bool = False) -> None:
        assert self._graphs is not None
        assert self._cuda is not None
        enqueue = lane.enqueue_rest if on_device else lane.enqueue
        self._graphs.run((lane.index, on_device), enqueue)
        self._cuda.synchronise(lane.stream)

    def close(self) -> None:
        """See `Backend.close`."""
        cuda, self._cuda = self._cuda, None
        if cuda is None:
            return
        if self._graphs is not None:
            with contextlib.suppress(BackendError):  # whatever broke was told already
                cuda.synchronise(self._stream)
                self._graphs.close()
        for ring in self._rings:
            ring.detach()
        # Contexts before their engine, that before its runtime, and all before their GPU.
        self._lanes.clear()
        self._engine = None
        self._runtime = None
        cuda.close()


def _alike(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Compare two runs of the same input: kernels that add up in any order differ a little."""
    largest = float(np.abs(other[np.isfinite(other)]).max(initial=0)) or 1.0
    return np.allclose(one, other, rtol=0.01, atol=0.01 * largest, equal_nan=True)


def _pinned(cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    memory = cuda.pinned(math.prod(shape) * dtype.itemsize)
    memory[...] = 0  # unused places of a batch are computed too
    return memory.view(dtype).reshape(shape)


def _machine(device: str) -> Machine:
    """Return what is here; refuse a machine without any TensorRT."""
    machine = this_machine(device)
    if machine.libraries:
        return machine
    # A library that is there and does not load is more likely what the user counts on.
    broken = [reason for reason in machine.missing.values() if "does not load" in reason]
    raise BackendError("; ".join(broken) or machine.missing["tensorrt"])
