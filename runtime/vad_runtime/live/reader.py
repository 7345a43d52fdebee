"""What a stream needs of whoever reads its source, and how much that shall hold."""

from typing import Protocol

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.sources.base import Frame


class Reader(Protocol):
    """What a stream needs of `Prefetch`."""

    ended: bool
    dropped: int

    @property
    def waiting(self) -> int:
        """Frames in the queue, about."""

    @property
    def stopped(self) -> bool:
        """Whether it was told to read no further."""

    def start(self) -> None:
        """Start reading."""

    def poll(self) -> Frame | None:
        """Return the next frame if there is one; raises what the source raised, once."""

    def stop(self) -> None:
        """Read no further."""

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop and wait; return whether it has ended."""


def queue_depth(spec: ClipSpec, hop: int | None = None) -> int:
    """Return how many frames a reader's queue shall hold.

    Enough for a clip that waits out its budget and for the next one, with the hop as wide as
    `widen-hop` may make it: a queue that overflows would tear a hole where the policy leaves out a
    clip.

    Args:
        spec: Of the model.
        hop: Of the stream; None = the spec's.
    """
    return max(32, 2 * max(spec.hop if hop is None else hop, spec.frames * spec.stride))
