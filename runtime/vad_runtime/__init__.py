"""vad-edge on the device: opens a bundle, reads video, scores it.

Importing this package costs numpy and msgspec; decoders and engines are imported when used.
"""

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ClipSpec, Manifest, VadError

__all__ = ["Bundle", "ClipSpec", "Manifest", "VadError", "__version__"]

__version__ = "0.1.0"
