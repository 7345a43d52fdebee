"""The report as one HTML page that needs nothing else: no script, no font, no picture."""

import html
from collections.abc import Iterator
from typing import Any

from vad_runtime.bench.charts import bars, distribution, over_time
from vad_runtime.bench.latencies import ms_text
from vad_runtime.bench.lines import (
    COLUMNS,
    STAGE_COLUMNS,
    STAGES,
    conditions_line,
    early_line,
    energy_lines,
    findings,
    inputs_line,
    machine_line,
    path_lines,
    rows_of,
    stage_cells,
    verdicts,
)
from vad_runtime.bench.paths import WHOLE

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2126; --soft: #5b6570; --rule: #d5dae0;
  --main: #1f6fb2; --bad: #b3261e; --card: #f5f7f9 }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e6e9ec; --soft: #a3adb7;
  --rule: #39414a; --main: #6db3ea; --bad: #ff8a80; --card: #1d2226 } }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1em; max-width: 72em;
  background: var(--back); color: var(--text); overflow-wrap: anywhere }
h1 { font-size: 1.35em; margin: .2em 0 } h2 { font-size: 1.05em; margin: 0 0 .4em }
p { margin: .3em 0 } .soft { color: var(--soft) }
.verdict { font-size: 1.1em; font-weight: 600; padding: .5em .7em; margin: .7em 0;
  border-left: .35em solid var(--main); background: var(--card) }
.verdict.bad, .warning { border-left: .35em solid var(--bad) }
.warning { padding: .4em .7em; margin: .4em 0; background: var(--card) }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24em), 1fr));
  gap: 1em }
section { border: 1px solid var(--rule); border-radius: .4em; padding: .8em; min-width: 0 }
.wide { grid-column: 1 / -1 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  overflow-wrap: normal }
th, td { text-align: right; font-weight: inherit; padding: .25em .5em;
  border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child { text-align: left }
.facts { overflow-wrap: anywhere } .facts td { text-align: left; vertical-align: top }
.facts td:first-child { color: var(--soft); width: 1%; white-space: nowrap }
details { margin-top: .5em } summary { color: var(--soft); cursor: pointer }
ul { margin: 0; padding-left: 1.2em } table + ul { margin-top: .6em }
svg { width: 100%; height: auto; display: block } svg text { font: 11px system-ui, sans-serif;
  fill: var(--soft) } svg text.told { fill: var(--bad) }
@media (max-width: 30em) { svg text { font-size: 14px } }
.grid { stroke: var(--rule); fill: none } .axis { stroke: var(--soft); fill: none }
.target { stroke: var(--bad); stroke-dasharray: 6 4; fill: none }
.dots { stroke: var(--main); stroke-width: 5; stroke-linecap: round; fill: none; opacity: .8 }
.miss { stroke: var(--bad); stroke-width: 1.6; fill: none }
.line { stroke: var(--main); stroke-width: 2; fill: none } .bar { fill: var(--main); opacity: .5 }
.whisker { stroke: var(--text); stroke-width: 1.5; fill: none }
"""


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    title = html.escape(f"{report['bundle']} on {report['machine']['cpu']}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(report["bundle"])}: {html.escape(report["model"])}</h1>
<p class="soft">{html.escape(report["device"])}<br>measured {html.escape(report["made"])}</p>
{"".join(_head(report))}
<main>
{chr(10).join(_sections(report))}
</main>
</body>
</html>
"""


def _head(report: dict[str, Any]) -> Iterator[str]:
    if report["interrupted"]:
        yield f'<p class="verdict bad">{html.escape(early_line(report))}.</p>'
    for good, line in verdicts(report):
        yield f'<p class="verdict{"" if good else " bad"}">{html.escape(line)}</p>'
    for warning in report["conditions"]["warnings"]:
        yield f'<p class="warning">{html.escape(warning)}.</p>'


def _sections(report: dict[str, Any]) -> Iterator[str]:
    raw = report["raw"]
    target = None if report["target"] is None else report["target"]["target_ms"]
    yield _section("Latency", _latencies(report))
    yield _section("Over time", over_time(raw["due_s"], raw["latency_ms"], target))
    yield _section("Distribution", distribution(raw["latency_ms"], target))
    path = report["path"]
    if path is not None:
        yield _section("Stages: processor time, ms a clip", _stages(path))
    yield _section("What else", _list(findings(report)))
    yield _section("Energy", _energy(report["energy"]))
    yield _section("The machine", _facts(report), "wide")


def _section(title: str, body: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{html.escape(title)}</h2>{body}</section>'


def _list(lines: Any) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _energy(energy: dict[str, Any]) -> str:
    """Return what the sensors say, and folded up why this machine has no others."""
    absent = [f"{name}: {energy['unavailable'][name]}" for name in energy["absent"]]
    folded = f"<details><summary>what is not here</summary>{_list(absent)}</details>"
    return _list(energy_lines(energy)) + (folded if absent else "")


def _latencies(report: dict[str, Any]) -> str:
    """Return the table, a column for each kind of latency: that fits a telephone."""
    kinds = list(rows_of(report))
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name, _ in kinds)
    rows = []
    for title, key in COLUMNS.items():
        cells = "".join(f"<td>{ms_text(values[key])}</td>" for _, values in kinds)
        rows.append(f'<tr><th scope="row">{title}, ms</th>{cells}</tr>')
    counts = "".join(f"<td>{values['count']}</td>" for _, values in kinds)
    rows.append(f'<tr><th scope="row">clips</th>{counts}</tr>')
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _stages(path: dict[str, Any]) -> str:
    """Return the bars, what their lines mean, the table and what the whole path takes."""
    several = path["rounds"] > 1
    rows = []
    for name in (*STAGES, WHOLE):
        cpu = path["stages"][name]["cpu_ms_a_clip"]
        rows.append((name, cpu["p50"], *((cpu["p10"], cpu["p90"]) if several else (None, None))))
    rounds = f"{path['rounds']} rounds"
    words = (
        f"A bar is the median of {rounds}, the line on it goes from their 10th to their 90th "
        "percentile."
        if several
        else "A bar is what one round took: there is no spread."
    )
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in STAGE_COLUMNS)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in stage_cells(path)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{bars(rows)}<p class="soft">{words}</p>{table}{_list(path_lines(path))}'


def _facts(report: dict[str, Any]) -> str:
    rows = {
        "machine": machine_line(report).partition(": ")[2],
        "conditions": conditions_line(report["conditions"]).partition(": ")[2],
        "input": inputs_line(report).partition(": ")[2],
        **{
            name: str(report["machine"][name])
            for name in ("driver", "cuda", "l4t")
            if name in report["machine"]
        },
        "Python": str(report["machine"]["python"]),
        "versions": ", ".join(f"{name} {v}" for name, v in report["versions"].items()),
    }
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f'<table class="facts"><tbody>{body}</tbody></table>'
