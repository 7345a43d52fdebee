"""The C++ core against its Python twin: scores, alarms and whole runs are equal to the last bit."""

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from helpers_core_probe import WHOLE, asked

from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.contracts import Manifest, Scoring
from vad_runtime.contracts.manifest import manifest_from_json
from vad_runtime.detector import Detector
from vad_runtime.events import AlarmState
from vad_runtime.scoring import CausalScorer
from vad_runtime.sinks.rows import RowWriter, row_from_scored
from vad_runtime.sources.base import Frame, no_picture


def _random_scoring(rng: random.Random) -> dict[str, Any]:
    return {
        "offset": rng.choice([0.0, rng.uniform(-1, 1) * 100]),
        "scale": rng.choice([1.0, rng.uniform(0.01, 80)]),
        "smoothing": rng.choice(["none", "mean", "median"]),
        "window": rng.choice([1, 2, 3, 7, 8, 9, 16, 100, 128, 129, 300, 1000]),
        "threshold": rng.choice([None, 0.0, -0.5, 0.5, rng.uniform(-2, 2)]),
        "release": rng.choice([1.0, 0.9, 0.5, 1e-3]),
        "min_duration_s": rng.choice([0.0, 0.1, 0.2, 0.5]),
    }


def _hex_with(scoring: dict[str, Any]) -> str:
    return json.dumps({**WHOLE, "scoring": scoring}).encode().hex()


def test_scores_are_the_same_to_the_last_bit() -> None:
    rng = random.Random(9)
    scorings = [_random_scoring(rng) for _ in range(60)]
    steps: list[list[float | None]] = [
        [
            None if rng.random() < 0.002 else rng.choice([rng.gauss(0, 100), -0.0, 1e-300, 0.1])
            for _ in range(rng.choice([20, 1500]))
        ]
        for _ in scorings
    ]
    cases = [
        {"do": "scores", "hex": _hex_with(scoring), "steps": raw}
        for scoring, raw in zip(scorings, steps, strict=True)
    ]
    for scoring, raw, answer in zip(scorings, steps, asked(cases), strict=True):
        scorer = CausalScorer(msgspec.convert(scoring, Scoring))
        expected = []
        for value in raw:
            if value is None:
                scorer.reset()
            else:
                expected.append(scorer.update(value))
        assert msgspec.json.encode(answer["answer"]) == msgspec.json.encode(expected), scoring


def test_alarms_are_the_same() -> None:
    rng = random.Random(10)
    scorings = [_random_scoring(rng) for _ in range(200)]
    steps: list[list[Any]] = [
        [
            None if rng.random() < 0.03 else [i, i / 10, rng.choice([0.5, 0.45, rng.gauss(0, 1)])]
            for i in range(100)
        ]
        for _ in scorings
    ]
    cases = [
        {"do": "alarms", "hex": _hex_with(scoring), "steps": sequence}
        for scoring, sequence in zip(scorings, steps, strict=True)
    ]
    events = 0
    for scoring, sequence, answer in zip(scorings, steps, asked(cases), strict=True):
        alarm = AlarmState(msgspec.convert(scoring, Scoring))
        for step, (event, active) in zip(sequence, answer["answer"], strict=True):
            ended = alarm.end() if step is None else alarm.update(*step)
            assert event == (None if ended is None else asdict(ended))
            assert active == alarm.active
            events += ended is not None
    assert events > 500


class _Sums:
    """As SyntheticBackend of runtime/native/tests/synthetic.hpp."""

    device = "synthetic"

    def __init__(self, manifest: Manifest) -> None:
        self._score = manifest.score

    def infer(self, clips: Inputs) -> Outputs:
        sums = clips[0].reshape(clips.shape[1], -1).sum(axis=1, dtype=np.uint64)
        if self._score.per == "clip":
            return {"score": np.array([sums.sum()]).astype(np.float32) / np.float32(7)}
        scores = sums.astype(np.float32) / np.float32(7)
        return {"score": scores[None, self._score.first :][:, : self._score.count]}

    def close(self) -> None:
        """Nothing to close."""


