"""What several tests share. Import it as `helpers` (pyproject.toml puts `tests/` on the path).

Real data  `real_data`
Videos     `moving_blob`, `write_video`, `write_raw_h264`, `write_audio`, `decoded_count`
Frames     `frame`, `frame_stream`, `ListSource`
Manifests  `clip_spec`, `manifest`, `artefact`
Models     `motion_model` (a real ONNX graph that keeps the contract)
Errors     `assert_one_line`
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.contracts import Artefact, ClipSpec, Manifest, ScoreSpec, Scoring
from vad_runtime.sources import Frame, SourceInfo, SourceStats

Image = npt.NDArray[np.uint8]


# -- real data ---------------------------------------------------------------------------------


def real_data() -> Path | None:
    """Return the folder of the real data, None where it is not; fails under VAD_REQUIRE_DATA=1."""
    here = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("VAD_DATA") or here.parent / "shared" / "data")
    if folder.is_dir():
        return folder
    assert os.environ.get("VAD_REQUIRE_DATA") != "1", f"no real data at {folder}; set VAD_DATA"
    return None


# -- videos ------------------------------------------------------------------------------------


def moving_blob(
    count: int = 60, *, height: int = 120, width: int = 160, seed: int = 0
) -> Iterator[Image]:
    """Yield RGB images, shape (height, width, 3): a textured square crosses a noisy wall."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(60, 120, (height, width, 3), np.uint8)
    side = height // 4
    blob = rng.integers(0, 255, (side, side, 3), np.uint8)
    for i in range(count):
        image = wall.copy()
        left, top = 2 * i % (width - side), height // 3
        image[top : top + side, left : left + side] = blob
        yield image


