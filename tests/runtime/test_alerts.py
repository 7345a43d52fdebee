"""The log hears of an alarm at once, also where it cannot be stored."""

import sqlite3
from pathlib import Path

import pytest
from helpers_servers import change, until

from vad_runtime.live.alerts import Alerts
from vad_runtime.site_file import read_site

SITE = "bundle: a.vad\nstreams: {gate: {source: a.mp4}}\nsinks: {log: {kind: jsonl, file: e.jsonl}}"


def test_an_alarm_that_cannot_be_stored_is_on_the_log_at_once_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.store.database.BUSY_S", 0.02)
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "data").mkdir()
    lines: list[str] = []
    file = read_site(tmp_path / "site.yaml")
    alerts = Alerts(file, say=lines.append, open_events=list, statuses=list)
    alerts.start()
    blocker = sqlite3.connect(file.database, isolation_level=None)
    try:
        until(lambda: alerts.parts()[0].ok)
        alerts.put(change(1))
        until(lambda: (tmp_path / "e.jsonl").exists())
        blocker.execute("BEGIN IMMEDIATE")
        alerts.put(change(1, "ended"))
        until(lambda: not alerts.parts()[0].ok)
        alerts.put(change(2))
        assert lines[-1].startswith("gate: ALARM since")
        assert "NO ALERT GOES OUT: events are not stored since" in lines[-1]
        assert any("NO ALERTS GO OUT" in line for line in lines[:-1])
        blocker.execute("ROLLBACK")
        until(lambda: len((tmp_path / "e.jsonl").read_text().splitlines()) == 3)
    finally:
        blocker.close()
        alerts.close(1.0)
    assert sum("ALARM since" in line for line in lines) == 2
    assert sum("alarm over" in line for line in lines) == 1
    alerts.put(change(3))
    assert lines[-1].endswith("NO ALERT GOES OUT: it is lost")
