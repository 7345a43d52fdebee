"""Hardware decoders: which are here."""

from typing import Any

from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.site import Decoder
from vad_runtime.cuda.driver import driver_installed


def hardware(decoder: Decoder) -> Any:
    """Return PyAV's settings for NVIDIA's decoder, or None for software.

    Pictures are copied to the processor's memory, since resizing and scoring start there; their
    pixels are those of a software decoder, for H.264 and H.265 say exactly how to decode.

    Args:
        decoder: `auto` takes software where there is no such decoder; `nvdec` insists.

    Returns:
        `av.codec.hwaccel.HWAccel`, for one container; None = software.

    Raises:
        BackendError: `nvdec` is asked for and cannot be had.
    """
    if decoder not in ("auto", "nvdec"):
        return None
    why = _why_not()
    if why is None:
        from av.codec.hwaccel import HWAccel

        return HWAccel(device_type="cuda", allow_software_fallback=decoder == "auto")
    if decoder == "nvdec":
        raise BackendError(f"decoder nvdec: {why}. Use decoder auto.")
    return None


def _why_not() -> str | None:
    if not driver_installed():
        return "this machine has no NVIDIA driver"
    try:
        from av.codec.hwaccel import hwdevices_available
    except ImportError:
        return "this PyAV is too old for it (14 or newer is needed)"
    if "cuda" not in hwdevices_available():
        return "this PyAV was built without CUDA"
    return None
