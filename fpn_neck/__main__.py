"""fpn-neck VERB ... and python -m fpn_neck VERB ...: every verb is a module of `fpn_neck.cli`."""

from __future__ import annotations

import ast
import sys
from argparse import REMAINDER, SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import fpn_neck
from fpn_neck import cli
from fpn_neck.utils.command_line import run_tool


def main() -> int | None:
    """Run a verb, which is imported only then; its exit code."""
    verbs = [module.name for module in iter_modules(cli.__path__)]
    width = max(map(len, verbs))
    parser = ArgumentParser(
        prog="fpn-neck" if Path(sys.argv[0]).stem == "fpn-neck" else "python -m fpn_neck",
        usage="%(prog)s COMMAND ...",
        epilog="commands, each with --help:\n"
        + "\n".join(f"  {verb:{width}}  {_summary(verb)}" for verb in verbs),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=fpn_neck.__version__)
    parser.add_argument("verb", choices=verbs, metavar="COMMAND", help=SUPPRESS)
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help=SUPPRESS)
    args = parser.parse_args()
    sys.argv = [f"{parser.prog} {args.verb}", *args.arguments]
    return import_module(f"fpn_neck.cli.{args.verb}").main()


def _summary(verb: str) -> str:
    """What the verb's docstring says first; nothing is imported for it."""
    path = Path(cli.__path__[0]) / verb
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].partition(": fpn-neck ")[0].rstrip(".")


def run() -> None:
    """The command ``fpn-neck``."""
    run_tool(main)


if __name__ == "__main__":
    run()
