"""C++'s Manifest and Bundle against Python's: what is read, and what is refused in which words."""

import copy
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers_core_probe import WHOLE, as_64_bits, asked

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import Manifest
from vad_runtime.contracts.errors import BundleError
from vad_runtime.contracts.manifest import manifest_from_json

_FEATURES = {
    **WHOLE,
    "score": {"per": "segment", "form": "mil", "count": 32},
    "features": {
        **{"segments": 32, "size": 2048, "normalise": True, "modality": "two"},
        "made_by": "i3d",
    },
}
_PORTABLE = {**WHOLE, "clip": {**WHOLE["clip"], "resizer": "portable"}}
_VALUES: list[Any] = [
    *(None, True, 0, 1, 2, -1, 3.0, 2.5, 0.0, -0.5, 1e5, 2**40, 10**25, "", "x", "fp32", "frame"),
    *(65535, 65536),
    *("fast", "portable", "segment", "bilinear", "model.onnx", "onnx", [], ["a"], {}, {"a": 1}),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _spoilt(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield manifests with one fault (or none): a key less, a key more, another value."""
    for path in _places(whole):
        for value in [*_VALUES, KeyError, "more"]:
            changed = copy.deepcopy(whole)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            if value is KeyError:
                del holder[path[-1]]
            elif value == "more" and isinstance(holder, dict):
                holder["unheard_of"] = 1
            else:
                holder[path[-1]] = value
            yield changed


def _summary(manifest: Manifest) -> dict[str, Any]:
    """Return what core_probe prints of a manifest."""
    whole = msgspec.to_builtins(manifest)
    clip, score = whole["clip"], whole["score"]
    clip["colour"] = ("gray", "rgb").index(clip["colour"])
    clip["resizer"] = ("exact", "fast", "portable").index(clip["resizer"])
    clip["interpolation"] = ("area", "bilinear").index(clip["interpolation"])
    clip["span"] = manifest.clip.span
    clip["clip_bytes"] = math.prod(manifest.clip.clip_shape)
    score["per"] = ("frame", "clip", "segment").index(score["per"])
    artefact_keys = ("file", "sha256", "bytes", "precision", "made_from")
    artefacts = {
        short: {key: entry[key] for key in artefact_keys}
        for short, entry in whole["artefacts"].items()
    }
    kept = {key: as_64_bits(whole[key]) for key in ("family", "name", "outputs", "scoring", "plan")}
    return {
        **kept,
        **{"clip": clip, "score": score, "artefacts": artefacts},
        "takes_features": manifest.features is not None,
        "bf16_allowed": (manifest.parity or {}).get("bf16_allowed") is True,
    }


def _holds_large(value: Any) -> bool:
    """Whether a whole number is in it that Python takes and C++ refuses, or reads as a double."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return any(map(_holds_large, items))
    return isinstance(value, int) and abs(value) > 2**31


@pytest.mark.parametrize(
    "whole", [WHOLE, _FEATURES, _PORTABLE], ids=["clips", "features", "portable"]
)
def test_a_manifest_with_one_fault_is_refused_in_the_same_words(whole: dict[str, Any]) -> None:
    cases = [whole, *_spoilt(whole)]
    texts = [json.dumps(case).encode() for case in cases]
    answers = asked([{"do": "manifest", "hex": text.hex()} for text in texts])
    accepted = 0
    for case, text, answer in zip(cases, texts, answers, strict=True):
        try:
            expected = _summary(manifest_from_json(text, "manifest.json"))
        except BundleError as error:
            assert "error" in answer, text
            if not _holds_large(case):
                words = str(error).replace(
                    "Upgrade with: pip install -U vad-edge", "Install a newer vad-edge."
                )
                assert answer["error"] == words
            continue
        if "error" in answer and _holds_large(case):
            continue
        accepted += 1
        assert answer.get("answer") == expected, (case, answer)
    assert accepted > 100


def test_what_is_no_manifest_is_refused() -> None:
    texts = [b"", b"[]", b"3", b"{", b"{}", b'{"schema": "1"}', b'{"schema": 2}', b"\xff"]
    for text, answer in zip(
        texts, asked([{"do": "manifest", "hex": t.hex()} for t in texts]), strict=True
    ):
        with pytest.raises(BundleError) as refused:
            manifest_from_json(text, "manifest.json")
        assert answer["error"].split(" (")[0][:40] == str(refused.value).split(" (")[0][:40]


def test_a_bundle_is_refused_in_the_same_words(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def spoilt(name: str) -> Path:
        return Path(shutil.copytree(tiny_bundle.path, tmp_path / name))

    def renamed(folder: Path, file: str) -> Path:
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"model.onnx"', json.dumps(file)))
        return folder

    changed, longer, missing, linked = map(spoilt, ("a.vad", "b.vad", "c.vad", "d.vad"))
    content = bytearray((changed / "model.onnx").read_bytes())
    content[-1] ^= 1
    (changed / "model.onnx").write_bytes(content)
    with (longer / "model.onnx").open("ab") as file:
        file.write(b"x")
    (missing / "model.onnx").unlink()
    (linked / "model.onnx").rename(tmp_path / "elsewhere")
    (linked / "model.onnx").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-file" / "manifest.json").mkdir(parents=True)
    leaving = [
        renamed(spoilt(f"e{i}.vad"), name)
        for i, name in enumerate(["../x", "/etc/passwd", "..", ".", "", "a/b", "x/", "a" * 256])
    ]
    paths = [f"{tiny_bundle.path}//./", *map(str, [changed, longer, missing, linked, *leaving])]
    paths += [str(tmp_path / name) for name in ("file", "empty", "nothing", "no-file")]
    cases = [(path, verify) for path in paths for verify in (True, False)]
    answers = asked([{"do": "bundle", "path": p, "verify": v} for p, v in cases])
    for (path, verify), answer in zip(cases, answers, strict=True):
        expected: dict[str, Any]
        try:
            bundle = Bundle.open(path, verify=verify)
        except BundleError as error:
            expected = {"error": str(error)}
        else:
            files = [str(bundle.file(entry)) for entry in bundle.manifest.artefacts.values()]
            expected = {"answer": {"path": str(bundle.path), "name": bundle.name, "files": files}}
        assert answer == expected
    assert sum("answer" in answer for answer in answers) == 5  # the rest was refused
