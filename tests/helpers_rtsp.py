"""A tiny RTSP camera in a process of its own, so that it can be stopped, killed and cut.

It sends H.264 by RTP (RFC 6184), interleaved over TCP or over UDP, as RTSP 1.0 (RFC 2326) says. The
process needs the standard library only, so it starts in a blink; PyAV encodes its clips before.

Like a camera it plays all the time: who connects late starts in the middle of a group of pictures.
Every picture carries its number, as black and white blocks along the top (`marked`), which
`numbers` reads back at model size: what a clip really holds is known without any time stamp.

::

    clip = write_clip(folder / "clip", marked(images))
    with Camera([clip]) as camera:
        source = open_live(address_from_text(camera.url), spec)
        camera.tell("drop 0.05")
"""

import base64
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Image = npt.NDArray[np.uint8]

GOP = 10
BITS = 8
LOOP = 200
"""Pictures in a clip: a multiple of GOP, less than 2 ** BITS."""

_HEADER = struct.Struct("<IB")
_CLOCK = 90_000  # of RTP for video
_MTU = 1400

# -- clips, made in the test's process ---------------------------------------------------------


def marked(images: "Iterable[Image]") -> "Iterator[Image]":
    """Yield images of shape (height, width, 3) with their number in blocks along the top."""
    for number, image in enumerate(images):
        out = image.copy()
        height, width = image.shape[0] // 6, image.shape[1] // BITS
        for bit in range(BITS):
            left = bit * width
            out[:height, left : left + width] = 235 if number >> bit & 1 else 16
        yield out


def numbers(clips: "npt.NDArray[np.uint8]") -> list[int]:
    """Return the number of each picture of one clip, shape (1, T, H, W, C), at any size."""
    height, width = clips.shape[2] // 6, clips.shape[3] // BITS
    found = []
    for image in clips[0]:
        blocks = image[: max(1, height), : width * BITS].astype(float)
        means = blocks.reshape(blocks.shape[0], BITS, -1).mean(axis=(0, 2))
        found.append(sum(1 << bit for bit, mean in enumerate(means) if mean > 128))
    return found


def write_clip(path: Path, images: "Iterable[Image]", *, fps: int = 25) -> Path:
    """Encode RGB images as H.264 without B-frames, a key frame every `GOP` pictures."""
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, fps)
    encoder.framerate = Fraction(fps, 1)
    encoder.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "threads": "1",
        "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:sliced-threads=0:slices=1",
    }
    packets: list[tuple[bool, bytes]] = []
    for i, image in enumerate(images):
        if i == 0:
            encoder.height, encoder.width = image.shape[:2]
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, encoder.time_base
        packets += [(p.is_keyframe, bytes(p)) for p in encoder.encode(frame)]
    packets += [(p.is_keyframe, bytes(p)) for p in encoder.encode(None)]
    with path.open("wb") as out:
        for key, data in packets:
            out.write(_HEADER.pack(len(data), key) + data)
    return path


# -- the test's side ---------------------------------------------------------------------------