def write_video(
    path: Path,
    images: Iterable[Image],
    *,
    fps: int = 15,
    codec: str = "libx264",
    pts: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB images; `pts` gives each frame's time in units of 1/fps (None = 0, 1, 2, …)."""
    options = {"preset": "veryfast", "threads": "1", "g": "15"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=container_options or {}) as out:
        stream = None
        for i, image in enumerate(images):
            if stream is None:
                stream = out.add_stream(codec, rate=fps, options=options)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                picture.pts = pts[i]
            out.mux(stream.encode(picture))
        assert stream is not None
        out.mux(stream.encode())
    return path


def write_raw_h264(path: Path, *videos: Iterable[Image]) -> Path:
    """Write videos one after another as one H.264 Annex-B stream; each may have its own size."""
    whole = b""
    for i, images in enumerate(videos):
        part = write_video(path.with_name(f"{path.stem}-{i}.h264"), images)
        whole += part.read_bytes()
        part.unlink()
    path.write_bytes(whole)
    return path


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """Write a file that holds sound and no picture."""
    rate = 8000
    samples = np.zeros((1, int(seconds * rate)), np.int16)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        sound.sample_rate = rate
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    return path


def decoded_count(path: Path) -> int:
    """Return how many frames PyAV decodes, without any code of ours."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# -- frames ------------------------------------------------------------------------------------


def frame(
    index: int,
    pixels: Image,
    *,
    fps: float = 25.0,
    pts_s: float | None = None,
    hole: str | None = None,
    damaged: bool = False,
) -> Frame:
    """Return one source frame whose time follows from its index unless given."""
    return Frame(
        index=index,
        pts_s=index / fps if pts_s is None else pts_s,
        pixels=pixels,
        picture=lambda: np.repeat(pixels, 3 // pixels.shape[2], axis=2),
        hole=hole,
        damaged=damaged,
    )


def frame_stream(spec: ClipSpec, count: int, *, seed: int = 0) -> list[Frame]:
    """Return `count` frames of random pixels of the spec's size."""
    rng = np.random.default_rng(seed)
    return [frame(i, rng.integers(0, 256, spec.frame_shape, np.uint8)) for i in range(count)]


class ListSource:
    """A source made of frames that are there already; an exception in the list is raised there."""

    def __init__(self, items: Iterable[Frame | Exception], *, fps: float = 25.0) -> None:
        self._items = items
        self.closed = False
        self.given = 0
        self.stats = SourceStats()
        self.info = SourceInfo(
            name="list", kind="frame folder", codec="none", width=1, height=1, fps=fps, frames=None
        )

    def frames(self) -> Iterator[Frame]:
        """Yield the frames and note that the source was closed."""
        try:
            for item in self._items:
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                self.stats.frames += 1
                yield item
        finally:
            self.closed = True


# -- manifests ---------------------------------------------------------------------------------


def clip_spec(**changes: Any) -> ClipSpec:
    """Return a spec of eight grey 32 x 32 frames, changed as asked."""
    plain: dict[str, Any] = {"frames": 8, "height": 32, "width": 32, "colour": "gray", "hop": 1}
    return ClipSpec(**(plain | changes))


def artefact(**changes: Any) -> Artefact:
    """Return an artefact whose size and hash are still to be filled in."""
    plain: dict[str, Any] = {
        "file": "model.onnx",
        "sha256": "",
        "bytes": 0,
        "format": "onnx",
        "precision": "fp32",
    }
    return Artefact(**(plain | changes))


def manifest(
    *,
    clip: ClipSpec | None = None,
    score: ScoreSpec | None = None,
    scoring: Scoring | None = None,
    artefacts: dict[str, Artefact] | None = None,
) -> Manifest:
    """Return a manifest of a model that scores each frame of its clip."""
    clip = clip or clip_spec()
    return Manifest(
        family="test",
        name="motion",
        clip=clip,
        score=score or ScoreSpec(per="frame", form="motion", count=clip.frames),
        scoring=scoring or Scoring(threshold=0.5, method="set by hand for tests"),
        artefacts=artefacts or {"fp32": artefact()},
    )


# -- models ------------------------------------------------------------------------------------


def motion_model(
    path: Path, clip: ClipSpec, *, output: str = "score", answer: str = "score"
) -> Path:
    """Write an ONNX graph that keeps the contract and does real work.

    Each frame is filtered with a 3 x 3 x 3 convolution; its score is the mean squared difference
    `d` to the clip's mean over time, as ``d / (d + 0.005)``, which lies in 0..1.

    Args:
        path: File to write.
        clip: Form of the input `clip`.
        output: Name of the graph's output.
        answer: `score`; `nan` for a graph whose scores are not finite; `clip` for shape (N,).
    """
    t, h, w, c = clip.clip_shape
    channels = 4
    rng = np.random.default_rng(7)
    weight = rng.normal(0, 1, (channels, c, 3, 3, 3)).astype(np.float32)
    weight /= np.abs(weight).sum(axis=(1, 2, 3, 4), keepdims=True)

    def constant(name: str, value: object, dtype: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, dtype), name)

    over = {"score": [1, 3, 4], "nan": [1, 3, 4], "clip": [1, 2, 3, 4]}[answer]
    shape: list[str | int] = ["N"] if answer == "clip" else ["N", t]
    knee = -1.0 if answer == "nan" else 0.005
    nodes = [
        helper.make_node("Cast", ["clip"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["ncthw"], perm=[0, 4, 1, 2, 3]),
        helper.make_node("Conv", ["ncthw", "weight"], ["filtered"], pads=[1] * 6),
        helper.make_node("ReduceMean", ["filtered", "time"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["filtered", "mean"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "over"], ["d"], keepdims=0),
        helper.make_node("Add", ["d", "knee"], ["below"]),
    ]
    if answer == "nan":
        nodes += [
            helper.make_node("Sub", ["d", "knee"], ["above"]),
            helper.make_node("Neg", ["above"], ["negative"]),
            helper.make_node("Log", ["negative"], [output]),
        ]
    else:
        nodes.append(helper.make_node("Div", ["d", "below"], [output]))
    graph = helper.make_graph(
        nodes,
        "motion",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", t, h, w, c])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            constant("scale", 1 / 255, np.float32),
            numpy_helper.from_array(weight, "weight"),
            constant("time", [2], np.int64),
            constant("over", over, np.int64),
            constant("knee", knee, np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


# -- errors ------------------------------------------------------------------------------------


def assert_one_line(error: BaseException, *parts: str) -> None:
    """Assert that an error's text is one line of readable length and holds each part."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 600, text
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"
