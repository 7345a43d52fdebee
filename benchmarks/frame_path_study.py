"""CPU time of a frame from the decoder to the clip, for each resizer; and what the choice does.

    python benchmarks/frame_path_study.py VIDEO [BUNDLE SCENE] > docs/results/frame_path.md

VIDEO is real footage; films of both sizes and codecs are made from its first frames. BUNDLE is an
STAE, and SCENE a video of the place that it was trained on, for the drift of its scores.
`--quick` takes few rounds, to see that it works.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ClipSpec
from vad_runtime.detector import Detector
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.native import native_module
from vad_runtime.ring import FrameRing
from vad_runtime.sources import open_source
from vad_runtime.sources.portable import PlanarImage, path_taken, resized_with_numpy
from vad_runtime.sources.resize import planes_from_frame, resized

Pixels = npt.NDArray[np.uint8]
Resize = Callable[[av.VideoFrame], Pixels]
Times = npt.NDArray[np.float64]

QUICK = "--quick" in sys.argv
ROUNDS = 2 if QUICK else 9
SIZES = {"1080p": (1920, 1080, 48), "320x240": (320, 240, 240)}
CODECS = {"H.264": "libx264", "MJPEG": "mjpeg"}
TARGETS: dict[str, ClipSpec] = {
    "112 RGB": ClipSpec(frames=16, height=112, width=112, colour="rgb"),
    "224 RGB": ClipSpec(frames=16, height=224, width=224, colour="rgb"),
    "128 grey": ClipSpec(frames=16, height=128, width=128, colour="gray"),
}
DECODE = "decode only"
SWSCALE = "swscale area (`fast`)"


def write_film(path: Path, footage: Path, size: tuple[int, int, int], codec: str) -> None:
    """Encode the first frames of real footage at another size."""
    width, height, count = size
    h264 = codec == "libx264"
    options = {"preset": "medium", "crf": "23", "g": "50"} if h264 else {"q:v": "4"}
    with av.open(str(footage)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if h264 else "yuvj420p"
        for i, frame in enumerate(islice(source.decode(video=0), count)):
            image = frame.reformat(width, height, stream.pix_fmt, interpolation="BICUBIC")
            image.pts, image.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(image))
        out.mux(stream.encode())


def frames_of(path: Path) -> Iterator[av.VideoFrame]:
    """Decode a film in this thread alone, so that its time is counted, and counted once."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def resizers(spec: ClipSpec) -> dict[str, Resize]:
    """Return each way to a frame of a spec."""
    with_resizer = {name: changed(spec, resizer=name) for name in ("exact", "fast", "portable")}
    found: dict[str, Resize] = {
        "OpenCV (`exact`)": lambda frame: resized(frame, with_resizer["exact"]),
        SWSCALE: lambda frame: resized(frame, with_resizer["fast"]),
        "portable, NumPy": lambda frame: resized_with_numpy(
            planes_from_frame(frame), with_resizer["portable"]
        ),
    }
    module = native_module()
    for simd in module.usable_simd() if module is not None else ():
        found[f"portable, native {simd}"] = compiled(spec, simd)
    return found


def compiled(spec: ClipSpec, simd: str) -> Resize:
    """Return the compiled resizer for one instruction set."""
    module = native_module()
    assert module is not None
    resizer = module.Resizer(spec.height, spec.width, spec.colour, spec.interpolation, simd)

    def resize(frame: av.VideoFrame) -> Pixels:
        image: PlanarImage = planes_from_frame(frame)
        out = np.empty(spec.frame_shape, np.uint8)
        resizer(image.format, list(image.planes), image.matrix, image.full_range, out)
        return out

    return resize


def changed(spec: ClipSpec, **fields: str) -> ClipSpec:
    """Return the spec with other fields."""
    return msgspec.structs.replace(spec, **fields)


