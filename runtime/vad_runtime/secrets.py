"""Secrets of a site: from the environment, from closed files, from systemd; never from the text.

::

    ${GATE_PASSWORD}              an environment variable
    ${file:/etc/vad/gate.key}     a file that only its owner may read, without its last newline
    ${credential:gate}            a credential of systemd (LoadCredential=), see systemd.exec(5)
    $${                           the two characters themselves

No function here ever puts a secret's text into an error.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.files import home_expanded

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_LONGEST_BYTES = 64 * 1024
_STAND_IN = "\0"
"""Stands for a reference where literal passwords are looked for; YAML texts hold no NUL."""

_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s/?#\"']*)@")
_PARAMETER = re.compile(
    # In a query (?token=…), and as a property in a pipeline of GStreamer (user-pw=…).
    r"(?i)(?:[?&;]|\s|\A)([a-z0-9_.-]*(?:password|passwd|passphrase|pwd|token|secret|apikey|api_key"
    r"|api-key|user-pw|proxy-pw|signature)|pass|pw|key|auth|sig)=\"?([^&;\s\"#]+)"
)
_SECRET_HEADER = re.compile(r"(?i)auth|token|secret|key|cookie|password")


def has_reference(text: str) -> bool:
    """Return whether a text takes something from elsewhere."""
    return any(match.group(1) is not None for match in _REFERENCE.finditer(text))


def resolved(text: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return a text with its references filled in.

    Args:
        text: As it stands in the site file.
        folder: Relative paths of `${file:…}` start here.
        environment: Variables; None = the process's.

    Raises:
        ConfigError: A reference that cannot be filled in; the line names it and not its content.
    """
    variables = os.environ if environment is None else environment

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        return "${" if name is None else _value(name.strip(), folder, variables)

    return _REFERENCE.sub(fill, text)


def _value(name: str, folder: Path, variables: Mapping[str, str]) -> str:
    kind, colon, rest = name.partition(":")
    if colon and kind == "file" and rest:
        return _text_of(folder / home_expanded(rest), "file", guarded=True)
    if colon and kind == "credential" and rest:
        return _credential(rest, variables)
    if _VARIABLE.match(name) is None:
        raise ConfigError(
            f"${{{name}}} is no reference. Write ${{NAME}}, ${{file:/path}} or "
            "${credential:NAME}; for the characters themselves write $${."
        )
    if not variables.get(name):
        what = "is empty" if name in variables else "is not set"
        raise ConfigError(
            f"the environment variable {name} {what}. Set it, or use ${{file:/path}}."
        )
    return variables[name]


def _credential(name: str, variables: Mapping[str, str]) -> str:
    folder = variables.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"${{credential:{name}}} needs systemd: add LoadCredential={name}:/path to the unit, "
            "or use ${file:/path}."
        )
    if Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"{name!r} is no name of a credential. Use the one in LoadCredential=.")
    # systemd shows the service its credentials through an access list, which looks like rights for
    # the group; it keeps others out by itself.
    return _text_of(Path(folder) / name, "credential", guarded=False)


def _text_of(path: Path, kind: str, *, guarded: bool) -> str:
    """Return a small file's text. The rights are those of the very file that is read."""
    try:
        # A pipe in the file's place must not make us wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise ConfigError(f"the {kind} {path} cannot be read ({reason}). Check it.") from None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(f"the {kind} {path} is no file. Name a file that holds the secret.")
        if guarded:
            _require_closed(path, about)
        content = os.read(handle, _LONGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the {kind} {path} cannot be read ({error.strerror}). Check it."
        ) from None
    finally:
        os.close(handle)
    if len(content) > _LONGEST_BYTES:
        raise ConfigError(f"the {kind} {path} is longer than 64 KiB. Is it the right file?")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"the {kind} {path} is no UTF-8 text. Is it the right file?") from None
    if not text or "\0" in text:
        raise ConfigError(f"the {kind} {path} holds no text. Write the secret into it.")
    return text


def _require_closed(path: Path, about: os.stat_result) -> None:
    if about.st_mode & 0o077:
        mode = f"{stat.S_IMODE(about.st_mode):03o}"
        raise ConfigError(f"others may use {path} (mode {mode}). Run: chmod 600 {path}")
    if about.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to another user ({about.st_uid}), who could change it. "
            "Make it yours or root's with chown."
        )


def literal_password(text: str) -> str | None:
    """Return where a text holds a password that no reference gives; None = nowhere.

    Args:
        text: An address or a pipeline, as it stands in the site file.

    Returns:
        What holds it, in words, without the password.
    """
    plain = _REFERENCE.sub(lambda m: _STAND_IN if m.group(1) is not None else "$", text)
    for match in _USERINFO.finditer(plain):
        _, colon, password = match.group(1).partition(":")
        if colon and password and _STAND_IN not in password:
            return "the password in the address"
    for match in _PARAMETER.finditer(plain):
        if _STAND_IN not in match.group(2):
            return f"{match.group(1)}="
    return None


def is_secret_header(name: str) -> bool:
    """Return whether the header of this name is one that carries credentials."""
    return _SECRET_HEADER.search(name) is not None
