"""The sound files that fuzz_inputs.py spoils, made once a run."""

import json
from pathlib import Path

SECRET = "hunter2-not-to-be-seen"
SITE = """\
# A site with a bit of everything.
name: depot
data: data
bundle: tiny.vad
engine: {backend: auto, precision: fp32, threads: 1}
streams:
  gate: &camera
    source: rtsp://user:${PASSWORD}@127.0.0.1:1/stream
    hop: 2
    target_ms: 160
    policy: widen-hop
    events: {threshold: 1.5, min_duration_s: 0.4, merge_s: 2, cooldown_s: 10}
    watchdog: {connect_s: 2}
  yard:
    <<: *camera
    source: tiny.mp4
    loop: true
media: {pre_s: 2, post_s: 2, scores: csv}
retention: {clips_gb: 1, days: 30}
sinks:
  post:
    kind: webhook
    url: https://example.org/hook?token=${PASSWORD}
    headers: {Authorization: "${PASSWORD}"}
  people:
    kind: mail
    host: mail.example.org
    sender: vad@example.org
    to: [me@example.org, you@example.org]
    user: vad
    password: ${PASSWORD}
  home: {kind: mqtt, host: broker, streams: [gate]}
  lines: {kind: jsonl, file: events.jsonl}
health: {port: 0}
"""


def make_seeds(folder: Path) -> None:
    """Write the sound files that the targets spoil."""
    from helpers import artefact, manifest, motion_model, moving_blob, write_audio, write_video
    from helpers import clip_spec as spec

    from vad_runtime.bundle import write_bundle

    graph = motion_model(folder / "motion.onnx", spec())
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    write_bundle(folder / "tiny.vad", about, {"fp32": graph})
    videos = folder / "videos"
    videos.mkdir()
    for name, codec in _VIDEOS:
        images = moving_blob(24, height=48, width=64)
        write_video(videos / f"blob-{codec}.{name}", images, codec=codec, fps=25)
    write_audio(videos / "sound.wav", 0.1)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    images = moving_blob(24, height=48, width=64)
    write_video(videos / "fragments.mp4", images, container_options=fragments)
    frames = folder / "frames"
    frames.mkdir()
    import av
    import cv2

    stills = [cv2.imencode(".jpg", image)[1].tobytes() for image in moving_blob(12)]
    (videos / "stills.mjpeg").write_bytes(b"".join(stills))
    for i, image in enumerate(moving_blob(3, height=48, width=64)):
        for suffix in ("png", "jpg"):
            av.VideoFrame.from_ndarray(image, format="rgb24").save(str(frames / f"{i}.{suffix}"))
    _seed_texts(folder)
    _seed_database(folder / "vad.db")


_VIDEOS = (
    *(("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264")),
    *(("h264", "libx264"), ("mpg", "mpeg2video"), ("flv", "flv"), ("mov", "mpeg4")),
)


def _seed_texts(folder: Path) -> None:
    import numpy as np

    from vad_runtime.labels import read_labels
    from vad_runtime.site_file import read_site

    (folder / "site.yaml").write_text(SITE)
    read_site(folder / "site.yaml", environment={"PASSWORD": SECRET})
    labels = {
        "schema": 1,
        "label_set": "test",
        "fps": 15.0,
        "videos": {"a/b.mp4": {"frames": 60, "anomalies": [{"first": 3, "last": 9, "kind": "x"}]}},
    }
    (folder / "labels.json").write_text(json.dumps(labels))
    read_labels(folder / "labels.json")
    (folder / "features").mkdir()
    values = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    np.save(folder / "features" / "a.npy", values)
    np.savetxt(folder / "features" / "b.txt", values)
    np.savetxt(folder / "features" / "c.csv", values, delimiter=",")
    (folder / "status.json").write_bytes(_status())


def _status() -> bytes:
    import msgspec

    from vad_runtime.live.status import EngineStatus, PartStatus, SiteStatus, StageStatus
    from vad_runtime.live.status import StreamStatus as Stream

    now = 1_800_000_000.0
    gate = Stream(
        name="gate",
        source="rtsp://***@10.0.0.3/",
        bundle="tiny.vad",
        state="lost",
        state_since_s=now - 100,
        state_reason="no route to host",
        holes={"reconnected": 2},
        dropped={"late clip": 3},
        latency=StageStatus(count=10, p50_ms=4, p95_ms=9),
        target_ms=160,
        threshold=1.0,
        score=0.5,
        recent=[None, 0.1, 0.5, 1.2] * 30,
        events=2,
        last_event_s=now - 7,
    )
    part = PartStatus(name="store", kind="store", ok=True, details={"kept_bytes": 1e9})
    engine = EngineStatus(bundle="tiny.vad", device="CPU", streams=["gate"])
    whole = SiteStatus(
        site="depot",
        version="0.1.0",
        pid=1,
        started_s=now - 1e6,
        now_s=now,
        ok=False,
        troubles=["gate is lost"],
        streams=[gate],
        engines=[engine],
        parts=[part],
    )
    return bytes(msgspec.json.encode(whole))


def _seed_database(path: Path) -> None:
    from vad_runtime.live.base import EventChange, EventRecord
    from vad_runtime.store.writer import StoreWriter

    store = StoreWriter(path, lambda _: ["mail", "hook"], say=lambda _: None)
    for i in range(20):
        event = EventRecord(
            id=f"019{i:05d}-0000-7000-8000-000000000000",
            site="depot",
            stream="gate" if i % 2 else "yard",
            start_s=1.8e9 + i,
            end_s=None,
            peak_s=1.8e9 + i,
            peak_score=1.5,
            threshold=1.0,
            reason="score of tiny.vad",
            start_frame=i,
            end_frame=None,
            snapshot=f"snapshots/{i}.jpg",
            clip=f"clips/{i}.mp4",
        )
        store.put(EventChange(kind="started", event=event))
    store.close()
