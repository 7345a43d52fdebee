import csv
import gc
import importlib.util
import json
import math
import sys
import weakref
from pathlib import Path

import av
import numpy as np
import pytest

from vad_runtime import sinks
from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.detector import ScoredFrame
from vad_runtime.events import Event
from vad_runtime.sinks import Row, RowWriter, open_overlay, overlay, plot, read_rows, save_plot
from vad_runtime.sources.base import Frame, SourceInfo

FULL = Path("/dev/full")
SCORING = Scoring(threshold=1.0)


def row(frame, score=0.5, *, alarm=False, status="scored", offline=None, time_s=None):
    return Row(
        frame=frame,
        time_s=frame / 25 if time_s is None else time_s,
        raw=score,
        score=score,
        alarm=alarm,
        status="warm-up" if score is None and status == "scored" else status,
        offline=offline,
    )


def scored(index, score=0.5, *, size=(320, 240), alarm=False, status="scored", time_s=None):
    picture = np.full((size[1], size[0], 3), 128, np.uint8)
    frame = Frame(
        index=index,
        pts_s=index / 25 if time_s is None else time_s,
        pixels=picture[:8, :8],
        picture=lambda: picture,
    )
    return ScoredFrame(frame=frame, raw=score, score=score, alarm=alarm, status=status)


def info(width, height):
    return SourceInfo(
        name="x", kind="video file", codec="h264", width=width, height=height, fps=25.0, frames=None
    )


def film(path, frames, *, size=(320, 240), scoring=SCORING, **settings):
    writer = open_overlay(path, info(*size), scoring, **settings)
    for frame in frames:
        writer.write(frame)
    writer.close()
    with av.open(str(path)) as container:
        images = list(container.decode(video=0))
        times = [float(i.pts * i.time_base) for i in images]
        return times, [i.to_ndarray(format="rgb24") for i in images]


def is_red(pixels):
    return bool(np.all((pixels[..., 0] > 170) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)))


# --- rows ---------------------------------------------------------------------------------------


def test_rows_come_back_from_the_csv_as_they_were_written(tmp_path):
    raws = [float(np.float32(x)) for x in (1 / 3, -1e-9, 16777217.0, 3.4e38)]
    rows = [row(i, raw) for i, raw in enumerate(raws)]
    rows.append(row(9, None, alarm=True, time_s=1 / 3))
    writer = RowWriter(tmp_path, live=False)
    for one in rows:
        writer.write(one)
    writer.close()
    back = read_rows(tmp_path / "scores.csv")
    assert [np.float32(r.raw) for r in back[:4]] == [np.float32(r) for r in raws]
    assert back[4].raw is None
    assert back[4].score is None
    assert back[4].alarm
    assert back[4].status == "warm-up"
    assert back[4].time_s == pytest.approx(1 / 3, abs=1e-6)


