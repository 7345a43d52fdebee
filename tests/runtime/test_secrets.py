"""References to secrets: what is taken, what is refused, and that nothing shows itself."""

import os
from pathlib import Path

import pytest
from helpers import assert_one_line

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.secrets import (
    has_reference,
    is_secret_header,
    literal_password,
    resolved,
)


def closed_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_reference_takes_the_variable_and_leaves_the_rest(tmp_path: Path) -> None:
    text = resolved("rtsp://u:${PW}@h/${ PW }?a=$1$${b}", tmp_path, {"PW": "x$y{z}"})
    assert text == "rtsp://u:x$y{z}@h/x$y{z}?a=$1${b}"


def test_a_file_is_read_without_its_last_newline_and_from_the_site_files_folder(
    tmp_path: Path,
) -> None:
    closed_file(tmp_path / "gate.key", b" p w \n")
    assert resolved("${file:gate.key}", tmp_path, {}) == " p w "
    assert resolved(f"${{file:{tmp_path}/gate.key}}", Path("/"), {}) == " p w "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_may_use_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, mode: int
) -> None:
    closed_file(tmp_path / "gate.key", b"hunter2", mode)
    with pytest.raises(ConfigError) as caught:
        resolved("${file:gate.key}", tmp_path, {})
    assert_one_line(caught.value, f"mode {mode:o}", "chmod 600", "gate.key")
    assert "hunter2" not in str(caught.value)


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    file = closed_file(tmp_path / "gate.key", b"hunter2")
    os.chown(file, 12345, -1)
    with pytest.raises(ConfigError, match="another user"):
        resolved("${file:gate.key}", tmp_path, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no text"),
        (b"\n", "holds no text"),
        (b"a\0b", "holds no text"),
        (b"\xff\xfe", "no UTF-8"),
        (b"x" * 70_000, "longer than"),
    ],
)
def test_a_file_that_can_hold_no_secret_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    closed_file(tmp_path / "f", content)
    with pytest.raises(ConfigError, match=reason):
        resolved("${file:f}", tmp_path, {})


def test_a_pipe_or_a_folder_in_a_files_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "."):
        with pytest.raises(ConfigError, match=r"is no file|cannot be read"):
            resolved(f"${{file:{name}}}", tmp_path, {})


def test_a_credential_comes_from_systemds_folder_and_from_nowhere_else(tmp_path: Path) -> None:
    closed_file(tmp_path / "gate", b"pw", 0o440)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert resolved("${credential:gate}", Path("/"), environment) == "pw"
    for name in ("../gate", "a/b", ".."):
        with pytest.raises(ConfigError, match="no name of a credential"):
            resolved(f"${{credential:{name}}}", tmp_path, environment)
    with pytest.raises(ConfigError, match="LoadCredential=gate"):
        resolved("${credential:gate}", tmp_path, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${GONE}", "GONE is not set"),
        ("${EMPTY}", "EMPTY is empty"),
        ("${}", "no reference"),
        ("${a b}", "no reference"),
        ("${vault:x}", "no reference"),
        ("${file:}", "no reference"),
        ("${file:gone}", "cannot be read"),
        ("${file:\0}", "cannot be read"),
    ],
)
def test_a_reference_that_cannot_be_filled_is_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(text, tmp_path, {"EMPTY": ""})
    assert_one_line(caught.value, reason)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://user:hunter2@cam/1",
        "rtsp://user:${A}x:hunter2@cam/1?password=hunter2",
        "https://h/hook?token=hunter2&a=${B}",
        "https://h/hook?a=1&access_token=hunter2",
        'gst: rtspsrc location=rtsp://h user-id=u user-pw="hunter2" ! appsink',
        "http://h/video.cgi?user=admin&pwd=hunter2",
        "rtsp://user:$${x}@cam/1",
    ],
)
def test_a_literal_password_is_found_and_not_repeated(text: str) -> None:
    found = literal_password(text)
    assert found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://cam/1",
        "rtsp://user@cam/1",
        "rtsp://user:${PW}@cam/1",
        "rtsp://${USER}:${file:/x@y}@cam/1",
        "https://h/hook?token=${T}&monkey=1",
        "gst: rtspsrc location=rtsp://h user-pw=${PW} ! appsink",
        "clips/a@b:c.mp4",
        "https://h/a:b@c",
    ],
)
def test_an_address_whose_secrets_are_references_is_taken(text: str) -> None:
    assert literal_password(text) is None


def test_what_is_a_reference_and_which_headers_are_secret() -> None:
    assert has_reference("a${B}")
    assert not has_reference("a$${B} $B {B}")
    assert is_secret_header("Authorization")
    assert is_secret_header("X-Api-Key")
    assert not is_secret_header("X-Site")
