"""One HTML page about a segmenter with everything inside: it needs no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure
from PIL import Image

from fpn_neck.mm.curves import Series, draw_curves
from fpn_neck.mm.seg.report.confusion import Confusion
from fpn_neck.mm.seg.report.evaluation_hook import EvaluationHook, PhotoResult
from fpn_neck.utils.results.pictures import side_by_side

_WIDTH = 1400  # px, of a picture of photo, truth and prediction
_CONFUSED = 3  # labels that a row of the table names

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
img { max-width: 100% }
.wide { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, .text { text-align: left }
.bar { width: 160px; background: #eee } .bar div { background: #36c; height: 1em }
figure { margin: 1em 0 } figcaption { color: #555 }
</style>
<h1>{{ title }}</h1>
<p>{{ photos }} photos, {{ labels | length }} labels that occur in them.
Checkpoint: {{ checkpoint }}.</p>
<h2>Metrics</h2>
<table>{% for name, value in metrics.items() %}
<tr><td>{{ name }}</td><td>{{ "%.2f" | format(value) }}</td></tr>{% endfor %}
</table>
{% if curves %}<h2>Curves</h2>
<img src="{{ curves }}" alt="losses and validation metrics">{% endif %}
<h2>Labels by frequency</h2>
<p>IoU and recall are in percent. The last column names the labels that pixels of this label got
instead, with their share.</p>
<div class="wide"><table>
<tr><th>label</th><th>pixels %</th><th>photos</th><th>IoU</th><th></th><th>recall</th>
<th class="text">confused with</th></tr>{% for row in labels %}
<tr><td>{{ row.name }}</td><td>{{ "%.2f" | format(row.share) }}</td><td>{{ row.photos }}</td>
<td>{{ "%.1f" | format(row.iou) }}</td>
<td class="bar"><div style="width: {{ "%.1f" | format(row.iou) }}%"></div></td>
<td>{{ "%.1f" | format(row.recall) }}</td><td class="text">{{ row.confused }}</td></tr>{% endfor %}
</table></div>
<h2>Confusion matrix</h2>
<p>Share of the pixels of the true label (row) that got each label (column). Labels that occur only
in predictions are the last columns.</p>
<div class="wide"><img src="{{ confusion }}" alt="confusion matrix"></div>
{% for heading, results in pictures.items() %}<h2>{{ heading }}</h2>
{% for caption, image in results %}<figure>
<img src="{{ image }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}{% endfor %}
</html>
"""


def report_page(
    found: EvaluationHook, series: Series, title: str, checkpoint: str, count: int
) -> str:
    """The page as HTML.

    Args:
        found: after a test run.
        series: the scalars of the training, see `fpn_neck.mm.curves.read_scalars`; may be empty.
        count: number of photos of the test run.
    """
    environment = Environment(autoescape=True)
    return environment.from_string(_TEMPLATE).render(
        title=title,
        photos=count,
        checkpoint=checkpoint,
        metrics=found.metrics,
        curves=_curves(series),
        labels=label_rows(found.confusion, found.classes),
        confusion=_confusion(found.confusion, found.classes),
        pictures={
            "Worst photos": [_picture(result, found) for result in found.worst],
            "Best photos": [_picture(result, found) for result in found.best],
        },
    )


def label_rows(found: Confusion, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A dict for each label that occurs, the most frequent one first; figures in percent."""
    pixels, iou = found.pixels.sum(1), 100 * found.iou
    return [
        {
            "name": classes[i],
            "share": 100 * pixels[i] / pixels.sum(),
            "photos": int(found.photos[i]),
            "iou": iou[i],
            "recall": 100 * found.pixels[i, i] / pixels[i],
            "confused": _confused(found.pixels[i] / pixels[i], i, classes),
        }
        for i in found.by_frequency()
    ]


def _confused(shares: np.ndarray, own: int, classes: Sequence[str]) -> str:
    others = [i for i in np.argsort(-shares, kind="stable") if i != own][:_CONFUSED]
    return ", ".join(f"{classes[i]} {100 * shares[i]:.0f} %" for i in others if shares[i] >= 0.005)


def _curves(series: Series) -> str:
    if not series:
        return ""
    file = io.BytesIO()
    draw_curves(series, file)
    return _data_url(file.getvalue(), "png")


def confusion_shares(found: Confusion) -> tuple[list[int], list[int], np.ndarray]:
    """(true labels, predicted labels, shares); the most frequent label first.

    Rows are the labels that occur; each row's sum is 1. Columns are the same labels, then those
    that occur only in predictions.
    """
    rows, predicted = found.by_frequency(), found.pixels.sum(0)
    others = [int(i) for i in np.argsort(-predicted, kind="stable") if predicted[i]]
    columns = rows + [i for i in others if i not in rows]
    return rows, columns, found.pixels[np.ix_(rows, columns)] / found.pixels[rows].sum(1)[:, None]


def _confusion(found: Confusion, classes: Sequence[str]) -> str:
    rows, columns, shares = confusion_shares(found)
    size = 2.5 + 0.17 * len(columns), 2.5 + 0.17 * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [[classes[i] for i in labels] for labels in (columns, rows)]
    axes.set_xticks(range(len(columns)), names[0], rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), names[1], fontsize=7)
    axes.set(xlabel="prediction", ylabel="truth")
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png")
    return _data_url(file.getvalue(), "png")


def _picture(result: PhotoResult, found: EvaluationHook) -> tuple[str, str]:
    """(caption, address of a JPEG)"""
    maps: Mapping[str, Any] = {"truth": result.truth, "prediction": result.prediction}
    image = side_by_side(result.photo, dict(maps), found.classes, found.palette)
    if image.width > _WIDTH:
        image = image.resize(
            (_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=88)
    caption = (
        f"{Path(result.path).name}: mean IoU of its labels {100 * result.score:.1f}, "
        f"pixel accuracy {100 * result.accuracy:.1f}"
    )
    return caption, _data_url(file.getvalue(), "jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
