"""Check the data of an mmseg or mmdet config: tools/check_dataset.py CONFIG [--json FILE] ..."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from rich.console import Console
from rich.progress import track

from fpn_neck.datasets.check.findings import Finding
from fpn_neck.datasets.check.heads import check_weights
from fpn_neck.datasets.check.run import RARE, DatasetCheck, Histogram, RefusedData, Report
from fpn_neck.mm.config.arguments import Options
from fpn_neck.mm.config.data_sources import data_sources
from fpn_neck.mm.config.load import load_config
from fpn_neck.utils.files import check_folder, write_whole

SPLITS = ("train", "val", "test")
EPILOG = f"""\
Every photo and mask is decoded as training would decode it, every annotation read; the config's
heads and class weights are compared with the data. A class is called rare if it occurs in one photo
or in at most {100 * RARE:g} % of them.

exit code: 0 nothing found; 1 findings, each with file, value, rule and remedy; 2 wrong usage."""


def parse_args() -> Namespace:
    parser = ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or one of an installed package: mmdet::path")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: all that it names"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one a core)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="files shown of a kind (20)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def progress(results, total):
    return track(results, description="photos", total=total, console=Console(stderr=True))


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


def as_json(config: str, findings: list[Finding], reports: list[Report]) -> dict:
    return {
        "config": config,
        "findings": [
            {"file": file, "value": value, "rule": kind, "remedy": RefusedData.remedies[kind]}
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


def histogram_as_json(counts: Histogram) -> dict:
    labels = [
        {"name": name, counts.unit: amount, "photos": photos}
        for name, amount, photos in counts.rows()
    ]
    return {"labels": labels, "rare": counts.rare, "absent": counts.absent}


def is_replaced(path: Path) -> bool:
    """Whether a report takes the file's place; else it is written into what is there.

    That is a pipe or a device, and the file into which stdout or stderr go.
    """
    if not path.exists():
        return True
    streams = [os.fstat(number) for number in (1, 2)]
    return path.is_file() and not any(os.path.samestat(path.stat(), one) for one in streams)


def require_writable(path: Path) -> None:
    """Fail before the whole run, not after it."""
    if path.is_dir():
        raise ValueError(f"--json {path} is a folder: give a file")
    if not is_replaced(path):
        if not os.access(path, os.W_OK):
            raise ValueError(f"--json {path} can't be written: give another file")
        return
    try:
        check_folder(Path(os.path.realpath(path)).parent)
    except OSError as error:
        raise ValueError(f"--json {path} can't be written ({error}): give another") from error


def write_report(path: Path, text: str) -> None:
    if is_replaced(path):  # of a symlink, what it points to
        write_whole(Path(os.path.realpath(path)), lambda part: part.write_text(text))
        return
    sys.stdout.flush()  # both may end in one file
    with path.open("a") as file:
        file.write(text + "\n")


def main() -> int:
    args = parse_args()
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers} must be at least 1")
    if args.limit < 0:
        raise ValueError(f"--limit {args.limit} must be at least 0")
    if args.json:
        require_writable(args.json)
    cfg = load_config(args.config, args.cfg_options)
    sources = data_sources(cfg, *args.splits)
    if not sources:
        raise ValueError(f"{args.config} names no data set for {', '.join(args.splits)}")
    model = cfg.get("model") or {}
    check = DatasetCheck(args.config, model, workers=args.workers, track=progress)
    reports = [check(source) for source in sources]
    findings = check_weights(args.config, model)
    findings += [finding for report in reports for finding in report.findings]
    for report in reports:
        show(report)
    print(RefusedData(findings).report(args.limit) if findings else "nothing found")
    if args.json:
        write_report(args.json, json.dumps(as_json(args.config, findings, reports), indent=1))
    return 1 if findings else 0
