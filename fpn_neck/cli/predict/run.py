"""What predict writes of the results of any model; without torch."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from fpn_neck.cli.predict.arguments import OUT
from fpn_neck.utils.command_line import print_json, stdout_for_programs
from fpn_neck.utils.photo_files import Found, find_photos, left_out_text, output_names
from fpn_neck.utils.progress import with_progress
from fpn_neck.utils.results.folder import ResultsFolder, is_result
from fpn_neck.utils.results.predictor import Predictor, batches
from fpn_neck.utils.results.result import Result
from fpn_neck.utils.text import cause, one_line
from fpn_neck.utils.values import check_share


def predict_batch(
    predictor: Predictor, photos: list[Path]
) -> Iterator[tuple[Path, Result | Exception]]:
    """A result or an error for every photo; one photo must not spoil its batch."""
    try:
        yield from zip(photos, predictor.predict(photos), strict=True)
        return
    except Exception as e:  # of any type
        if len(photos) == 1:
            yield photos[0], e
            return
    for photo in photos:
        yield from predict_batch(predictor, [photo])


def predict_all(
    predictor: Predictor, found: Found, results: ResultsFolder, batch: int, failed: dict[str, str]
) -> None:
    """Predict all photos; ``failed`` gets {photo: error}."""
    names = dict(zip(found.photos, output_names(found.photos), strict=True))
    groups = batches(found.photos, batch)
    total = -(-len(found.photos) // batch)
    with closing(with_progress(groups, total)) as shown:  # also after Ctrl-C
        for photo, result in chain.from_iterable(predict_batch(predictor, g) for g in shown):
            try:
                if isinstance(result, Exception):
                    raise result
                results.add(result, names[photo])
            except Exception as e:  # of any type; one photo must not end the run
                failed[str(photo)] = one_line(e) if str(e).strip() else cause(e)


def write_results(
    args: Namespace, load_predictor: Callable[[], Predictor], *, batch: int = 1
) -> int:
    """Predict ``args.images``, ``batch`` at a time, and write everything; the exit code."""
    if not args.out and not args.json:
        args.out = OUT
    if not args.out and (args.coco or args.overlay not in (None, "none")):
        raise ValueError("--coco and --overlay write files: with --json, give --out, too")
    check_share("--opacity", args.opacity)
    check_share("--score-thr", args.score_thr)
    with stdout_for_programs(args.json):
        found = find_photos(args.images, lambda file: is_result(file, args.out))
        predictor = load_predictor()
        results = ResultsFolder(
            args.out,
            predictor.classes,
            overlay=args.overlay,
            opacity=args.opacity,
            coco=args.coco,
        )
        results.finish()  # a run that is killed leaves no tables of an earlier one
        failed: dict[str, str] = {}
        try:
            predict_all(predictor, found, results, batch, failed)
        finally:  # also after Ctrl-C: what is done is in the tables
            results.finish(failed)
        place = f": {args.out}" if args.out else ""
        print(f"{len(results.names)} of {len(found.photos)} photos{place}")
        if older := results.older_pictures():
            print(f"{older} pictures of earlier runs are there, too; the tables are of this run")
        if found.left_out:
            print(left_out_text(found))
    for photo, error in failed.items():
        print(f"{photo}: {error}", file=sys.stderr)
    if args.json:
        print_json(results.document(failed))
    return 1 if failed else 0