def _random_run(rng: random.Random, folder: Path) -> dict[str, Any]:
    frames, stride = rng.randint(1, 7), rng.randint(1, 3)
    first = rng.randrange(frames)
    height, width = rng.choice([(2, 3), (3, 5), (32, 32), (64, 64)])
    clip: dict[str, Any] = {"frames": frames, "stride": stride, "hop": stride * rng.randint(1, 9)}
    clip |= {"height": height, "width": width, "colour": rng.choice(["gray", "rgb"])}
    score: dict[str, Any] = {"per": "clip", "form": "sum"}
    if rng.random() < 0.6:
        score |= {"per": "frame", "first": first, "count": rng.randint(1, frames - first)}
    mean = 127.5 * height * width * (3 if clip["colour"] == "rgb" else 1) / 7
    mean *= frames if score["per"] == "clip" else 1
    scoring = _random_scoring(rng) | {"offset": mean, "scale": mean / 20}
    index, pts_s, stream = -1, 0.0, []
    for _ in range(rng.randint(0, 80)):
        index += 1 if rng.random() < 0.95 else rng.randint(2, 5)
        pts_s += 0.04 if rng.random() < 0.96 else rng.choice([0.3, 0.5, 0.51, 2.0])
        hole = None if rng.random() < 0.96 else rng.choice(["reconnected", "frozen picture", ""])
        damaged = rng.random() < (0.03 if hole is None else 0.3)
        stream.append({"index": index, "pts_s": pts_s, "hole": hole, "damaged": damaged})
    return {
        "do": "run",
        "hex": json.dumps({**WHOLE, "clip": clip, "score": score, "scoring": scoring})
        .encode()
        .hex(),
        "hop": rng.choice([None, stride * rng.randint(1, 9)]),
        "fps": rng.choice([None, 25.0, 5.0]),
        "folder": str(folder),
        "frames": stream,
    }


def _picture(index: int, shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """As synthetic_byte() of runtime/native/tests/synthetic.hpp."""
    bytes_ = (index * 31 + np.arange(math.prod(shape)) * 7) % 256
    return bytes_.astype(np.uint8).reshape(shape)


def test_whole_runs_give_the_same_rows_events_and_counters(tmp_path: Path) -> None:
    rng = random.Random(11)
    cases = []
    for number in range(150):
        for kind in ("cpp", "python"):
            (tmp_path / f"{kind}{number}").mkdir()
        cases.append(_random_run(rng, tmp_path / f"cpp{number}"))
    rows = events = 0
    for number, (case, answer) in enumerate(zip(cases, asked(cases), strict=True)):
        manifest = manifest_from_json(bytes.fromhex(case["hex"]), "manifest.json")
        detector = Detector(manifest, _Sums(manifest), hop=case["hop"])
        stream = [
            Frame(
                **kept,
                pixels=_picture(kept["index"], manifest.clip.frame_shape),
                picture=no_picture,
            )
            for kept in case["frames"]
        ]
        folder = tmp_path / f"python{number}"
        writer = RowWriter(folder, live=True)
        for scored in detector.run(stream, nominal_fps=case["fps"]):
            writer.write(row_from_scored(scored))
        writer.close()
        for name in ("scores.csv", "scores.jsonl"):
            expected = (folder / name).read_bytes()
            assert (tmp_path / f"cpp{number}" / name).read_bytes() == expected, case
            rows += expected.count(b"scored")
        counters = asdict(detector.counters)
        del counters["skipped_clips"]
        done = answer["answer"]
        assert done.pop("events") == [asdict(event) for event in detector.events]
        assert done == counters
        events += len(detector.events)
    assert rows > 2000
    assert events > 50


def test_a_hop_that_is_no_multiple_of_the_stride_is_refused(tmp_path: Path) -> None:
    case = _random_run(random.Random(1), tmp_path) | {"hop": 3, "hex": _hex_with({})}
    [answer] = asked([case])
    assert answer["error"].startswith("hop must be a positive multiple of stride 2, got 3")