def test_csv_and_json_lines_hold_the_same_rows_under_the_documented_names(tmp_path):
    writer = RowWriter(tmp_path, live=False, offline=True)
    writer.write(row(3, 1.5, alarm=True, offline=0.25))
    writer.write(row(4, None))
    writer.close()
    with (tmp_path / "scores.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["frame", "time_s", "raw", "score", "offline", "alarm", "status"]
    assert table[1] == ["3", "0.120000", "1.5", "1.5", "0.25", "1", "scored"]
    assert table[2] == ["4", "0.160000", "", "", "", "0", "warm-up"]
    lines = [json.loads(x) for x in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["frame", "time_s", "raw", "score", "alarm", "status", "offline"]
    assert lines[0]["alarm"] is True
    assert lines[1]["offline"] is None


def test_without_the_offline_score_neither_file_mentions_it(tmp_path):
    writer = RowWriter(tmp_path, live=False)
    writer.write(row(0))
    writer.close()
    assert "offline" not in (tmp_path / "scores.csv").read_text()
    assert "offline" not in (tmp_path / "scores.jsonl").read_text()


def test_a_live_row_can_be_read_as_soon_as_it_is_written(tmp_path):
    writer = RowWriter(tmp_path, live=True)
    for i in range(3):
        writer.write(row(i))
        assert len(read_rows(tmp_path / "scores.csv")) == i + 1
        assert (tmp_path / "scores.jsonl").read_text().count("\n") == i + 1
    writer.discard()
    assert len(read_rows(tmp_path / "scores.csv")) == 3


def test_rows_of_a_file_appear_only_when_they_are_complete(tmp_path):
    writer = RowWriter(tmp_path, live=False)
    writer.write(row(0))
    assert not (tmp_path / "scores.csv").exists()
    writer.close()
    writer.close()
    writer.discard()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "scores.jsonl"]


def test_discarded_rows_leave_nothing(tmp_path):
    writer = RowWriter(tmp_path, live=False)
    writer.write(row(0))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("live", [True, False])
def test_scores_that_exist_are_not_overwritten(tmp_path, live):
    (tmp_path / "scores.csv").write_text("precious")
    with pytest.raises(InputError, match=r"scores\.csv exists already"):
        RowWriter(tmp_path, live=live)
    assert (tmp_path / "scores.csv").read_text() == "precious"


@pytest.mark.parametrize("live", [True, False])
def test_a_missing_folder_is_one_line_with_path_and_reason(tmp_path, live):
    with pytest.raises(InputError, match=r"nowhere/scores\.csv.*No such file") as caught:
        RowWriter(tmp_path / "nowhere", live=live)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_rows_on_a_full_disk_are_an_input_error_and_leave_nothing(tmp_path):
    (tmp_path / "scores.jsonl.part").symlink_to(FULL)
    writer = RowWriter(tmp_path, live=False)
    writer.write(row(0))
    with pytest.raises(InputError, match=r"scores\.jsonl.*No space left"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a,b\n", "line 1", "not the header"),
        ("{h}\n0,0.0,x,1,0,scored\n", "line 2", "raw is 'x'"),
        ("{h}\n0,0.0,1,1,0,scored\n1,0.1,1,1,0\n", "line 3", "5 fields instead of 6"),
        ("{h}\n0,0.0,1,1,2,scored\n", "line 2", "alarm is '2'"),
        ("{h}\n0,0.0,1,nan,0,scored\n", "line 2", "not a finite number"),
        ("{h}\n-1,0.0,1,1,0,scored\n", "line 2", "frame is '-1'"),
        ("{h}\n0,,1,1,0,scored\n", "line 2", "time_s is empty"),
        ("{h}\n0,0.0,1,1,0,\n", "line 2", "status is empty"),
        ("{h}\n2,0.0,1,1,0,scored\n2,0.1,1,1,0,scored\n", "line 3", "frame 2 after frame 2"),
        ("{h}\n0,0.0,1,1,0,scored\n1,0.0,1,1,0,sco", "line 3", "incomplete"),
    ],
)
def test_a_malformed_row_is_refused_with_file_and_line(tmp_path, text, where, reason):
    file = tmp_path / "scores.csv"
    file.write_text(text.format(h="frame,time_s,raw,score,alarm,status"))
    with pytest.raises(InputError) as caught:
        read_rows(file)
    assert str(file) in str(caught.value)
    assert where in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_or_binary_scores_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no scores file"):
        read_rows(tmp_path / "binary.csv")


def test_a_row_of_a_scored_frame_has_its_number_time_and_status():
    made = sinks.row_from_scored(scored(7, None, status="damaged", alarm=True))
    assert made == row(7, None, status="damaged", alarm=True)


# --- overlay ------------------------------------------------------------------------------------


def test_the_film_keeps_every_frame_at_its_own_time(tmp_path):
    times = [0.0, 0.04, 0.0811, 0.5, 0.50001, 1.7, 1.74]
    frames = [scored(i, time_s=t) for i, t in enumerate(times)]
    got, images = film(tmp_path / "o.mp4", frames)
    assert got == pytest.approx(times, abs=2e-5)
    assert len(images) == len(times)
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.duration * stream.time_base) == pytest.approx(1.74, abs=0.1)
    content = (tmp_path / "o.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ((320, 240), (640, 480)),
        ((1920, 1080), (960, 540)),
        ((1080, 1920), (540, 960)),
        ((853, 481), (854, 482)),
        ((50, 400), (320, 960)),
        ((1600, 100), (960, 128)),
        ((4, 4), (640, 640)),
        ((3000, 2), (960, 120)),
    ],
)
def test_the_film_is_even_and_readable_at_any_size(tmp_path, source, want):
    frames = [scored(0, 9.0, size=source, alarm=True), scored(1, None, size=source, status="x")]
    _, images = film(tmp_path / "o.mp4", frames, size=source)
    assert images[0].shape == (want[1], want[0], 3)


