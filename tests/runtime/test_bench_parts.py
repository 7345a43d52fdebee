"""What `vad-run bench` is made of: statistics, conditions of the machine, answers, charts."""

import math
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers import manifest

from vad_runtime.bench.answers import Answers
from vad_runtime.bench.charts import bars, distribution, over_time, thinned, ticks_of
from vad_runtime.bench.conditions import (
    Load,
    Watch,
    clocks,
    limits,
    load,
    other_cores,
    peak_rss_bytes,
)
from vad_runtime.bench.inputs import noise
from vad_runtime.bench.latencies import misses, ms_text, summary, thirds
from vad_runtime.bench.lines import digits_of, drift_line, target_line
from vad_runtime.contracts.errors import BackendError

# -- latencies -----------------------------------------------------------------------------------


def test_percentiles_are_measured_values_and_the_largest_is_kept_whole() -> None:
    values = [*range(1, 101), 1e9]
    found = summary(values)
    assert found["count"] == 101
    assert found["p50_ms"] == 51
    assert found["p95_ms"] == 96
    assert found["p99_ms"] == 100
    assert found["max_ms"] == 1e9
    assert found["min_ms"] == 1


def test_with_few_clips_p99_is_the_largest() -> None:
    assert summary([1.0, 2.0, 50.0])["p99_ms"] == 50.0


def test_jitter_is_the_mean_step_and_spread_goes_from_p5_to_p95() -> None:
    found = summary([1.0, 4.0, 2.0, 2.0])
    assert found["jitter_ms"] == pytest.approx((3 + 2 + 0) / 3)
    assert found["spread_ms"] == 3.0
    assert summary([7.0])["jitter_ms"] == 0
    assert summary([]) == {"count": 0}


def test_misses_say_how_many_the_longest_run_and_when() -> None:
    values = [1, 9, 1, 9, 9, 9, 1, 9.0, 5.0]
    found = misses(values, [i / 10 for i in range(9)], 5.0)
    assert found["count"] == 5
    assert found["clips"] == [1, 3, 4, 5, 7]
    assert found["share"] == pytest.approx(5 / 9)
    assert found["longest_run"] == 3
    assert found["longest_run_at_s"] == pytest.approx(0.3)
    assert found["at_s"] == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.7])
    assert found["met"] is False


def test_a_target_is_met_where_one_clip_in_a_hundred_misses_it() -> None:
    starts = np.arange(200.0)
    assert misses([9.0, 9.0, *[1.0] * 198], starts, 5.0)["met"] is True
    assert misses([9.0, 9.0, 9.0, *[1.0] * 197], starts, 5.0)["met"] is False
    assert misses([1.0] * 200, starts, 5.0)["longest_run_at_s"] is None


def test_a_device_that_gets_slower_is_told_and_an_even_one_is_not() -> None:
    starts = np.linspace(0, 6, 30)
    slower = thirds([10.0] * 10 + [11.0] * 10 + [12.0] * 10, starts)
    assert slower is not None
    assert slower["slower"] is True
    assert slower["ratio"] == pytest.approx(1.2)
    even = thirds([10.0] * 10 + [11.0] * 10 + [10.9] * 10, starts)
    assert even is not None
    assert even["slower"] is False
    assert thirds([1.0] * 8, np.linspace(0, 60, 8)) is None


def test_a_run_too_short_for_heat_says_nothing_of_it() -> None:
    values = [10.0] * 10 + [11.0] * 10 + [12.0] * 10
    assert thirds(values, np.linspace(0, 4.9, 30)) is None


def test_clips_that_only_waited_are_told_from_a_slower_clock() -> None:
    slower, even = ({"ratio": r, "slower": r > 1.1} for r in (1.3, 1.01))
    slower |= {"first_third_ms": 10.0, "last_third_ms": 13.0}
    assert "too hot" in drift_line(slower, slower)
    assert "too hot" in drift_line(slower)
    line = drift_line(slower, even)
    assert "too hot" not in line
    assert "wait for other processes (their processor time: +1.0%)" in line


