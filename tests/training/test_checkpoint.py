"""Checkpoints: ours, the published weights, and files that only look like one."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_one_line

from vad_runtime.contracts import ConfigError, InputError
from vad_training.checkpoint import Checkpoint, checkpoint_from_path, stae_from_weights
from vad_training.checkpoint_file import save_checkpoint
from vad_training.config import StaeConfig, read_config
from vad_training.models.stae import STAE


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return STAE().state_dict()


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        checkpoint_from_path(path)
    assert_one_line(caught.value, *parts)


def assert_holds(opened: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    state = opened.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert not opened.model.training


# -- ours --------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    config = read_config(None, ["clip.frames=8", "optimiser.learning_rate=3e-4"])
    file = tmp_path / "best.pt"
    save_checkpoint(file, {"model": weights(), "summary": {"frames": 7}}, config)
    for path in (file, tmp_path):
        opened = checkpoint_from_path(path)
        assert_holds(opened, weights())
        assert opened.config == config
        assert opened.summary == {"frames": 7}
        assert not opened.published
    assert [f.name for f in tmp_path.iterdir()] == ["best.pt"]


def test_a_failed_save_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"model": weights()}, StaeConfig())
    before = file.read_bytes()

    class Spoilt:
        def __reduce__(self) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        save_checkpoint(file, {"model": weights(), "more": Spoilt()}, StaeConfig())
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_without_best_is_named(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "no best.pt")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    content = {"schema": 2, "config": {}, "model": weights()}
    refused(saved(tmp_path / "new.pt", content), "schema 2", "Upgrade")


def test_a_configuration_of_another_version_is_refused(tmp_path: Path) -> None:
    content = {"schema": 1, "config": {"epoch": 3}, "model": weights()}
    with pytest.raises(ConfigError) as caught:
        checkpoint_from_path(saved(tmp_path / "other.pt", content))
    assert_one_line(caught.value, "other.pt", "epoch")


def test_a_configuration_without_a_model_is_refused(tmp_path: Path) -> None:
    for content in ({"schema": 1, "config": {}}, {"schema": 1, "config": {}, "model": [1]}):
        refused(saved(tmp_path / "x.pt", content), "x.pt", "no model")


# -- published weights -------------------------------------------------------------------------


@pytest.mark.data
def test_the_published_checkpoint_loads_strictly(data: Path) -> None:
    file = data / "stae" / "model_final_checkpoint.pth"
    opened = checkpoint_from_path(file)
    expected = torch.load(file, map_location="cpu", weights_only=True)
    assert len(expected) == 88
    assert_holds(opened, expected)
    assert opened.published
    assert opened.config == StaeConfig()
    assert opened.summary == {"weights": "published: model_final_checkpoint.pth"}
    assert {t.device.type for t in opened.model.state_dict().values()} == {"cpu"}


def test_weights_of_data_parallel_are_the_same_weights(tmp_path: Path) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in weights().items()}
    assert_holds(checkpoint_from_path(saved(tmp_path / "parallel.pth", prefixed)), weights())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    state = weights()
    del state["encoder.4.weight"]
    refused(saved(tmp_path / "x.pth", state), "misses encoder.4.weight", "1 missing, 0 unknown")


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    state = weights() | {"head.weight": torch.zeros(1)}
    refused(saved(tmp_path / "x.pth", state), "unknown head.weight", "0 missing, 1 unknown")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = weights() | {"encoder.0.weight": torch.zeros(32, 3, 3, 3, 3)}
    refused(
        saved(tmp_path / "x.pth", state),
        "encoder.0.weight is (32, 3, 3, 3, 3), not (32, 1, 3, 3, 3)",
    )


def test_a_value_in_the_place_of_a_tensor_is_named(tmp_path: Path) -> None:
    state: dict[str, Any] = weights() | {"encoder.0.bias": [0.0] * 32}
    refused(saved(tmp_path / "x.pth", state), "encoder.0.bias is list")


def test_loading_takes_copies(tmp_path: Path) -> None:
    state = weights()
    model = stae_from_weights(state, "here")
    with torch.no_grad():
        state["encoder.0.bias"].fill_(7)
    assert not torch.equal(model.state_dict()["encoder.0.bias"], state["encoder.0.bias"])


# -- other files -------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "was-run"
    file = tmp_path / "bomb.pth"
    content = {"encoder.0.weight": Bomb(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    refused(file, "bomb.pth is no PyTorch checkpoint")
    assert not mark.exists()
    file.write_bytes(pickle.dumps(content))
    refused(file, "bomb.pth is no PyTorch checkpoint")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"epochs: 3\n",
        b"\x80",
        b"\x80\x02",
        b"\x80\x04K\x01.",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(1000),
        b"(lp0\n",
        b".",
        b"0" * 50,
    ],
)
def test_a_file_of_another_kind_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    refused(file, "x.pth")


def test_a_zip_without_weights_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "x.pth", "no PyTorch checkpoint")


def test_half_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.pth", weights())
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        refused(file, "x.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {0: torch.zeros(3)}, 5])
def test_values_without_names_are_refused(tmp_path: Path, content: object) -> None:
    refused(saved(tmp_path / "x.pth", content), "x.pth holds no weights by name")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pth", "nothing.pth cannot be read", "No such file")
