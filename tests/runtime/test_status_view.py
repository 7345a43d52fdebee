"""The table of `vad-run status`: curves, columns that fit, texts that cannot harm a terminal."""

import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from vad_runtime.live.sparkline import LEVELS, sparkline
from vad_runtime.live.status import (
    EngineStatus,
    PartStatus,
    SiteStatus,
    StageStatus,
    StreamStatus,
)
from vad_runtime.live.status_view import View, plain_lines, rich_view, shown, view_of

NOW = 1_800_000_000.0


def stream(name: str = "gate", **changes: Any) -> StreamStatus:
    plain: dict[str, Any] = {
        "name": name,
        "source": "rtsp://***@10.0.0.3/stream",
        "bundle": "stae.vad",
        "state": "live",
        "state_since_s": NOW - 3900,
        "camera_fps": 25.0,
        "scored_fps": 12.5,
        "latency": StageStatus(count=9, p50_ms=41, p95_ms=88),
        "target_ms": 160.0,
        "threshold": 1.0,
        "score": 0.42,
        "recent": [0.1] * 119 + [1.2],
    }
    return StreamStatus(**(plain | changes))


def site(*streams: StreamStatus, **changes: Any) -> SiteStatus:
    plain: dict[str, Any] = {
        "site": "depot",
        "version": "0.1.0",
        "pid": 7,
        "started_s": NOW - 90_000,
        "now_s": NOW,
        "ok": True,
        "streams": list(streams),
        "rss_bytes": 312_000_000,
        "threads": 23,
    }
    return SiteStatus(**(plain | changes))


def on_terminal(status: SiteStatus, width: int, height: int, *, colours: bool = False) -> str:
    text = StringIO()
    console = Console(file=text, width=width, height=height, force_terminal=colours)
    console.print(rich_view(view_of(status, width=width, height=height)))
    return text.getvalue()


# -- curves ----------------------------------------------------------------------------------------


def test_the_two_highest_bars_are_at_the_threshold_or_over_it() -> None:
    values = [0.0, 0.5, 0.999, 1.0, 1.49, 1.5, 99.0]
    drawn = sparkline(values, width=7, threshold=1.0)
    assert drawn == "▁▄▆▇▇██"


def test_a_second_without_a_score_is_a_dot_and_no_bar() -> None:
    assert sparkline([None, 0.0, math.nan], width=5, threshold=1.0) == "  ·▁·"