def test_moments_are_told_apart_and_those_of_several_streams_once() -> None:
    assert [digits_of(moments) for moments in ([0.0, 1.5], [0.0, 0.0021], [0.0, 1e-9])] == [2, 3, 6]
    starts = [0.0, 0.0, 0.0021, 1.5, 1.6]
    values = [9.0, 9.0, 1.0, 9.0, 1.0]
    target = misses(values, starts, 5.0) | {"so_far": False}
    line = target_line(target, summary(values), "clip of 2 due at once")
    assert line.startswith("target 5 ms, clip of 2 due at once: MISSED; 3 of 5 clips over it")
    assert line.endswith("longest run 2 from 0.00 s on; at 0.00 (2 clips), 1.50 s")


def test_moments_in_a_line_have_one_precision_that_those_left_out_do_not_raise() -> None:
    starts = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 7.0, 7.00001, 7.00002]
    values = [9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 9.0, 9.0]
    target = misses(values, starts, 5.0) | {"so_far": False}
    line = target_line(target, summary(values), "x")
    assert line.endswith("from 7.00000 s on; at 0.00000, 0.20000, 0.40000, 7.00000, 7.00001, … s")
    far = misses(values, [*starts[:7], 8.0, 8.00001], 5.0) | {"so_far": False}
    line = target_line(far, summary(values), "x")
    assert line.endswith("from 7.00 s on; at 0.00, 0.20, 0.40, 7.00, 8.00, … s")


def test_short_times_have_digits_that_count() -> None:
    assert [ms_text(value) for value in (1234.5678, 1.0, 0.0, 0.2163, 0.0512, -0.0512)] == [
        "1234.57",
        "1.00",
        "0.00",
        "0.216",
        "0.0512",
        "-0.0512",
    ]


# -- answers -------------------------------------------------------------------------------------


def test_an_answer_that_is_not_finite_is_refused() -> None:
    with pytest.raises(BackendError, match="not finite"):
        Answers(1e-4, "openvino").check(0, np.array([1.0, math.nan], np.float32))


def test_an_answer_that_differs_from_the_first_of_its_clip_is_refused() -> None:
    answers = Answers(1e-2, "openvino")
    answers.check(0, np.array([100.0, 0.0], np.float32))
    answers.check(1, np.array([7.0, 7.0], np.float32))
    answers.check(0, np.array([100.0, 0.9], np.float32))  # a share of the clip's largest
    assert answers.largest == pytest.approx(0.009)
    with pytest.raises(BackendError, match="another score for the same clip"):
        answers.check(0, np.array([100.0, 1.1], np.float32))


def test_the_first_answer_is_kept_though_its_array_is_used_again() -> None:
    answers = Answers(1e-4, "openvino")
    scores = np.array([1.0], np.float32)
    answers.check(0, scores)
    scores[0] = 2.0
    with pytest.raises(BackendError, match="another score"):
        answers.check(0, scores)


def test_noise_is_the_same_every_time_and_differs_from_clip_to_clip() -> None:
    one, two = noise(manifest()), noise(manifest())
    assert one[0].shape == (1, *manifest().input_shape)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], one[1])


# -- conditions ----------------------------------------------------------------------------------


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def cpu(root: Path, number: int, governor: str, now_khz: int) -> None:
    folder = root / f"sys/devices/system/cpu/cpu{number}"
    write(folder / "cpufreq/scaling_governor", governor)
    write(folder / "cpufreq/scaling_cur_freq", now_khz)
    write(folder / "cpufreq/cpuinfo_max_freq", 3_000_000)
    write(folder / "thermal_throttle/core_throttle_count", 4)


def test_clocks_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    cpu(tmp_path, 0, "powersave", 1_000_000)
    cpu(tmp_path, 1, "performance", 2_000_000)
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", 48_500)
    write(tmp_path / "sys/class/thermal/thermal_zone1/temp", "not now")
    found = clocks(tmp_path)
    assert found.governors == ["performance", "powersave"]
    assert found.current_mhz == 1500
    assert found.highest_mhz == 3000
    assert found.hottest_c == 48.5
    assert found.throttled == {"core throttled": 8}


