"""What a user may name as a source, and how to show it without the password in it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vad_runtime.contracts.errors import SourceError

AddressKind = Literal["file", "glob", "folder", "usb", "stream", "gstreamer"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "srt")
"""Protocols of streams."""

_HIDDEN = "***"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USB_NUMBER = re.compile(r"usb:\s*(\d{1,3})\Z", re.IGNORECASE)
_USB_DEVICE = re.compile(r"/dev/(video\d{1,3}|v4l/by-(id|path)/[^/]+)\Z")
_GLOB = re.compile(r"[*?\[]")
_BARE_LOGIN = re.compile(r"(?<![^\s\"'=(])[^\s/:@\"'=(]{1,99}:(?!//)[^\s@]{0,300}@(?=[^\s@])")
_WORD = re.compile(r"\S+")
_AUTHORITY = re.compile(r"[^\s/?#]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# `key=value` and `key = value` of queries and pipelines, also GStreamer's `key=(string)value`. The
# value ends at `&` or white space; a quoted one at its closing quote.
_KEY = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)\s{0,3}=\s{0,3}(?:\(\w{1,20}\)\s{0,3})?")
_VALUE = re.compile(
    r"""(?P<quote>["'])(?:(?!(?P=quote))[^\\]|\\.)*(?P=quote)|[^\s&]*?(?=["']?(?:[\s&]|\Z))"""
)
_SECRET_PART = re.compile(
    r"pass|pwd|psw|token|secret|auth|credential|signature|apikey|accesskey|user-?id|user-?name"
    r"|login|streamid|jwt|hmac|session|hdnts|hdnea",
    re.IGNORECASE,
)
_SECRET_WORDS = frozenset(["key", "pw", "pas", "sig", "sid", "sas", "user", "usr"])


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where frames come from.

    Its text may hold a password: show `str(address)`, which is masked, and never `text`.
    """

    kind: AddressKind
    """`usb` is a V4L2 device, `stream` a protocol of `SCHEMES`, `gstreamer` a pipeline."""
    text: str = field(repr=False)
    """A path, a pattern, `/dev/video0`, an address with its scheme in small letters, or a
    pipeline without `gst:`."""

    @property
    def live(self) -> bool:
        """Whether it has a pace of its own, and no end."""
        return self.kind in ("usb", "stream", "gstreamer")

    def __str__(self) -> str:
        return masked(f"gst: {self.text}" if self.kind == "gstreamer" else self.text)


def address_from_text(text: str) -> Address:
    """Say what a text names. Only the file system is looked at, and only for paths.

    Args:
        text: `rtsp://`, `rtsps://`, `http://`, `https://`, `rtmp://`, `udp://` or `srt://`;
            `/dev/video0`, `/dev/v4l/by-id/...` or `usb:0`; `gst: PIPELINE`; a path, a folder, or a
            pattern with `*`, `?` or `[...]`. A path that exists is no pattern.

    Returns:
        Its address. A path need not exist.

    Raises:
        SourceError: An empty text, control characters, an unknown protocol, or no host.
    """
    text = text.strip()
    if not text:
        raise SourceError("the source is empty. Give a file, a folder, rtsp://… or /dev/video0.")
    if _CONTROL.search(text):
        raise SourceError("the source holds control characters. Write it on one line.")
    if text[:4].lower() == "gst:":
        pipeline = text[4:].strip()
        if not pipeline:
            raise SourceError("the pipeline after gst: is empty. Write what gst-launch-1.0 takes.")
        return Address(kind="gstreamer", text=pipeline)
    if number := _USB_NUMBER.match(text):
        return Address(kind="usb", text=f"/dev/video{int(number[1])}")
    if text[:4].lower() == "usb:":
        raise SourceError(f"{masked(text)} names no camera. Write usb:0 for /dev/video0.")
    if _USB_DEVICE.match(text):
        return Address(kind="usb", text=text)
    if scheme := _SCHEME.match(text):
        return _stream(scheme[1].lower(), text[scheme.end() :])
    return _local(text)


def _stream(scheme: str, rest: str) -> Address:
    if scheme == "file":
        return _local(rest)
    shown = masked(f"{scheme}://{rest}")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceError(f"{shown} has an unknown protocol. Known are {known}.")
    if re.search(r"\s", rest):
        raise SourceError(f"{shown} holds a space. Write %20 in its place.")
    # An `@` may start an address of udp://, which then listens on every interface.
    host = re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    if not host:
        raise SourceError(f"{shown} names no host. Write {scheme}://HOST/…")
    return Address(kind="stream", text=f"{scheme}://{rest}")


def _local(text: str) -> Address:
    path = Path(text)
    try:
        if path.is_dir():
            return Address(kind="folder", text=text)
        there = path.exists()
    except OSError:  # a name that is too long, a closed folder: opening it says so
        return Address(kind="file", text=text)
    if not there and _BARE_LOGIN.match(text):
        raise SourceError(f"{masked(text)} names no protocol. Write rtsp:// in front of it.")
    is_pattern = not there and _GLOB.search(text) is not None
    return Address(kind="glob" if is_pattern else "file", text=text)


def masked(text: str) -> str:
    """Return a text without the credentials that it holds: they become `***`.

    Hidden are the part of each address in front of its host, and the values of keys that sound
    like a password, a token, a user or a signature, in queries and in pipelines. In doubt more is
    hidden than has to be: a password may hold any character, also `/`, `?` and `@`.

    Args:
        text: An address, a pipeline, or a message in which some stand.

    Returns:
        The text to show; masking it again changes nothing.
    """
    return _without_values(_BARE_LOGIN.sub(f"{_HIDDEN}@", _without_logins(text)))


def _without_logins(text: str) -> str:
    out, at = [], 0
    for word in _WORD.finditer(text):
        if "@" not in word[0]:
            continue
        login = word[0].rfind("@") + word.start()
        start = text.find("://", at, word.end()) + 3
        while 3 <= start <= login:
            if not _is_plain_host(_AUTHORITY.match(text, start)):
                out += [text[at:start], _HIDDEN]
                at = login
                break
            start = text.find("://", start, login) + 3
    return "".join([*out, text[at:]])


def _is_plain_host(found: re.Match[str] | None) -> bool:
    """`host/path@2` holds no login; `user:pa/ss@host` does, although it should be escaped."""
    authority = found[0] if found else ""
    return "@" not in authority and (authority[:1] == "[" or ":" not in authority)


def _without_values(text: str) -> str:
    out, at = [], 0
    while key := _KEY.search(text, at):
        out.append(text[at : key.end()])
        at = key.end()
        value = _VALUE.match(text, at) if _is_secret(key[1]) else None
        if value is not None and value[0]:
            quote = value["quote"] or ""
            out.append(f"{quote}{_HIDDEN}{quote}")
            at = value.end()
    return "".join([*out, text[at:]])


def _is_secret(key: str) -> bool:
    words = re.split(r"[-_.]|(?<=[a-z])(?=[A-Z])", key)
    return _SECRET_PART.search(key) is not None or any(w.lower() in _SECRET_WORDS for w in words)