class Camera:
    """The process of a camera. Its address stays the same over restarts.

    Args:
        clips: By `write_clip`; the first is played.
        fps: Frames a second.
    """

    def __init__(self, clips: list[Path], *, fps: float = 25.0) -> None:
        self._clips, self._fps = clips, fps
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Address for a client."""
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self, *, at: int = 0) -> None:
        """Start the process and wait until it listens; `at` = number of its first picture."""
        settings = {
            "clips": [str(clip) for clip in self._clips],
            "fps": self._fps,
            "port": self._port,
            "at": at,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-S", __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"

    def tell(self, line: str) -> None:
        """Send a command (see `_Server.obey`) and wait until it is obeyed."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def pause(self) -> None:
        """Stop the process where it is (SIGSTOP): its connections stay open and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process (SIGKILL) and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()

    def __enter__(self) -> "Camera":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


# -- the process -------------------------------------------------------------------------------


def _read_clip(path: str) -> list[tuple[bool, list[bytes]]]:
    """Return (whether a key frame, NAL units) of each picture."""
    data, at, out = Path(path).read_bytes(), 0, []
    while at < len(data):
        size, key = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        units = re.split(b"\x00\x00\x00\x01|\x00\x00\x01", data[at : at + size])
        out.append((bool(key), [unit for unit in units if unit]))
        at += size
    return out


class _Server:
    """Serves one stream to any number of clients, a thread each."""

    def __init__(self, settings: dict[str, object]) -> None:
        self.clips = [_read_clip(path) for path in settings["clips"]]  # type: ignore[attr-defined]
        self.clip = self.clips[0]
        self.fps = float(settings["fps"])  # type: ignore[arg-type]
        self.offset = int(settings["at"])  # type: ignore[call-overload]
        self.start = time.monotonic()
        self.generation = 0
        self.silent = self.frozen = False
        self.drop = 0.0
        self.random = random.Random(1)
        self.socket = socket.create_server(("127.0.0.1", settings["port"]))

    def obey(self, line: str) -> None:
        """Do as a line says.

        `clip N` plays another clip. `cut` closes all connections. `skip N` loses N pictures.
        `drop P` loses this share of the RTP packets. `silent 1` sends nothing more. `freeze 1`
        sends the same key frame all the time.
        """
        what, *rest = line.split()
        value = float(rest[0]) if rest else 0.0
        if what == "clip":
            self.clip = self.clips[int(value)]
        elif what == "cut":
            self.generation += 1
        elif what == "skip":
            self.offset += int(value)
        elif what == "drop":
            self.drop = value
        elif what == "silent":
            self.silent = bool(value)
        elif what == "freeze":
            self.frozen = bool(value)

    def serve(self) -> None:
        while True:
            client, _ = self.socket.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_Client(self, client).serve, daemon=True).start()


class _Client:
    """One connection."""

    def __init__(self, server: _Server, client: socket.socket) -> None:
        self._server, self._socket = server, client
        self._udp: tuple[socket.socket, tuple[str, int]] | None = None
        self._sequence = random.randrange(1 << 15)

    def serve(self) -> None:
        stream = self._socket.makefile("rb")
        try:
            while first := stream.read(1):
                if first == b"$":  # RTCP of the client
                    stream.read(int.from_bytes(stream.read(3)[1:], "big"))
                    continue
                method = (first + stream.readline()).decode().split()[0]
                head = {}
                while header := stream.readline().decode().strip():
                    key, _, value = header.partition(":")
                    head[key.lower()] = value.strip()
                self._answer(method, head)
        except (OSError, ValueError, IndexError):
            pass
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError):  # `close` alone would leave it open while the other thread reads
            self._socket.shutdown(socket.SHUT_RDWR)

    def _answer(self, method: str, head: dict[str, str]) -> None:
        extra, body = "Session: 1;timeout=60\r\n", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"
        elif method == "DESCRIBE":
            extra, body = "Content-Type: application/sdp\r\n", self._description()
        elif method == "SETUP":
            extra += f"Transport: {self._transport(head['transport'])}\r\n"
        if body:
            extra += f"Content-Length: {len(body)}\r\n"
        cseq = head.get("cseq", "0")
        self._socket.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n{extra}\r\n{body}".encode())
        if method == "PLAY":
            threading.Thread(target=self._play, daemon=True).start()

    def _description(self) -> str:
        units = self._server.clip[0][1]
        parameters = [next(u for u in units if u[0] & 31 == kind) for kind in (7, 8)]
        sets = ",".join(base64.b64encode(unit).decode() for unit in parameters)
        lines = [
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=camera",
            "t=0 0",
            "m=video 0 RTP/AVP 96",
            f"a=rtpmap:96 H264/{_CLOCK}",
            f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}",
            f"a=framerate:{self._server.fps:g}",
            "a=control:track0",
        ]
        return "".join(f"{line}\r\n" for line in lines)

    def _transport(self, asked: str) -> str:
        port = re.search(r"client_port=(\d+)", asked)
        if port is None:
            return "RTP/AVP/TCP;unicast;interleaved=0-1"
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self._udp = (udp, ("127.0.0.1", int(port[1])))
        own = udp.getsockname()[1]
        return (
            f"RTP/AVP;unicast;client_port={port[1]}-{int(port[1]) + 1};server_port={own}-{own + 1}"
        )

    def _play(self) -> None:
        server = self._server
        generation = server.generation
        sent = -1
        try:
            while server.generation == generation:
                elapsed = time.monotonic() - server.start
                picture = server.offset + int(elapsed * server.fps)
                if picture == sent or server.silent:
                    time.sleep(0.002)
                    continue
                # A slow machine sends what it has missed, in order; a skip is meant to be missed.
                picture = sent + 1 if 0 < picture - sent < 8 and sent >= 0 else picture
                sent = picture
                _, units = server.clip[0 if server.frozen else picture % len(server.clip)]
                self._send(units, int(picture * _CLOCK / server.fps))
        except OSError:
            pass
        finally:
            self._hang_up()

    def _send(self, units: list[bytes], stamp: int) -> None:
        for i, unit in enumerate(units):
            last = i == len(units) - 1
            if len(unit) <= _MTU:
                self._packet(unit, stamp, marker=last)
                continue
            indicator, body = unit[0] & 0xE0 | 28, unit[1:]
            for at in range(0, len(body), _MTU):
                end = at + _MTU >= len(body)
                header = (at == 0) << 7 | end << 6 | unit[0] & 31
                piece = bytes([indicator, header]) + body[at : at + _MTU]
                self._packet(piece, stamp, marker=last and end)

    def _packet(self, payload: bytes, stamp: int, *, marker: bool) -> None:
        head = struct.pack(
            "!BBHII", 0x80, marker << 7 | 96, self._sequence, stamp & 0xFFFFFFFF, 0x5EED
        )
        self._sequence = (self._sequence + 1) & 0xFFFF
        if self._server.random.random() < self._server.drop:
            return
        data = head + payload
        if self._udp is not None:
            self._udp[0].sendto(data, self._udp[1])
        else:
            self._socket.sendall(b"$\0" + len(data).to_bytes(2, "big") + data)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _main() -> None:
    server = _Server(json.loads(sys.argv[1]))
    threading.Thread(target=server.serve, daemon=True).start()
    _say("listening")
    for line in sys.stdin:
        server.obey(line)
        _say("done")
    os._exit(0)  # the test is gone


if __name__ == "__main__":
    _main()
