"""The page that int8_fidelity_study.py writes."""

import argparse
from datetime import date
from typing import Any

import numpy as np
from int8_fidelity_cases import BUDGET, METHODS

from vad_runtime.machine import library_versions, machine_facts


def document(results: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the whole document, Markdown."""
    facts = machine_facts()
    versions = ", ".join(f"{k} {v}" for k, v in library_versions().items())
    few = f" --few {args.few}" if args.few else ""
    threads = args.threads or facts["usable_threads"]
    lines = [
        "# What INT8 does to real scores",
        "",
        "INT8 graphs against the same graph in fp32, in OpenVINO on a CPU unless another engine is "
        "named. Spearman, mean error (share of the spread of the fp32 scores) and flips "
        "(decisions at the threshold that differ) are of raw scores. *Check* is training footage "
        "that nothing was calibrated on; the threshold comes from it. *Test* is scored once for "
        "each graph.",
        f"A row holds if Spearman is at least {BUDGET.spearman:g}, the mean error at most "
        f"{BUDGET.mean_error:.0%}, at most {BUDGET.flips:.0%} of the decisions flip, and no AUC "
        f"moves by more than {BUDGET.auc_delta:g}.",
        "",
        f"* Made on {date.today().isoformat()} with "
        f"`python benchmarks/int8_fidelity_study.py DATA --work WORK{few}`",
        f"* {facts['cpu']}, {threads} threads, Python {facts['python']}, {versions}",
        "",
        *_choice(results),
    ]
    for result in results:
        lines += ["", *_section(result)]
    return "\n".join(lines)


def _choice(results: list[dict[str, Any]]) -> list[str]:
    """Return the table of what the check footage says of each method, rest in fp32."""
    rows = [
        "## Choosing the method, on check footage alone",
        "",
        "All default layers, the rest in fp32: Spearman and mean error.",
        "",
        f"| model | {' | '.join(METHODS)} |",
        "|---|" + "---|" * len(METHODS),
    ]
    errors: dict[str, list[float]] = {method: [] for method in METHODS}
    held = dict.fromkeys(METHODS, 0)
    for result in results:
        cells = []
        for method in METHODS:
            found = next(
                row["check"]
                for row in result["rows"]
                if row["graph"].startswith(f"{method}, all") and row["rest"] == "fp32"
            )
            errors[method].append(found["mean_of_spread"])
            held[method] += found["holds"]
            cells.append(f"{found['spearman']:.4f}, {found['mean_of_spread']:.2%}")
        rows.append(f"| {result['name']} | {' | '.join(cells)} |")
    means = [f"{np.exp(np.mean(np.log(np.maximum(e, 1e-9)))):.2%}" for e in errors.values()]
    rows.append(f"| mean error, geometric mean | {' | '.join(means)} |")
    rows.append(f"| models within the budget | {' | '.join(str(held[m]) for m in METHODS)} |")
    return rows


def _section(result: dict[str, Any]) -> list[str]:
    aucs = ", ".join(f"{value:.4f} ({label})" for label, value in result["aucs"].items())
    labels = list(result["aucs"])
    lines = [
        f"## {result['name']}",
        "",
        f"{result['about']}. {result['inputs']} inputs to calibrate on, {result['check_clips']} "
        f"check clips, {result['test_clips']} test clips; threshold {result['threshold']:.4g}. "
        f"AUC of fp32: {aucs}. {result['layers']} layers quantised by default, "
        f"{result['with_weights']} have weights.",
        "",
        "| graph | rest | INT8 layers | check: Spearman | mean error | test: Spearman | mean error "
        f"| flips | {' | '.join(f'AUC delta, {label}' for label in labels)} | holds |",
        "|---|---|---|---|---|---|---|---|" + "---|" * len(labels) + "---|",
    ]
    for row in result["rows"]:
        check, test = row["check"], row["test"]
        seen = f"{check['spearman']:.4f} | {check['mean_of_spread']:.2%}" if check else "- | -"
        deltas = " | ".join(f"{row['auc_deltas'][label]:+.4f}" for label in labels)
        holds = "yes" if test["holds"] else "no"
        lines.append(
            f"| {row['graph']} | {row['rest']} | {row['layers']} | {seen} "
            f"| {test['spearman']:.4f} | {test['mean_of_spread']:.2%} "
            f"| {test['flips']} of {test['count']} | {deltas} | {holds} |"
        )
    lines += ["", *_product_lines(result)]
    if result["naive"]:
        naive = result["naive"]
        effects = ", ".join(f"`{k}` {v:.2%}" for k, v in naive["effects"].items())
        kept = ", ".join(f"`{name}`" for name in naive["kept"]) or "none"
        lines.append(
            f'* Search on "{naive["graph"]}", the naive graph furthest off on check footage: '
            f"{'repaired' if naive['passed'] else 'not repaired'}, {len(naive['kept'])} of "
            f"{naive['of']} layers put back ({kept}), {naive['tried']} graphs tried. Largest "
            f"effects alone: {effects}."
        )
    took = ", ".join(f"{k} {v:.0f}" for k, v in result["took"].items())
    lines.append(f"* {result['seconds']:.0f} s in all; {took}.")
    return lines


def _product_lines(result: dict[str, Any]) -> list[str]:
    product = result["product"]
    lines = [f"* `vad-export quantise` said: {line}" for line in product["said"]]
    if product["made"]:
        search = product["details"]["search"]
        lines.append(f"* Layers put back: {len(search['kept'])}, graphs tried: {search['tried']}.")
    for verdict in result["verdicts"]:
        said = "passes" if verdict["passed"] else "; ".join(verdict["broken"])
        delta = verdict["auc_delta"]
        lines.append(
            f"* Gate, {verdict['device']}, {verdict['clips']} clips: {said}"
            + (
                f" (Spearman {verdict['spearman']:.4f}, mean error "
                f"{verdict['mean_of_spread']:.2%}, flips {verdict['flip_share']:.2%}, AUC "
                f"{delta:+.4f})"
                if delta is not None
                else ""
            )
        )
    return lines