def test_a_machine_that_tells_nothing_has_no_clocks(tmp_path: Path) -> None:
    found = clocks(tmp_path)
    assert found.governors == []
    assert found.current_mhz is None
    assert found.throttled == {}


def test_throttling_during_the_run_is_a_warning(tmp_path: Path) -> None:
    cpu(tmp_path, 0, "performance", 1_000_000)
    fan, cooling = (tmp_path / f"sys/class/thermal/cooling_device{i}" for i in (0, 1))
    for folder, kind in ((fan, "pwm-fan"), (cooling, "Processor")):
        write(folder / "type", kind)
        write(folder / "cur_state", 0)
    watch = Watch(threads=2, root=tmp_path)
    assert watch.report()["warnings"] == []
    write(fan / "cur_state", 3)
    assert watch.report()["warnings"] == []
    write(cooling / "cur_state", 2)
    write(tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 9)
    report = watch.report()
    assert report["throttled"] == {"core throttled": 5, "Processor": 2}
    assert report["throttled_from_the_start"] == {}
    (line,) = report["warnings"]
    assert "held back during the run: core throttled +5, Processor +2" in line


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("Processor", True),
        ("thermal-cpufreq-0", True),
        ("devfreq-17000000.gpu", True),
        ("cpu-throttle-alert", True),
        ("pwm-fan", False),
        ("TCC Offset", False),
        ("intel_backlight", False),
        ("iwlwifi", False),
    ],
)
def test_a_device_that_is_hot_from_the_start_is_a_warning(
    tmp_path: Path, kind: str, holds: bool
) -> None:
    folder = tmp_path / "sys/class/thermal/cooling_device0"
    write(folder / "type", kind)
    write(folder / "cur_state", 3)
    report = Watch(threads=2, root=tmp_path).report()
    assert report["throttled"] == {}
    assert report["throttled_from_the_start"] == ({kind: 3} if holds else {})
    lines = [f"clocks were held back from the start: {kind} (state 3)"] if holds else []
    assert [line.partition(". ")[0] for line in report["warnings"]] == lines


def test_a_power_clamp_that_is_off_takes_nothing_from_what_holds(tmp_path: Path) -> None:
    for number, state in enumerate((-1, 2)):
        folder = tmp_path / f"sys/class/thermal/cooling_device{number}"
        write(folder / "type", "intel_powerclamp")
        write(folder / "cur_state", state)
    assert clocks(tmp_path).throttled == {"intel_powerclamp": 2}


@pytest.mark.parametrize(
    ("before", "after", "held", "rose"),
    [
        ("0x0", "0x0", {}, {}),
        ("0x50000", "0x50000", {}, {}),  # at some time since it was switched on
        ("0x50005", "0x50005", {"firmware: under-voltage": 1, "firmware: throttled": 1}, {}),
        ("0x0", "0x80008", {}, {"firmware: too warm": 1}),
        ("0x0", "0x20000", {}, {"firmware: frequency capped": 1}),
    ],
)
def test_the_flags_of_a_raspberry_pi_are_told_by_what_they_mean(
    tmp_path: Path, before: str, after: str, held: dict[str, int], rose: dict[str, int]
) -> None:
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(flags, before)
    watch = Watch(threads=2, root=tmp_path)
    write(flags, after)
    report = watch.report()
    assert (report["throttled_from_the_start"], report["throttled"]) == (held, rose)


def test_a_slow_governor_is_a_warning(tmp_path: Path) -> None:
    cpu(tmp_path, 0, "powersave", 1_000_000)
    assert "governor is powersave" in Watch(threads=2, root=tmp_path).report()["warnings"][0]


def test_one_slow_cluster_beside_a_fast_one_is_a_warning(tmp_path: Path) -> None:
    cpu(tmp_path, 0, "performance", 1_000_000)
    cpu(tmp_path, 4, "powersave", 1_000_000)
    (line,) = Watch(threads=2, root=tmp_path).report()["warnings"]
    assert "governor is powersave" in line


