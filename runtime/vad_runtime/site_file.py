"""Site files: `site.yaml`, read strictly, with the line of everything that is wrong.

PyYAML is needed here; a command imports this module only when it reads a site.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vad_runtime.backends.registry import backend_names
from vad_runtime.contracts.errors import ConfigError, InputError
from vad_runtime.contracts.site import (
    EngineSettings,
    LinesSettings,
    MailSettings,
    MqttSettings,
    Secret,
    SinkSettings,
    Site,
    StreamSettings,
    WebhookSettings,
)
from vad_runtime.files import home_expanded
from vad_runtime.secrets import resolved
from vad_runtime.site_convert import Converter, Mistake
from vad_runtime.site_yaml import tree_from_yaml

_MOST_BYTES = 512 * 1024
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?\Z")
_MAIL = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HERE = frozenset(["localhost", "127.0.0.1", "::1"])


@dataclass(frozen=True, kw_only=True)
class SiteFile:
    """A site file that was read, and where its relative paths start."""

    site: Site
    folder: Path
    """The folder that the file lies in, absolute."""
    path: Path
    """The file, as it was named."""

    @property
    def data(self) -> Path:
        """Folder for the database, clips and snapshots, absolute."""
        return self.resolve(self.site.data)

    @property
    def database(self) -> Path:
        """The database, absolute."""
        return self.data / "vad.db"

    def bundle_of(self, stream: StreamSettings) -> Path:
        """Return the absolute path of a stream's bundle."""
        return self.resolve(stream.bundle or self.site.bundle or "")

    def resolve(self, path: str) -> Path:
        """Return the absolute form of a path in the file."""
        return self.folder / home_expanded(path)


def read_site(
    path: str | Path, *, secrets: bool = True, environment: Mapping[str, str] | None = None
) -> SiteFile:
    """Read a site file.

    Args:
        path: The file.
        secrets: Fill in the references of passwords, tokens and addresses. Without, a `Secret`
            holds what stands in the file: for commands that reach no camera and no sink.
        environment: Variables for references; None = the process's.

    Raises:
        InputError: The file cannot be read.
        ConfigError: It holds a mistake; the line names the first, and how many follow.
    """
    file, mistakes = parse_site(path, secrets=secrets, environment=environment)
    if file is None:
        more = len(mistakes) - 1
        rest = f" (and {more} more; vad-run check {path} lists them)" if more else ""
        raise ConfigError(line_of(Path(path), mistakes[0]) + rest)
    return file


def parse_site(
    path: str | Path, *, secrets: bool = True, environment: Mapping[str, str] | None = None
) -> tuple[SiteFile | None, list[Mistake]]:
    """Read a site file and return it, or all that is wrong with it in the order of its lines.

    Args:
        path: The file.
        secrets: As for `read_site`.
        environment: As for `read_site`.

    Raises:
        InputError: The file cannot be read.
        ConfigError: It is no YAML.
    """
    path = Path(path)
    tree = tree_from_yaml(_content(path), str(path))
    folder = path.absolute().parent

    def fill(text: str) -> str:
        return resolved(text, folder, environment)

    converter = Converter(fill, secrets=secrets)
    site = converter.settings(tree, Site)
    _check(converter, secrets=secrets)
    if isinstance(site, Site) and not converter.mistakes:
        return SiteFile(site=site, folder=folder, path=path), []
    return None, sorted(converter.mistakes, key=lambda mistake: mistake.line)


def named_bundles(path: Path) -> list[Path]:
    """Return the bundles that a site file names whatever else is wrong with it, absolute.

    Raises:
        InputError: The file cannot be read.
        ConfigError: It is no YAML.
    """
    folder = path.absolute().parent
    converter = Converter(lambda text: resolved(text, folder, None))
    converter.settings(tree_from_yaml(_content(path), str(path)), Site)
    named = (getattr(settings, "bundle", None) for settings in converter.built.values())
    return list(dict.fromkeys(folder / home_expanded(name) for name in named if name))


def line_of(path: Path, mistake: Mistake) -> str:
    """Return a mistake as a line for people."""
    where = f"{mistake.path}: " if mistake.path else ""
    end = "" if mistake.text.endswith((".", "?")) else "."
    return f"{path}:{mistake.line}: {where}{mistake.text}{end}"


def _content(path: Path) -> bytes:
    try:
        # A pipe or a device in the file's place must not make us wait for ever.
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file. Give the path of a site file.")
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Give the path of a site file.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise InputError(f"{path} cannot be read ({reason}). Check its rights.") from None


