"""Try a model on a page in the browser: fpn-neck demo [MODEL] [--detector MODEL].

The page takes a photo and shows what the model sees in it: the overlay, the share of every class,
the labels as a PNG and everything as JSON to download. MODEL is a checkpoint of training, or a
folder of Segmenter.save_pretrained; the default is the model of clothing photos that comes with the
package. Photos stay on this machine: the page needs no network, and what was uploaded is deleted
after ten to twenty minutes, and when the command ends.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from fpn_neck.utils.command_line import add_device_argument, command_parser
from fpn_neck.utils.values import check_whole


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "model", nargs="?", help="a segmenter or a detector (default: the one of the package)"
    )
    parser.add_argument("--config", help="for a checkpoint that holds none")
    parser.add_argument("--detector", metavar="MODEL", help="whose boxes are shown, too")
    parser.add_argument("--host", default="127.0.0.1", help="default: only this machine")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument(
        "--megapixels", type=int, default=25, help="of the largest photo (default: %(default)s)"
    )
    parser.add_argument(
        "--megabytes", type=int, default=25, help="of the largest file (default: %(default)s)"
    )
    add_device_argument(parser)
    return parser.parse_args()


def check_address(host: str, port: int) -> None:
    """Raise ValueError: the page can't be served there; says whether it is the host or the port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ValueError(f"--port {port}: {error.strerror}; give another port") from error
        raise ValueError(
            f"--host {host}: {error.strerror}; give an address or a name of this machine, such as "
            "127.0.0.1, or 0.0.0.0 for all"
        ) from error


def main() -> None:
    args = parse_args()
    check_whole("--megapixels", args.megapixels, 1)
    check_whole("--megabytes", args.megabytes, 1)
    check_whole("--port", args.port, 1, 65535)
    if not find_spec("gradio"):
        raise ImportError("the page needs the package gradio: pip install 'fpn_neck[demo]'")
    check_address(args.host, args.port)
    from fpn_neck.mm.predict.load import load

    segmenter = load(args.model, args.config, args.device)
    detector = load(args.detector, device=args.device) if args.detector else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the photos are deleted first
    with tempfile.TemporaryDirectory(prefix="fpn_neck-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from fpn_neck.cli.demo.answer import Answers
        from fpn_neck.cli.demo.page import serve

        answers = Answers(segmenter, detector, Path(folder), args.megapixels)
        serve(answers, args.host, args.port, args.megabytes)
