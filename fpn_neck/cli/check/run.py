"""The check of a config's data, and its report."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from fpn_neck.cli.check import STDOUT
from fpn_neck.datasets.check.findings import Finding, RefusedData
from fpn_neck.datasets.check.heads import check_order, check_weights
from fpn_neck.datasets.check.listing import check_numbering, classes_of
from fpn_neck.datasets.check.run import DatasetCheck, Histogram, Report
from fpn_neck.mm.config.data_sources import data_sources
from fpn_neck.mm.config.load import load_config
from fpn_neck.utils.command_line import stdout_for_programs
from fpn_neck.utils.files import check_file, write_whole
from fpn_neck.utils.progress import with_progress
from fpn_neck.utils.values import check_whole

SCHEMA = 1  # of the JSON


def show(report: Report) -> None:
    print(f"{report.name}: {report.photos} photos, {len(report.findings)} findings")
    for histogram in report.histograms:
        print_histogram(histogram)
    for note in report.notes:
        print(f"  note: {note}")


def print_histogram(counts: Histogram) -> None:
    width = max(len(name) for name, _, _ in counts.rows())
    total = max(1, counts.amounts.sum())
    print(f"  {'':>4} {'label':{width}} {counts.unit:>14} {'%':>7} {'photos':>8}")
    for i, (name, amount, photos) in enumerate(counts.rows()):
        print(f"  {i:4} {name:{width}} {amount:14} {100 * amount / total:7.3f} {photos:8}")
    for what, names in (("rare", counts.rare), ("absent", counts.absent)):
        print(f"  {what}: {', '.join(names) or 'none'}")


def as_json(config: str, findings: list[Finding], reports: list[Report]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "config": config,
        "findings": [
            {"file": file, "value": value, "rule": kind.rule, "remedy": kind.remedy}
            for kind, file, value in findings
        ],
        "data_sets": [
            {
                "splits": report.name,
                "photos": report.photos,
                "notes": report.notes,
                "histograms": [histogram_as_json(counts) for counts in report.histograms],
            }
            for report in reports
        ],
    }


def histogram_as_json(counts: Histogram) -> dict[str, Any]:
    labels = [
        {"name": name, counts.unit: amount, "photos": photos}
        for name, amount, photos in counts.rows()
    ]
    return {"labels": labels, "rare": counts.rare, "absent": counts.absent}


def is_replaced(path: Path) -> bool:
    """Whether a report replaces the file; if not, it is written into it.

    Not replaced are a pipe, a device, and the file that receives stdout or stderr.
    """
    if not path.exists():
        return True
    streams = [os.fstat(number) for number in (1, 2)]
    return path.is_file() and not any(os.path.samestat(path.stat(), one) for one in streams)


def require_writable(path: Path) -> None:
    """Fail before the whole run, not after it.

    Raises:
        ValueError: nothing can be written to ``path``.
    """
    if not is_replaced(path) and not path.is_dir():
        if not os.access(path, os.W_OK):
            raise ValueError(f"--json {path} can't be written: give another file")
        return
    try:
        check_file(Path(os.path.realpath(path)))
    except OSError as error:
        raise ValueError(f"--json: {error}") from error


def write_report(path: Path, text: str) -> None:
    if is_replaced(path):  # or the file that a symlink points to
        write_whole(Path(os.path.realpath(path)), lambda part: part.write_text(text))
        return
    sys.stdout.flush()  # both may go to one file
    with path.open("a") as file:
        file.write(text + "\n")


def run(args: Namespace) -> int:
    """Check, and write the report; the exit code."""
    check_whole("--workers", args.workers, 1)
    check_whole("--limit", args.limit, 0)
    if args.json and args.json != STDOUT:
        require_writable(args.json)
    with stdout_for_programs(args.json == STDOUT):
        content, findings = run_check(args)
    if args.json == STDOUT:
        print(json.dumps(content))
    elif args.json:
        write_report(args.json, json.dumps(content, indent=1))
    return 1 if findings else 0


def run_check(args: Namespace) -> tuple[dict[str, Any], list[Finding]]:
    """Check, print the report, and give it as plain data with its findings."""
    cfg = load_config(args.config, args.cfg_options)
    sources = data_sources(cfg, *args.splits)
    if not sources:
        raise ValueError(f"{args.config} has no data set for {', '.join(args.splits)}")
    model = cfg.get("model") or {}
    check = DatasetCheck(args.config, model, workers=args.workers, track=with_progress)
    reports = [check(source) for source in sources]
    findings = check_weights(args.config, model) + check_order(args.config, classes_of(sources))
    findings += check_numbering(args.config, sources)
    findings += [finding for report in reports for finding in report.findings]
    for report in reports:
        show(report)
    print(RefusedData(findings).report(args.limit) if findings else "nothing found")
    return as_json(args.config, findings, reports), findings