@pytest.mark.parametrize("source", [(320, 240), (1920, 1080), (1080, 1920), (50, 400), (1600, 100)])
@pytest.mark.parametrize("max_side", [320, 960, 1920])
def test_texts_never_overlap_and_never_leave_the_picture(monkeypatch, tmp_path, source, max_side):
    boxes = []
    real = overlay._write

    def spy(canvas, text, at, cap, colour, room):
        while cap > 5 and overlay._text_width(text, cap) > room:
            cap -= 1
        wide = overlay._text_width(text, cap)
        below = cap // 3 if set(text) & set("gjpqy") else 1
        boxes.append((at[0], at[1] - cap, at[0] + wide, at[1] + below, text))
        real(canvas, text, at, cap, colour, room)

    monkeypatch.setattr(overlay, "_write", spy)
    writer = open_overlay(tmp_path / "o.mp4", info(*source), SCORING, max_side=max_side)
    width, height = writer.size
    for score, status in [(-123.456, "scored"), (1e7, "scored"), (None, "damaged")]:
        boxes.clear()
        writer.write(scored(10**7, score, size=source, alarm=True, status=status, time_s=4e5))
        for i, (left, top, right, bottom, text) in enumerate(boxes):
            assert left >= 0, text
            assert top >= 0, text
            assert right <= width, text
            assert bottom <= height, text
            for other in boxes[:i]:
                apart = left >= other[2] or right <= other[0] or top >= other[3]
                assert apart or bottom <= other[1], (text, other[4])
    writer.discard()


def test_the_border_is_red_during_an_alarm_and_only_then(tmp_path):
    frames = [scored(i, 1.5, alarm=i >= 5) for i in range(10)]
    _, images = film(tmp_path / "o.mp4", frames)
    for i, image in enumerate(images):
        edges = [image[1, 300:], image[-2, :], image[200:, 1], image[:, -2]]
        assert [is_red(edge[5:-5]) for edge in edges] == [i >= 5] * 4


def test_the_bar_is_green_below_the_threshold_and_red_at_it(tmp_path):
    _, images = film(tmp_path / "o.mp4", [scored(0, 0.9), scored(1, 1.0), scored(2, 99.0)])
    left, top, right, bottom = overlay._layout(320, 240, 960).bar
    row_of_bar = (top + bottom) // 2
    assert images[0][row_of_bar, left + 9, 1] > images[0][row_of_bar, left + 9, 0] + 60
    assert is_red(images[1][row_of_bar, left + 9])
    assert not is_red(images[1][row_of_bar, right - 9])
    assert images[2][row_of_bar, right - 8].min() > 150  # the arrow head: off the scale


def test_a_frame_that_the_stride_skips_keeps_the_last_score_and_others_do_not(tmp_path):
    writer = open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    held = []
    for i, (score, status) in enumerate(
        [(None, "warm-up"), (0.7, "scored"), (None, "between"), (None, "damaged")]
    ):
        writer.write(scored(i, score, status=status))
        held.append(writer._held)
    writer.discard()
    assert held == [None, 0.7, 0.7, None]


def test_the_film_goes_on_when_the_picture_changes_its_size(tmp_path):
    frames = [scored(0), scored(1, size=(200, 300)), scored(2, size=(64, 48))]
    times, images = film(tmp_path / "o.mp4", frames)
    assert len(times) == 3
    assert images[1][200, 20].max() < 40  # a margin beside the tall picture
    assert images[2][200, 20].min() > 100


def test_no_frame_is_kept_after_it_was_written(tmp_path):
    class Picture:
        def __call__(self):
            return np.zeros((240, 320, 3), np.uint8)

    picture = Picture()
    frame = Frame(index=0, pts_s=0.0, pixels=np.zeros((8, 8, 3), np.uint8), picture=picture)
    alive = weakref.ref(picture)
    writer = open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    writer.write(ScoredFrame(frame=frame, raw=1.0, score=1.0, alarm=False, status="scored"))
    del frame, picture
    gc.collect()
    assert alive() is None
    writer.discard()


def test_the_curve_forgets_what_is_older_than_ten_seconds(tmp_path):
    writer = open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    for i in range(30):
        writer.write(scored(i, time_s=float(i)))
    assert len(writer._curve) == 11
    writer.discard()


