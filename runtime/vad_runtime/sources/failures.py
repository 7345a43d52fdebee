"""Why a connection failed, in words for people."""

import errno
import re
import socket

import av.error

from vad_runtime.sources.address import Address

_BY_NUMBER = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the other side broke the connection",
    errno.ECONNABORTED: "the other side broke the connection",
    errno.EPIPE: "the other side broke the connection",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "no route to host",
    errno.EHOSTDOWN: "no route to host",
    errno.ENETDOWN: "the network is down",
    errno.EADDRINUSE: "another program listens at this port",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
}
_HTTP = {
    av.error.HTTPBadRequestError: "400 bad request",
    av.error.HTTPUnauthorizedError: "401 user or password refused",
    av.error.HTTPForbiddenError: "403 forbidden",
    av.error.HTTPNotFoundError: "404 not found",
    av.error.HTTPServerError: "the server reports an error of its own (5xx)",
}


def refuses(error: BaseException) -> bool:
    """Whether the other side refuses our credentials: 401 or 403."""
    return isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError)


def reason_of(
    error: av.error.FFmpegError,
    waited_s: float,
    address: Address | None = None,
    *,
    took_s: float = 0.0,
) -> str:
    """Say why, in words without the address.

    Args:
        error: What PyAV raised.
        waited_s: How long it waited at most, seconds.
        address: Given while connecting: the name of a host that is unknown is sought once more,
            since FFmpeg says only "I/O error" then.
        took_s: How long it has really taken, seconds. Where nothing comes at all, FFmpeg's RTSP
            calls its own waiting, once it is broken off, invalid data.
    """
    for kind, text in _HTTP.items():
        if isinstance(error, kind):
            return text
    if isinstance(error, av.error.HTTPError | av.error.HTTPClientError):
        return "the request is refused (4xx); the path or the transport may be wrong"
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return f"no answer within {waited_s:g} s"
    if isinstance(error, av.error.EOFError):
        return "the other side closed the connection"
    if isinstance(error, av.error.InvalidDataError):
        if took_s >= waited_s:
            return f"no answer within {waited_s:g} s"
        return "what comes is no video"
    if isinstance(error, av.error.ProtocolNotFoundError):
        return "this FFmpeg was built without that protocol"
    if error.errno == errno.EIO:
        host = _host(address)
        if host is not None and not _resolves(host):
            return f"the name {host} is unknown"
        return "the connection broke (I/O error)"
    return _BY_NUMBER.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()


def _host(address: Address | None) -> str | None:
    if address is None or address.kind != "stream":
        return None
    rest = address.text.partition("://")[2]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return None if host.startswith("[") else host.partition(":")[0] or None


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True