def test_a_jetsons_zone_that_always_says_100_degrees_is_left_out(tmp_path: Path) -> None:
    zones = tmp_path / "sys/class/thermal"
    for number, (kind, heat) in enumerate([("CPU-therm", 41_000), ("PMIC-Die", 100_000)]):
        write(zones / f"thermal_zone{number}/type", kind)
        write(zones / f"thermal_zone{number}/temp", heat)
    assert clocks(tmp_path).hottest_c == 41


def test_the_tightest_quota_of_the_groups_around_us_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pods/mine")
    tree = tmp_path / "sys/fs/cgroup"
    write(tree / "pods/cpu.max", "150000 100000")
    write(tree / "pods/mine/cpu.max", "max 100000")
    write(tree / "pods/mine/memory.max", 512 << 20)
    write(tree / "pods/mine/cpu.stat", "usage_usec 5\nthrottled_usec 2000000")
    found = limits(tmp_path)
    assert found.cores == 1.5
    assert found.memory_bytes == 512 << 20
    assert found.throttled_s == 2.0
    assert "allows 1.5 cores" in " ".join(Watch(threads=4, root=tmp_path).report()["warnings"])
    assert Watch(threads=1, root=tmp_path).report()["warnings"] == []


@pytest.mark.parametrize(
    ("quota", "told", "warned"),
    [(150, None, True), (150, 1, False), (200, 3, True), (200, 2, False), (50, 1, False)],
)
def test_a_quota_below_the_threads_of_the_engine_is_a_warning(
    tmp_path: Path, quota: int, told: int | None, warned: bool
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    write(tmp_path / "sys/fs/cgroup/cpu.max", f"{quota}000 100000")
    lines = Watch(threads=8, engine_threads=told, root=tmp_path).report()["warnings"]
    assert [line.rpartition("--threads ")[2] for line in lines] == [str(quota // 100)] * warned


def test_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/7\n2:cpu,cpuacct:/docker/7")
    # In the container the host's path is not there: the limits stand at the top.
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 50_000)
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100_000)
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", 9_223_372_036_854_771_712)
    found = limits(tmp_path)
    assert found.cores == 0.5
    assert found.memory_bytes is None


def test_no_groups_are_no_limits(tmp_path: Path) -> None:
    found = limits(tmp_path)
    assert (found.cores, found.memory_bytes, found.throttled_s) == (None, None, 0.0)


def test_what_others_did_is_what_the_machine_did_beyond_us() -> None:
    before = Load(at_s=0, machine_s=100, own_s=10, average=None)
    after = Load(at_s=10, machine_s=130, own_s=25, average=None)
    assert other_cores(before, after) == pytest.approx(1.5)
    assert other_cores(before, Load(at_s=10, machine_s=None, own_s=25, average=None)) is None


def test_a_machine_that_was_not_quiet_is_a_warning(tmp_path: Path) -> None:
    stat = tmp_path / "proc/stat"
    write(stat, "cpu  100 0 100 9999 50 0 0 0 30 0")
    write(tmp_path / "proc/loadavg", "0.00 0.00 0.00 1/1 1")
    watch = Watch(threads=2, root=tmp_path)
    assert watch.report()["warnings"] == []
    write(stat, "cpu  99100 0 100 9999 50 0 0 0 30 0")
    (warning,) = watch.report()["warnings"]
    assert "other processes kept" in warning


def test_a_machine_that_idles_or_waits_for_a_disk_is_quiet(tmp_path: Path) -> None:
    stat = tmp_path / "proc/stat"
    write(stat, "cpu  100 0 100 1000 50 0 0 0 0 0")
    before = load(tmp_path)
    watch = Watch(threads=2, root=tmp_path)
    write(stat, "cpu  100 0 100 9999999 8888888 0 0 0 0 0")
    assert load(tmp_path).machine_s == before.machine_s
    assert watch.report()["warnings"] == []
    write(stat, "cpu  100 0 100 9999999 8888888 100 200 300 0 0")
    ticks = os.sysconf("SC_CLK_TCK")
    assert load(tmp_path).machine_s == pytest.approx((before.machine_s or 0) + 600 / ticks)


def test_the_peak_of_memory_is_that_of_this_process(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/status", "Name:\tx\nVmHWM:\t    2048 kB")
    assert peak_rss_bytes(tmp_path) == 2048 * 1024
    assert peak_rss_bytes(tmp_path / "nowhere") is None


# -- charts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.3, 0.42, [0.3, 0.35, 0.4])],
)
def test_axes_have_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert ticks_of(low, high) == pytest.approx(ticks)


def test_thinning_loses_no_extreme() -> None:
    values = np.random.default_rng(0).random(50_000)
    values[12_345], values[40_000] = 9.0, -9.0
    kept = thinned(values.tolist(), 1000)
    assert len(kept) <= 1000
    assert {12_345, 40_000} <= set(kept)
    assert kept == sorted(kept)
    assert thinned([1.0, 2.0]) == [0, 1]


@pytest.mark.parametrize("target", [None, 1.0, 5.0, 5000.0])
@pytest.mark.parametrize("count", [1, 2, 5000])
def test_charts_are_well_formed_stay_in_their_frame_and_have_words(
    count: int, target: float | None
) -> None:
    rng = np.random.default_rng(1)
    values = (5 + rng.random(count)).tolist()
    due = np.cumsum(values).tolist()
    for text in (
        over_time(due, values, target),
        distribution(values, target),
        bars([("decode & <resize>", 1.0, 0.9, 1.4), ("window", 0.0, -0.1, 0.0)]),
        bars([("window", 0.5, None, None)]),
    ):
        svg = ET.fromstring(text)
        _, _, width, height = (float(part) for part in svg.attrib["viewBox"].split())
        assert svg.attrib["role"] == "img"
        ids = svg.attrib["aria-labelledby"].split()
        named = {child.attrib["id"]: child.text for child in svg if "id" in child.attrib}
        assert all(named[name] for name in ids)
        for path in svg.iter("path"):
            for move in path.attrib["d"].split("M")[1:]:
                x, y = move.replace("H", " ").replace("V", " ").replace("h", " ").split()[:2]
                assert 0 <= float(x) <= width
                y = y.partition("v")[0].partition("l")[0]
                assert 0 <= float(y) <= height


def test_clips_over_the_target_are_crosses_and_not_only_another_colour() -> None:
    svg = ET.fromstring(over_time([0.0, 1.0, 2.0], [1.0, 9.0, 1.0], 5.0))
    crosses = [path for path in svg.iter("path") if path.attrib["class"] == "miss"]
    # One in the plot, one in the legend.
    assert [path.attrib["d"].count("l6 6m0-6l-6 6") for path in crosses] == [1, 1]
    words = [text.text for text in svg.iter("text")]
    assert {"meets the target", "over the target"} <= set(words)
    assert "over the target" not in over_time([0.0, 1.0], [1.0, 9.0], None)


def test_the_words_of_a_target_stand_outside_of_what_is_drawn() -> None:
    values = [9.0, 9.1, 9.2, 9.3]
    for target in (9.0, 9.15, 9.3):
        for text in (over_time([0.0, 1.0, 2.0, 3.0], values, target), distribution(values, target)):
            (words,) = (t for t in ET.fromstring(text).iter("text") if t.get("class") == "told")
            (frame,) = (p for p in ET.fromstring(text).iter("path") if p.get("class") == "axis")
            top = float(frame.attrib["d"].partition("V")[0].split()[1])
            assert float(words.attrib["y"]) < top


@pytest.mark.parametrize("target", [0.1, 3.0, 9.0, 9.9])
def test_the_words_of_an_upright_target_stand_at_its_line(target: float) -> None:
    svg = ET.fromstring(distribution([0.1, 9.0, 9.1, 9.9], target))
    (words,) = (text for text in svg.iter("text") if text.get("class") == "told")
    (line,) = (path for path in svg.iter("path") if path.get("class") == "target")
    place = float(line.attrib["d"][1:].split()[0])
    assert abs(float(words.attrib["x"]) - place) <= 5
    assert (words.attrib["text-anchor"] == "end") == (place > 200)