def test_a_film_has_its_name_only_when_it_is_complete(tmp_path):
    writer = open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    writer.write(scored(0))
    assert not (tmp_path / "o.mp4").exists()
    writer.close()
    writer.close()
    writer.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]
    with pytest.raises(ValueError, match="closed"):
        writer.write(scored(1))


@pytest.mark.parametrize("frames", [0, 2])
def test_a_discarded_or_empty_film_leaves_nothing(tmp_path, frames):
    writer = open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    for i in range(frames):
        writer.write(scored(i))
    (writer.discard if frames else writer.close)()
    assert list(tmp_path.iterdir()) == []


def test_a_film_in_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/o\.mp4.*cannot be written.*No such file"):
        open_overlay(tmp_path / "nowhere" / "o.mp4", info(320, 240), SCORING)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_film_on_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path):
    (tmp_path / "o.mp4.part").symlink_to(FULL)
    with pytest.raises(InputError, match="No space left"):
        film(tmp_path / "o.mp4", [scored(i) for i in range(30)])
    assert list(tmp_path.iterdir()) == []


def test_without_libx264_another_encoder_makes_the_film(monkeypatch, tmp_path):
    monkeypatch.setattr(overlay, "ENCODERS", (("no_such", 90_000), ("mpeg4", 60_000)))
    times, images = film(tmp_path / "o.mp4", [scored(i, 1.5, alarm=True) for i in range(5)])
    assert times == pytest.approx([i / 25 for i in range(5)], abs=1e-4)
    assert is_red(images[-1][1, 300:600])


def test_without_any_encoder_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(overlay, "ENCODERS", (("no_such", 90_000),))
    with pytest.raises(InputError, match=r"encoder.*pip install"):
        open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)
    assert list(tmp_path.iterdir()) == []


def test_without_opencv_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "vad_runtime.sinks.overlay")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"vad-edge\[video\]"):
        open_overlay(tmp_path / "o.mp4", info(320, 240), SCORING)


# --- plot ---------------------------------------------------------------------------------------


def bump(i, at, height, width):
    return height * math.exp(-(((i - at) / width) ** 2))


