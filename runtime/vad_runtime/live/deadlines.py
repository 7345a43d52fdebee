"""When a clip's score is due, and what a stream does when its clips come too late.

Pure logic: times are passed in, monotonic seconds.
"""

import math
from collections.abc import Callable
from typing import Literal

from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.contracts.site import Policy
from vad_runtime.words import counted

Verdict = Literal["run", "skip", "error"]

_QUIET_S = 10.0
_LONGEST_QUIET_S = 600.0
_SHARE_WEIGHT = 1 / 16
_BUDGETS_PER_SHARE = 8.0


def target_s(target_ms: float | None, *, hop: int, fps: float) -> float:
    """Return the longest time from a clip's last frame to its score, seconds.

    Args:
        target_ms: As the operator wishes; None = the time until the next clip is there.
        hop: Source frames from one clip to the next, as they are now.
        fps: Frames a second that the stream brings.
    """
    return hop / fps if target_ms is None else target_ms / 1e3


def longest_hop(manifest: Manifest, hop: int) -> int:
    """Return the hop up to which `widen-hop` may go: every frame is still scored by some clip.

    Args:
        manifest: Of the model.
        hop: What the stream starts with; where it is larger already, it is the answer.
    """
    scored = manifest.score.count if manifest.score.per == "frame" else manifest.clip.frames
    return max(hop, scored * manifest.clip.stride)


class LatePolicy:
    """Judges the clips of one stream whose deadline has passed.

    ::

        drop-oldest   the late clip is skipped where the frames of a newer one are there already
        widen-hop     the hop doubles, up to `longest`; beyond that as drop-oldest
        error         the first clip that would be skipped ends everything

    What changes is told once. A stream counts as in time again after ten quiet seconds; each time
    that this comes too soon the wait doubles, up to ten minutes, so that a stream at the edge does
    not fill the log.

    Not for several threads.

    Args:
        name: The stream's.
        policy: One of the three.
        hop: The stream's own, source frames.
        longest: See `longest_hop`.
        say: Takes a line for the log.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        hop: int,
        longest: int,
        say: Callable[[str], None],
    ) -> None:
        self._name, self._policy, self._say = name, policy, say
        self._hops = [hop]
        while self._hops[-1] < longest:
            self._hops.append(min(2 * self._hops[-1], longest))
        self._level = 0
        self.skipped = 0
        """Clips that were skipped since the stream was opened."""
        self._in_a_row = 0
        self._share = 0.0
        self._dropping_from: int | None = None
        self._late_s = -math.inf
        self._relaxed_s = -math.inf
        self._quiet_s = _QUIET_S

    @property
    def hop(self) -> int:
        """What the hop shall be now, source frames; the stream applies it."""
        return self._hops[self._level]

    @property
    def behind(self) -> bool:
        """Whether it is leaving out clips, or has widened the hop."""
        return self._dropping_from is not None or self._level > 0

    @property
    def head_start(self) -> float:
        """By how many budgets the next clip is more urgent than its deadline says.

        One for each clip skipped since the last that was scored, and more for a stream that has
        lost a larger share of its clips lately: otherwise those whose cameras happen to come first
        would lose none, and the others all.
        """
        return self._in_a_row + _BUDGETS_PER_SHARE * self._share

    def judge(self, now_s: float, *, target_s: float) -> Verdict:
        """Decide about a late clip where a newer one could be made already; asked once for each.

        Args:
            now_s: The present.
            target_s: The clip's budget, for the log.
        """
        self._note_late(now_s)
        if self._policy == "error":
            return "error"
        if self._policy == "widen-hop" and self._level + 1 < len(self._hops):
            self._move(1, f"clips are not scored within {_ms(target_s)}")
            return "run"
        if self._dropping_from is None:
            self._dropping_from = self.skipped
            self._say(
                f"{self._name}: behind: clips are not scored within {_ms(target_s)}, "
                f"the oldest are left out (policy {self._policy})"
            )
        self.skipped += 1
        self._in_a_row += 1
        self._share += _SHARE_WEIGHT * (1.0 - self._share)
        return "skip"

    def error(self, target_s: float) -> BackendError:
        """Return what ends the site where the verdict is `error`."""
        return BackendError(
            f"{self._name}: a clip was not scored within {_ms(target_s)}, and the next one is due "
            "(policy error). Use a larger hop or target_ms, fewer streams, or the policy "
            "drop-oldest."
        )

    def scored(self, now_s: float) -> None:
        """Note that a clip was scored; after a quiet time, things go back by one step."""
        self._in_a_row = 0
        self._share -= _SHARE_WEIGHT * self._share
        if not self.behind or now_s - max(self._late_s, self._relaxed_s) < self._quiet_s:
            return
        self._relaxed_s = now_s
        if self._dropping_from is not None:
            count = self.skipped - self._dropping_from
            self._dropping_from = None
            clips = counted(count, "clip was", "clips were")
            self._say(f"{self._name}: in time again; {clips} left out")
        else:
            self._move(-1, "in time again")

    def _note_late(self, now_s: float) -> None:
        if self._relaxed_s >= self._late_s:  # the first since things went back
            soon = now_s - self._relaxed_s < 2 * self._quiet_s
            self._quiet_s = min(2 * self._quiet_s, _LONGEST_QUIET_S) if soon else _QUIET_S
        self._late_s = now_s

    def _move(self, levels: int, reason: str) -> None:
        before = self.hop
        self._level += levels
        self._say(f"{self._name}: {reason}: hop {before} -> {self.hop} (policy widen-hop)")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
