"""What the benchmarks share. A header says what the tables were measured on."""

from helpers import clip_spec

from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.ring import FrameRing


def pytest_report_header() -> list[str]:
    """Name device, threads and versions, once, above the tables."""
    import torch

    machine = machine_facts()
    native = FrameRing(2, clip_spec().frame_shape).native
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return [
        f"device: {machine['cpu']} ({machine['architecture']}), {machine['usable_threads']} of "
        f"{machine['cores']} cores usable, PyTorch takes {torch.get_num_threads()} threads",
        f"versions: python {machine['python']}, {versions}",
        f"frame ring: {'native' if native else 'pure'} by default",
    ]
