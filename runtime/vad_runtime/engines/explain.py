"""What TensorRT's error lines mean, and what to do about them.

The strings stand in TensorRT's sources, in its issue tracker, or came out of runs; TensorRT has no
codes that are finer than "API usage error". A line may match several patterns: the first counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One known way to fail."""

    name: str
    """Short and fixed: `version-tag`."""
    pattern: re.Pattern[str]
    cause: str
    """What it means: a clause without a capital at its start and without a full stop."""
    remedy: str
    """What to do: a sentence; where it ends with a command, the command ends it."""


def _known(name: str, pattern: str, cause: str, remedy: str) -> Explanation:
    return Explanation(
        name=name, pattern=re.compile(pattern, re.IGNORECASE), cause=cause, remedy=remedy
    )


_ERROR = r"(?:cuda ?error|cuda initialization failure with error):?"
_AGAIN = "Build the engine again on this machine with: vad-export build-engine BUNDLE"

EXPLANATIONS: tuple[Explanation, ...] = (
    _known(
        "version-tag",
        r"version tag does not match",
        "the plan was built by another version of TensorRT, and plans fit one version only",
        _AGAIN,
    ),
    _known(
        "library-version",
        r"expecting library version \S+ got",
        "the plan was built by another version of TensorRT, and plans fit one version only",
        _AGAIN,
    ),
    _known(
        "other-gpu",
        r"generated on an incompatible device, expecting compute",
        "the plan was built for GPUs of another compute capability (SM)",
        _AGAIN,
    ),
    _known(
        "other-model",
        r"using an engine plan file across different models of devices",
        "the plan was built on another model of GPU with the same compute capability: it runs, "
        "but may be slow or wrong",
        _AGAIN,
    ),
    _known(
        "platform-tag",
        r"platform specific tag mismatch",
        "the plan was built for another operating system or processor architecture",
        _AGAIN,
    ),
    _known(
        "magic-tag",
        r"magic tag does not match|magicTag == ",
        "the file is no plan of this library: a plan of TensorRT-RTX given to TensorRT (or the "
        "other way round), a damaged plan, or a plan with something in front of it",
        "Look at the file with: vad-export inspect FILE",
    ),
    _known(
        "host-code",
        r"getEngineHostCodeAllowed\(\) is false|engine_?host_?code_?allowed",
        "the plan carries code for the host (a lean runtime), which is not run unless allowed",
        "If you trust the plan, run it with --host-code.",
    ),
    _known(
        "no-driver",
        rf"{_ERROR} ?35\b|driver version is insufficient|cuda_?error_?insufficient_?driver",
        "there is no NVIDIA driver here, or it is older than this TensorRT needs",
        "Install or update the driver; see: vad-run doctor",
    ),
    _known(
        "no-gpu",
        rf"{_ERROR} ?100\b|no CUDA-capable device",
        "the driver finds no GPU",
        "Look at the GPUs with: vad-run doctor",
    ),
    _known(
        "no-kernel",
        rf"{_ERROR} ?209\b|no kernel image is available",
        "this TensorRT has no code for this GPU's compute capability (SM)",
        "Install a TensorRT that supports this GPU; see: vad-run doctor",
    ),
    _known(
        "lean-stub",
        r"unexpected call to stub",
        "the lean runtime was given a plan that was not built for it",
        "Build the engine again with --version-compatible, or install the whole TensorRT.",
    ),
    _known(
        "gpu-memory",
        r"resizePhysical",
        "the GPU's memory ran out",
        "Close other programs that use the GPU, or give a smaller --batch or --workspace.",
    ),
    _known(
        "workspace",
        r"requested size was \d+ bytes|within workspace limit|insufficient workspace",
        "a layer needs more workspace than is allowed",
        "Give more with --workspace MB, or a smaller --batch.",
    ),
    _known(
        "no-implementation",
        r"could not find any implementation for node",
        "no kernel fits this layer; very often that is memory: each kernel asked for more "
        "workspace than is allowed",
        "Free memory, or give more with --workspace MB, or a smaller --batch.",
    ),
    _known(
        "out-of-memory",
        rf"out ?of ?memory|{_ERROR} ?2\b|cudaErrorMemoryAllocation|bad_alloc|"
        r"unable to allocate|allocation of \d+ bytes failed",
        "memory ran out",
        "Close other programs that use the GPU, or give a smaller --batch or --workspace.",
    ),
    _known(
        "skipped-kernel",
        r"device memory is insufficient to use tactic|due to insuf+icient memory on requested size",
        "the builder left out a kernel that needs more memory than is free: the engine may be "
        "slower than it could be",
        "Close other programs that use the GPU, and build again.",
    ),
    _known(
        "volume",
        r"tensor volume exceeds|volume of dimensions exceeds",
        "a tensor would have more than 2^31 elements",
        "Give a smaller --batch.",
    ),
    _known(
        "turing",
        r"cannot compile operation .* for turing",
        "TensorRT for RTX has no kernel of this layer in this precision for SM 75",
        "Build from the fp16 graph, or leave 75 out of --sm.",
    ),
    _known(
        "cancelled",
        r"build canceled by user|BuildCanceled",
        "the build was cancelled",
        "Start it again when you like.",
    ),
    _known(
        "unsupported-node",
        r"UNSUPPORTED_(?:NODE|GRAPH|NODE_DATATYPE|NODE_ATTR|NODE_INPUT|NODE_DYNAMIC)|"
        r"no importer registered for op|no matching plugin|plugin not found",
        "the graph holds an operator, or a type of it, that this TensorRT cannot take",
        "See which with: vad-export build-engine BUNDLE --dry-run",
    ),
    _known(
        "no-profile",
        r"no optimization profile has been defined",
        "an input has a size that is not fixed, and no range was given for it",
        "Export the bundle again so that only the batch is open.",
    ),
    _known(
        "profile-shape",
        r"invalid optimization profiles|does not satisfy any optimization profiles?|"
        r"input dimensions? .{0,80}(?:profile|not satisfied)",
        "an input does not fit the batch sizes that the plan was built for",
        "Build the engine again with the batch sizes that you need: --batch 1,4.",
    ),
    _known(
        "no-output",
        r"network must have at least one output",
        "the graph is empty, so the file is no ONNX graph or a damaged one",
        "Export the bundle again with: vad-export onnx",
    ),
    _known(
        "precision-flag",
        r"strongly typed.{0,80}(?:flag|precision)|(?:flag|precision).{0,80}strongly typed",
        "a precision was set on a network whose types come from the graph",
        "Build from the artefact of that precision: --precision fp16.",
    ),
    _known(
        "calibration",
        r"calibration failure|no scaling factors detected|calibrator is not being used",
        "INT8 was asked for, but the tensors have no ranges",
        "Quantise the bundle again with: vad-export quantise BUNDLE",
    ),
    _known(
        "missing-scale",
        r"missing scale and zero-?point",
        "a tensor has no INT8 range, so the layers at it run in a wider type",
        "That is as it should be where the bundle leaves layers out of INT8; otherwise quantise "
        "the bundle again with: vad-export quantise BUNDLE",
    ),
    _known(
        "cuda-version",
        r"(?:linked against|compiled for) (?:cuda|cudnn|cublas).{0,60}but loaded",
        "another CUDA library is loaded than the one that TensorRT was built with",
        "Install the CUDA libraries that fit this TensorRT; see: vad-run doctor",
    ),
    _known(
        "illegal-address",
        rf"{_ERROR} ?700\b|illegal memory access|cudaErrorIllegalAddress",
        "a kernel read or wrote memory that is not its own, and the CUDA context is lost",
        "Start the program again; if it comes back, build the engine again.",
    ),
    _known(
        "dla",
        r"(?:un|not )supported on DLA|not running on DLA|DLA (?:validation|compiler) .{0,60}fail",
        "the DLA cannot run this layer (it knows 2-D layers only), so the GPU does if it may",
        "Build without --dla.",
    ),
    _known(
        "library-missing",
        r"libnv\w+\.so[.\d]*: cannot open shared object|libcud\w+\.so[.\d]*: cannot open",
        "a library that TensorRT needs is not installed, or is not found",
        "Install it or set LD_LIBRARY_PATH; see: vad-run doctor",
    ),
    _known(
        "timing-cache",
        r"failed to deserialize timing cache|timing cache .{0,60}(?:mismatch|different device)",
        "the timing cache comes from another version or GPU, and is not used",
        "Name another file with --timing-cache FILE, or leave it: the build only takes longer.",
    ),
    _known(
        "address-not-set",
        r"address is not set for|neither address .{0,40}allocator is set",
        "the program ran the engine without giving it memory for every tensor",
        "This is a fault of the program that loads the plan; tell its authors.",
    ),
)
"""In the order in which they are tried: what is more precise stands first."""


def explain(text: str) -> list[tuple[int, Explanation]]:
    """Find the known lines in a log.

    Args:
        text: A whole log.

    Returns:
        Line numbers from 1, ascending, each with what its line means. Each meaning once: where it
        stands first.
    """
    found: list[tuple[int, Explanation]] = []
    told: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        known = _of_line(line)
        if known is not None and known.name not in told:
            told.add(known.name)
            found.append((number, known))
    return found


def cause_of(lines: Iterable[str]) -> Explanation | None:
    """Return the most precise explanation that any of the lines has; None = all unknown."""
    kept = list(lines)
    return next(
        (known for known in EXPLANATIONS if any(known.pattern.search(line) for line in kept)), None
    )


def _of_line(line: str) -> Explanation | None:
    return next((known for known in EXPLANATIONS if known.pattern.search(line)), None)