def png(path):
    """Return a PNG's pixels, shape (rows, columns, 3)."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0)],
        [row(i, 0.1 * i) for i in range(3)],
        [row(i, None) for i in range(50)],
        [row(i, 0.0) for i in range(50)],
        [row(i, -3.0 + 0.1 * (i % 7)) for i in range(50)],
        [row(i, math.sin(i) if i % 2 else None, status="between") for i in range(50)],
    ],
    ids=["none", "one", "three", "unscored", "constant", "negative", "stride"],
)
@pytest.mark.parametrize("threshold", [None, 1.5])
def test_any_rows_make_a_plot_of_the_same_size(tmp_path, rows, threshold):
    file = tmp_path / "p.png"
    save_plot(file, rows, Scoring(threshold=threshold), title="t", truth=np.zeros(20, bool))
    assert png(file).shape == (495, 1320, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_an_odd_title_and_label_set_make_no_warning_and_stay_inside(tmp_path):
    file = tmp_path / "p.png"
    rows = [row(i, bump(i, 50, 2, 9)) for i in range(100)]
    truth = np.arange(100) > 60
    odd = "W" * 300 + " \u65e5\u672c $a_b \n"
    save_plot(file, rows, SCORING, title=odd, label_set=odd, truth=truth)
    image = png(file)
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    assert all((edge == 255).all() for edge in edges)


def test_truth_is_shaded_and_alarms_are_a_red_strip(tmp_path):
    rows = [row(i, bump(i, 150, 2, 30), alarm=120 < i < 180) for i in range(300)]
    truth = np.zeros(300, bool)
    save_plot(tmp_path / "plain.png", rows, SCORING, title="t", truth=truth)
    truth[100:200] = True
    save_plot(tmp_path / "truth.png", rows, SCORING, title="t", truth=truth)
    plain, shaded = png(tmp_path / "plain.png"), png(tmp_path / "truth.png")

    def share(image, colour):
        return float(np.mean(np.abs(image[60:420].astype(int) - colour).max(-1) < 12))

    pink = (249, 220, 220)
    assert share(plain, pink) < 0.001
    assert share(shaded, pink) > 0.2
    assert share(plain, (255, 0, 0)) > 0.003
    event = Event(start_frame=0, end_frame=299, start_s=0, end_s=11.9, peak_s=6, peak_score=2)
    save_plot(tmp_path / "event.png", rows, SCORING, title="t", events=[event])
    assert share(png(tmp_path / "event.png"), (255, 0, 0)) > 3 * share(plain, (255, 0, 0))


def test_the_offline_column_has_a_plot_of_its_own(tmp_path):
    rows = [row(i, 0.1, offline=bump(i, 50, 1, 9)) for i in range(100)]
    save_plot(tmp_path / "a.png", rows, SCORING, title="t")
    save_plot(tmp_path / "b.png", rows, SCORING, title="t", column="offline")
    assert (png(tmp_path / "a.png") != png(tmp_path / "b.png")).any()


def test_peaks_are_high_local_maxima_two_seconds_apart():
    heights = {100: 3.0, 130: 2.9, 400: 2.0, 600: 1.5, 800: 0.3, 900: 2.5}
    rows = [row(i, sum(bump(i, a, h, 8) for a, h in heights.items())) for i in range(1000)]
    peaks = plot._peaks(plot._curve(rows, "score"))
    assert peaks == [100, 900, 400, 600]  # 130 is too near to 100, 800 is noise


def test_a_plateau_is_one_peak_and_a_constant_none():
    plateau = [row(i, 2.0 if 100 <= i < 500 else 0.1) for i in range(1000)]
    assert plot._peaks(plot._curve(plateau, "score")) == [100]
    assert plot._peaks(plot._curve([row(i, 1.0) for i in range(99)], "score")) == []


def test_at_most_five_peaks_get_labels_that_do_not_overlap():
    rows = [row(i, sum(bump(i, a, 2, 5) for a in range(700, 1300, 60))) for i in range(2000)]
    peaks = plot._peaks(plot._curve(rows, "score"))
    assert len(peaks) == 5
    at = plot._spread([0.98, 0.985, 0.99, 0.995, 1.0], 0.115)
    assert min(np.diff(at)) >= 0.115 - 1e-9
    assert at[0] > 0
    assert at[-1] < 1


def test_a_hundred_thousand_rows_keep_their_peaks_and_gaps_when_thinned_out():
    rows = [
        row(i, None if 40_000 <= i < 40_500 else 5.0 if i == 33_333 else math.sin(i))
        for i in range(100_000)
    ]
    curve = plot._curve(rows, "score")
    times, values = plot._envelope(*plot._with_gaps(curve))
    assert len(values) < 4 * plot.BINS
    assert np.nanmax(values) == 5.0
    gap = times[np.isnan(values)]
    assert len(gap) == 1
    assert gap[0] == pytest.approx(40_500 / 25)


def test_a_hole_in_time_breaks_the_line_and_a_stride_does_not():
    rows = [row(0), row(1, None, status="between"), row(2), row(3, time_s=9.0), row(4, time_s=9.04)]
    rows += [row(5, None, status="damaged"), row(6, time_s=9.12)]
    _, values = plot._with_gaps(plot._curve(rows, "score"))
    assert np.isnan(values).tolist() == [False, False, True, False, False, True, False]


def test_the_frame_axis_follows_a_variable_frame_rate():
    curve = plot._curve([row(i, time_s=i**1.5) for i in range(10)], "score")
    assert curve.frame_at(4**1.5) == pytest.approx(4)
    assert curve.time_at(curve.frame_at(20.0)) == pytest.approx(20.0)
    assert curve.time_at(curve.frame_at(-5.0)) == pytest.approx(-5.0)


def test_a_plot_that_cannot_be_written_is_an_input_error_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/p\.png.*No such file"):
        save_plot(tmp_path / "nowhere" / "p.png", [row(0)], SCORING, title="t")
    (tmp_path / "p.png").mkdir()
    with pytest.raises(InputError, match=r"p\.png cannot be written"):
        save_plot(tmp_path / "p.png", [row(0)], SCORING, title="t")
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, tmp_path):
    assert sinks.plot_available() == (importlib.util.find_spec("matplotlib") is not None)
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"vad-edge\[plot\]"):
        save_plot(tmp_path / "p.png", [row(0)], SCORING, title="t")


def test_small_scores_are_shown_with_digits_enough_to_tell_them_from_the_threshold():
    assert sinks.rows.score_text(1.234, 1.0) == "1.23"
    assert sinks.rows.score_text(0.00123, 0.004) == "0.0012"
    assert sinks.rows.score_text(123456.0, None) == "1.2e+05"
    assert sinks.rows.score_text(-0.5, 0.0) == "-0.50"