def measured(path: Path, spec: ClipSpec) -> dict[str, Times]:
    """Return for each way the CPU ms a frame, a row a round: all, and of that resizing."""
    ways: dict[str, Resize | None] = {DECODE: None, **resizers(spec)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    pictures: dict[str, Pixels] = {}
    ring = FrameRing(spec.frames, spec.frame_shape)
    rng = np.random.default_rng(0)
    for turn in range(ROUNDS + 1):  # the first round warms up
        for name in rng.permutation(list(ways)):
            way = ways[name]
            resizing = 0.0
            count = 0
            start = time.process_time()
            for frame in frames_of(path):
                count += 1
                if way is None:
                    continue
                before = time.process_time()
                pixels = way(frame)
                resizing += time.process_time() - before
                ring.push(pixels)
            took = time.process_time() - start
            if turn:
                times[name].append((took / count, resizing / count))
            if way is not None:
                pictures[name] = pixels.copy()
    require_one_picture(pictures)
    return {name: np.array(values) * 1e3 for name, values in times.items()}


def require_one_picture(pictures: dict[str, Pixels]) -> None:
    """Stop where a way is fast because it does something else."""
    want = pictures["portable, NumPy"].astype(int)
    for name, pixels in pictures.items():
        gap = np.abs(pixels - want)
        assert gap.max() == 0 or "portable" not in name, name
        assert gap.mean() < 6, (name, gap.mean())


def tables(footage: Path) -> None:
    """Print a table for each film."""
    with tempfile.TemporaryDirectory() as folder:
        for size, (width, height, count) in SIZES.items():
            for codec, encoder in CODECS.items():
                path = Path(folder) / f"{size}.{'mp4' if encoder == 'libx264' else 'avi'}"
                write_film(path, footage, (width, height, count), encoder)
                found = {name: measured(path, spec) for name, spec in TARGETS.items()}
                print(f"\n## {size}, {codec}\n")
                heads = " | ".join(f"to {name}: all | resize | x swscale" for name in found)
                print(f"| | {heads} |\n|---|{'---|' * 3 * len(found)}")
                for way in next(iter(found.values())):
                    row = " | ".join(cells(table, way) for table in found.values())
                    print(f"| {way} | {row} |")


def cells(table: dict[str, Times], way: str) -> str:
    """Return the three cells of one way and target; ratios are those of the rounds."""
    whole, resizing = np.median(table[way], axis=0)
    if way == DECODE:
        return f"{whole:.2f} | - | -"
    ratios = table[SWSCALE][:, 1] / table[way][:, 1]
    low, median, high = np.percentile(ratios, [10, 50, 90])
    return f"{whole:.2f} | {resizing:.3f} | {median:.2f} ({low:.2f}-{high:.2f})"


def drift(bundle: Bundle, scene: Path) -> None:
    """Print how far a model's scores move with the resizer."""
    trained = bundle.manifest.clip
    variants = {
        "exact, bilinear": changed(trained, resizer="exact", interpolation="bilinear"),
        "exact, area": changed(trained, resizer="exact", interpolation="area"),
        "fast, area": changed(trained, resizer="fast", interpolation="area"),
        "portable, bilinear": changed(trained, resizer="portable", interpolation="bilinear"),
        "portable, area": changed(trained, resizer="portable", interpolation="area"),
    }
    scores = {name: scores_of(bundle, scene, spec) for name, spec in variants.items()}
    mine = f"{trained.resizer}, {trained.interpolation}"
    want = scores[mine]
    print(f"""
## What the choice does to scores

`{bundle.manifest.name}`, {trained.height} x {trained.width} {trained.colour}, made for `{mine}`:
{len(want)} scored frames of {scene.name}, the scene that it was trained on; OpenVINO fp32. Mean and
largest difference from its own resizer, as a share of the spread (10 to 90 %) of its scores.

| resizer | mean | largest | Spearman |
|---|---|---|---|""")
    low, high = np.percentile(want, [10, 90])
    for name, values in scores.items():
        gap = np.abs(values - want) / (high - low)
        rank = float(spearmanr(values, want).statistic)
        print(f"| {name} | {gap.mean():.2%} | {gap.max():.2%} | {rank:.4f} |")


def scores_of(bundle: Bundle, scene: Path, spec: ClipSpec) -> npt.NDArray[np.float64]:
    """Return the raw scores of a video's frames, whatever is scored first."""
    manifest = msgspec.structs.replace(bundle.manifest, clip=spec)
    choice = open_backend(bundle, "openvino", Options(precision="fp32"))
    with closing(choice.backend):
        source = open_source(scene, spec, pictures=False)
        found = Detector(manifest, choice.backend).run(source.frames(), nominal_fps=source.info.fps)
        return np.array([frame.raw for frame in found if frame.raw is not None])


def main() -> None:
    """Print the page."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    footage = Path(arguments[0])
    facts = machine_facts()
    versions = ", ".join(f"{k} {v}" for k, v in library_versions().items())
    ffmpeg = ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavcodec", "libswscale")
    )
    print(f"""# From the decoder to the clip

CPU time in ms a frame (all threads of the process; one decoder thread), median of {ROUNDS} rounds
in shuffled order in one process. *All* is decoding, resizing and the ring; *resize* is the part
from the decoder's picture to model size; *x swscale* is how many times faster that part is than
`fast`: the median of the rounds' ratios, with their 10-90 %. Films are the first frames of
{footage.name}, scaled to their size: a resizer's time does not hang on what is in them, a
decoder's does. Read the ratios.

* Made on {date.today().isoformat()} with
  `python benchmarks/frame_path_study.py VIDEO BUNDLE SCENE`{", --quick" if QUICK else ""}
* {facts["cpu"]}, {facts["usable_threads"]} threads, portable resizer: {path_taken()}; Python
  {facts["python"]}, {versions}, {ffmpeg}""")
    tables(footage)
    print("""
The push into the ring is a copy of a frame of model size, and a small part of *all*. Resizing
straight into the ring would save no more than that.""")
    if len(arguments) == 3:
        drift(Bundle.open(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    main()
