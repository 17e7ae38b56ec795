"""The page itself, by gradio."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gradio

from fpn_neck.cli.demo.answer import Answer, Answers
from fpn_neck.utils.photos import PhotoError
from fpn_neck.utils.results.options import OPACITY

_KEPT = 600  # s: older photos and files are deleted, every so many seconds
_ALL, _NINE = "59 classes", "nine classes"
_STYLE = """
#overlay img {max-height: 75vh; object-fit: contain}
.legend {width: 100%; border-collapse: collapse}
.legend, .legend tr, .legend td {border: 0 !important} .legend td {padding: 3px 8px}
.legend td:first-child {width: 2em} .legend td:last-child {text-align: right}
.legend span {display: inline-block; width: 1.1em; height: 1.1em; border-radius: 3px}
footer {display: none !important}
"""
# The fonts of the browser's own machine: gradio's themes fetch theirs from a server.
_FONTS: dict[str, list[str]] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}


def serve(answers: Answers, host: str, port: int, megabytes: int) -> None:
    """Serve the page until Ctrl-C."""
    page = build(answers)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=megabytes * 2**20,  # gradio's own MB
        theme=gradio.themes.Default(**_FONTS),
        css=_STYLE,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    try:
        print(f"http://{host}:{port}", flush=True)
        threading.Event().wait()
    finally:
        page.close()


def build(answers: Answers) -> gradio.Blocks:
    """The page: a photo in; overlay, legend and files out."""
    events = _Events(answers)
    with gradio.Blocks(
        title="fpn_neck", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)
    ) as page:
        gradio.Markdown(
            "# fpn_neck\nDrop a photo, and see what the model finds in it. The photo stays on the "
            f"machine that runs this page. At most {answers.megapixels} million pixels."
        )
        state = gradio.State(time_to_live=_KEPT)
        with gradio.Row():
            with gradio.Column():
                photo = gradio.File(
                    label="photo", file_types=["image"], height=140, elem_id="photo"
                )
                kind = gradio.Radio(
                    [_ALL, _NINE],
                    value=_ALL,
                    label="labels",
                    visible=answers.can_merge,
                    elem_id="kind",
                )
                opacity = gradio.Slider(
                    0, 1, OPACITY, step=0.05, label="opacity of the colours", elem_id="opacity"
                )
            with gradio.Column():
                picture = gradio.Image(
                    label="overlay", interactive=False, buttons=["fullscreen"], elem_id="overlay"
                )
                legend = gradio.HTML(elem_id="legend")
                with gradio.Row():
                    labels = gradio.DownloadButton("labels (PNG)", visible=False, elem_id="labels")
                    table = gradio.DownloadButton(
                        "areas and objects (JSON)", visible=False, elem_id="json"
                    )
        shown = [picture, legend, labels, table]

        photo.change(events.predict, [photo, kind, opacity], [state, *shown])
        kind.change(events.show, [state, kind, opacity], shown)
        opacity.change(
            events.paint,
            [state, kind, opacity],
            picture,
            trigger_mode="always_last",
            show_progress="hidden",
        )
    return page


class _Events:
    """What the page does when a person changes something on it."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def predict(self, path: str | None, kind: str, opacity: float) -> list[Any]:
        """A new photo, or none."""
        if path is None:
            return [None, *_nothing()]
        try:
            answer = self.answers.of(Path(path))
        except PhotoError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        return [answer, *self.show(answer, kind, opacity)]

    def show(self, answer: Answer | None, kind: str, opacity: float) -> list[Any]:
        """Picture, legend and files."""
        if answer is None:
            return _nothing()
        answer = _of_kind(answer, kind)
        files = map(_button, self.answers.save(answer))
        return [answer.picture(opacity), answer.legend(), *files]

    def paint(self, answer: Answer | None, kind: str, opacity: float) -> Any:
        """Only the picture."""
        return answer and _of_kind(answer, kind).picture(opacity)


def _of_kind(answer: Answer, kind: str) -> Answer:
    return answer.merged() if kind == _NINE else answer


def _nothing() -> list[Any]:
    return [None, "", _button(None), _button(None)]


def _button(file: Path | None) -> gradio.DownloadButton:
    return gradio.DownloadButton(value=file and str(file), visible=file is not None)
