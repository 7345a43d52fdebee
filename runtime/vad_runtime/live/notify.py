"""Tells systemd how a service is, by its own protocol: a datagram to `$NOTIFY_SOCKET`.

Source: sd_notify(3) and systemd.service(5), `Type=notify-reload` and `WatchdogSec=`.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to systemd; without systemd every call does nothing.

    One thread calls it.

    Args:
        environment: Variables; None = the process's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        self._address = variables.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(variables)
        """systemd restarts a service that stays silent for so long, seconds; None = it does not."""

    def ready(self, status: str) -> None:
        """Say that the site runs, after the start or a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload begins."""
        # Both clocks are CLOCK_MONOTONIC on Linux, which is what systemd wants.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """Say in words how the site is, for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the site stops."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = self._address
        if address.startswith("@"):  # an abstract socket
            address = "\0" + address[1:]
        text = "\n".join(" ".join(line.split()) for line in lines)
        # A service manager that does not listen must not stop us.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(1.0)
            channel.sendto(text.encode(), address)


def _watchdog_s(variables: Mapping[str, str]) -> float | None:
    text, pid = variables.get("WATCHDOG_USEC", ""), variables.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6 or None