def _check(converter: Converter, *, secrets: bool) -> None:
    """Note what is wrong beyond types: what contradicts something else, or could never work."""
    refuse, lines, built = converter.refuse, converter.lines, converter.built
    site_wide = "bundle" in lines and getattr(built.get(""), "bundle", None) != ""
    streams = [path.partition(".")[2] for path in lines if re.match(r"streams\.[^.]+\Z", path)]
    for where, settings in built.items():
        if isinstance(settings, Site) and not settings.data.strip():
            refuse("data", "is empty. Name a folder")
        elif isinstance(settings, EngineSettings):
            _check_engine(settings, converter)
        elif isinstance(settings, StreamSettings):
            own = f"{where}.bundle" in lines and settings.bundle != ""
            if not own and not site_wide:
                refuse(where, "no bundle. Add bundle: here, or at the top for all streams")
            _check_source(settings, where, converter, secrets=secrets)
        elif isinstance(settings, SinkSettings):
            _check_sink(settings, where, converter, secrets=secrets)
            for name in settings.streams or []:
                if name not in streams:
                    have = ", ".join(streams[:8])
                    text = f"no stream {name[:60]!r} here. Use some of: {have}"
                    refuse(f"{where}.streams", text)


def _check_engine(engine: EngineSettings, converter: Converter) -> None:
    # `fake` is for tests.
    names = [name for name in backend_names() if name != "fake"]
    if engine.backend not in ("auto", "fake", *names):
        text = f"no back end is called that. Use auto or one of: {', '.join(names)}"
        converter.refuse("engine.backend", text)
    if _DEVICE.match(engine.device) is None:
        converter.refuse("engine.device", "is no device. Use auto, cpu, cuda or cuda:1")


def _check_source(
    stream: StreamSettings, where: str, converter: Converter, *, secrets: bool
) -> None:
    if not secrets:
        return
    from vad_runtime.sources.address import address_from_text

    try:
        address = address_from_text(stream.source.reveal())
    except InputError as error:
        converter.refuse(f"{where}.source", str(error))
        return
    if stream.loop and address.live:
        converter.refuse(f"{where}.loop", "only a recording can start over. Remove it")
    if stream.decoder in ("nvdec", "gstreamer") and not address.live:
        text = "is of cameras; a recording is decoded in software. Remove it"
        converter.refuse(f"{where}.decoder", text)


def _check_sink(sink: SinkSettings, where: str, converter: Converter, *, secrets: bool) -> None:
    if isinstance(sink, MailSettings):
        _check_mail(sink, where, converter)
    elif isinstance(sink, WebhookSettings):
        _check_webhook(sink, where, converter, secrets=secrets)
    elif isinstance(sink, MqttSettings):
        _check_mqtt(sink, where, converter)
    elif isinstance(sink, LinesSettings) and not sink.file.strip():
        converter.refuse(f"{where}.file", "is empty. Name a file")


def _check_login(
    host: str, user: Secret | None, password: Secret | None, where: str, converter: Converter
) -> None:
    if not host.strip() or any(c.isspace() or c in "/@" for c in host):
        converter.refuse(f"{where}.host", "is no host. Write a name or an address alone")
    lines = converter.lines  # what is there and wrong is told already
    if password is not None and f"{where}.user" not in lines:
        converter.refuse(f"{where}.password", "a password without user. Add user")
    if user is not None and f"{where}.password" not in lines:
        converter.refuse(f"{where}.user", "a user without password. Add password")


def _check_mail(sink: MailSettings, where: str, converter: Converter) -> None:
    _check_login(sink.host, sink.user, sink.password, where, converter)
    if _MAIL.match(sink.sender) is None:
        converter.refuse(f"{where}.sender", "is no address. Write one like vad@example.org")
    for i, to in enumerate(sink.to):
        if _MAIL.match(to) is None:
            converter.refuse(f"{where}.to[{i}]", "is no address. Write one like me@example.org")
    if sink.tls == "none" and sink.password is not None and sink.host not in _HERE:
        text = "none would send the password for everybody to read. Use starttls or tls"
        converter.refuse(f"{where}.tls", text)


def _check_webhook(
    sink: WebhookSettings, where: str, converter: Converter, *, secrets: bool
) -> None:
    url = sink.url.reveal()
    if secrets and re.match(r"https?://[^\s/]+[^\s]*\Z", url) is None:
        converter.refuse(f"{where}.url", "is no address. Write one that starts with https://")
    for name, value in sink.headers.items():
        if _HEADER.match(name) is None or any(c in value.reveal() for c in "\r\n\0"):
            converter.refuse(f"{where}.headers", f"{name[:40]!r} is no header. Correct it")


def _check_mqtt(sink: MqttSettings, where: str, converter: Converter) -> None:
    _check_login(sink.host, sink.user, sink.password, where, converter)
    for key, topic in (("topic", sink.topic), ("discovery", sink.discovery)):
        if topic is not None and (not topic.strip("/") or set(topic) & set("+#")):
            converter.refuse(f"{where}.{key}", "is no topic. Write one without + and #")