def test_values_that_share_a_character_show_the_largest_of_them() -> None:
    values = [0.0] * 120
    values[37] = 2.0
    drawn = sparkline(values, width=30, threshold=1.0)
    assert len(drawn) == 30
    assert drawn.count("█") == 1
    assert drawn[37 // 4] == "█"


def test_without_a_threshold_the_largest_value_is_the_full_height() -> None:
    assert sparkline([0.0, 3.5, 7.0], width=3) == "▁▅█"
    assert sparkline([0.0, 0.0], width=2) == "▁▁"


def test_scores_and_thresholds_below_zero_are_drawn() -> None:
    assert sparkline([-4.0, -2.5, -2.0], width=3, threshold=-2.0) == "▁▅▇"
    assert sparkline([1.0], width=1, threshold=-5.0) == "█"


def test_a_terminal_without_utf8_gets_ascii() -> None:
    assert sparkline([None, 0.0, 2.0], width=3, threshold=1.0, ascii_only=True) == " _#"


# -- the table -------------------------------------------------------------------------------------


def test_a_pipe_gets_every_column_and_no_colours() -> None:
    dropped = stream("hall", dropped={"late clip": 12, "queue full": 0}, misses=3)
    lost = stream("yard", state="lost", state_reason="no route to host", connections=4)
    engine = EngineStatus(bundle="stae.vad", device="OpenVINO CPU int8", streams=["a"], busy=0.6)
    media = PartStatus(
        name="media", kind="media", ok=True, details={"kept_bytes": 1.2e9, "cut_off": 0}
    )
    mail = PartStatus(name="people", kind="mail", ok=False, trouble="refused", queued=3)
    status = site(
        *(stream(), dropped, lost), engines=[engine], parts=[media, mail], troubles=["yard is lost"]
    )
    text = "\n".join(plain_lines(view_of(status)))
    assert "\x1b" not in text
    for words in (
        *("depot: all is well", "up 1 d 1 h", "memory 312 MB", "yard is lost"),
        *("0.42 / 1.00", "25.0 / 12.5", "41 / 88 of 160", "1 h 05 min", "last 120 s"),
        *(
            "hall: left out: late clip 12",
            "yard: lost: no route to host (rtsp://***@10.0.0.3/stream)",
        ),
        *("connected 4 times", "stae.vad on OpenVINO CPU int8: 1 stream, busy 60 %"),
        *("media: 0 queued, 0 done, kept 1.2 GB\n", "people (mail): 3 queued, 0 done; refused"),
    ):
        assert words in text
    assert "queue full" not in text  # nothing was lost so


def test_an_alarm_stands_in_place_of_the_state() -> None:
    lines = plain_lines(view_of(site(stream(alarm=True, score=2.0))))
    assert any("ALARM" in line and "2.00 / 1.00" in line for line in lines)


def rows_head(view: View) -> str:
    return next(line for line in plain_lines(view) if line.startswith("stream "))


@pytest.mark.parametrize("width", [30, 60, 80, 100, 132, 200])
def test_the_table_fits_the_terminal_and_keeps_what_matters(width: int) -> None:
    status = site(stream("a-rather-long-name"), stream(alarm=True))
    view = view_of(status, width=width)
    rows = [line for line in plain_lines(view) if "ALARM" in line or "live" in line]
    assert len(rows) == 2
    assert all(len(row) <= width for row in plain_lines(view))
    told = " ".join(plain_lines(view))
    assert all(word in told for word in ("missed", "holes", "since", "process 7"))
    assert ("a wider terminal shows: " in told) == (width < 200)
    assert ("last event" in rows_head(view)) == (width > 30)
    if width >= 80:
        assert all(set(row) & set(LEVELS) for row in rows)  # the curve is still there


def test_what_is_over_the_threshold_is_red() -> None:
    shown_to_user = on_terminal(site(stream()), 120, 30, colours=True)
    assert "\x1b[1;31m" in shown_to_user.split("▁")[-1][:20]


def test_a_low_terminal_shows_troubled_streams_first_and_says_how_many_are_left() -> None:
    many = [stream(f"s{i:02d}") for i in range(40)]
    many[30] = stream("s30", state="refused", state_reason="401")
    many[35] = stream("s35", alarm=True)
    text = on_terminal(site(*many), 100, 24)
    assert len(text.splitlines()) <= 24
    assert "s30" in text
    assert "s35" in text
    assert "more streams" in text


def test_a_site_without_streams_is_shown() -> None:
    assert plain_lines(view_of(site()))[0].startswith("depot: all is well")
    assert "depot" in on_terminal(site(), 80, 24)


def test_texts_of_others_cannot_command_the_terminal_nor_rich() -> None:
    hostile = stream("x", state="lost", state_reason="\x1b[2J[red]a[/red]\nb\u202ec [/]")
    status = site(hostile, troubles=["bell\a"])
    text = on_terminal(status, 200, 50)
    for char in ("\x1b", "\a", "\u202e"):
        assert char not in text
        assert char not in "".join(plain_lines(view_of(status)))
    assert "[red]a[/red] b" in text  # shown as it is, on one line


def test_a_text_without_end_is_cut() -> None:
    assert len(shown("x" * 10_000)) == 300


def test_ascii_view_of_ascii_texts_is_ascii() -> None:
    view = view_of(site(stream(), stream("b", recent=[])), ascii_only=True)
    assert "\n".join(plain_lines(view)).isascii()
