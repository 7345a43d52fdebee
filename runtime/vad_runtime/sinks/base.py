"""What a sink of alerts is, and what it asks of the outbox."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due


class DeliveryError(Exception):
    """A sink could not deliver.

    Args:
        reason: Why, in words, in one line, without credentials.
        retry: False = the server refuses this very message, and will again.
        maybe_delivered: The server had everything and did not say what became of it.
        after_s: How long the server asks us to wait, seconds.
        done: Rows of the batch that were delivered all the same.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry: bool = True,
        maybe_delivered: bool = False,
        after_s: float | None = None,
        done: "Sequence[Due]" = (),
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.maybe_delivered = maybe_delivered
        self.after_s = after_s
        self.done = tuple(done)


class Sink(Protocol):
    """Somebody who hears of events. All methods but `close` are called by its delivery thread."""

    name: str
    """As in the site file."""
    kind: str
    """mail, webhook, mqtt or jsonl."""
    most: int
    """Rows in one batch at most."""
    by_stream: bool
    """Whether a batch holds rows of one stream only."""

    def wait_s(self, stream: str) -> float:
        """Return for how long rows of a stream are still held back, seconds; 0 = not at all."""

    def deliver(self, batch: "Sequence[Due]") -> None:
        """Deliver rows, at least one, oldest first; return when the receiver has them for sure.

        Raises:
            DeliveryError: It could not.
        """

    def tick(self) -> str:
        """Do what is to be done between deliveries, about once a second, and never wait for long.

        Returns:
            What is wrong with the sink even though it has nothing to deliver; empty = nothing.
        """

    def close(self) -> None:
        """Let go of connections and files within two seconds. Called once, from any thread."""


@runtime_checkable
class TriesOut(Protocol):
    """A sink that can be tried without an alert, before it is in use."""

    def try_out(self) -> str:
        """Connect and log in as for an alert, send none, and return what was done.

        Raises:
            DeliveryError: It would not deliver.
        """


class Spool(Protocol):
    """The part of `vad_runtime.store.outbox.Outbox` that a delivery uses, from its own thread.

    `due`, `claim` and `pending` may raise sqlite3.Error; the others never raise.
    """

    def due(
        self, sink: str, now: float, limit: int = 100, *, skip: Collection[str] = ()
    ) -> "list[Due]":
        """Return pending rows whose time has come, oldest first, but none of streams in `skip`."""

    def claim(self, rows: "Sequence[Due]") -> "list[Due]":
        """Mark rows as being sent; returns those that are to be sent."""

    def sent(self, rows: "Sequence[Due]") -> None:
        """Mark rows as delivered."""

    def failed(
        self, rows: "Sequence[Due]", error: str, next_try: float, *, maybe_repeated: bool = False
    ) -> None:
        """Put rows back until a time, Unix seconds."""

    def give_up(self, rows: "Sequence[Due]", error: str) -> None:
        """Mark rows as lost."""

    def pending(self, sink: str) -> int:
        """Return how many rows wait or are being sent."""
