"""Every file, folder, test, module and class that the documents name exists."""

import ast
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from helpers.documents import documents
from helpers.project import PROJECT

DOCUMENTS = ["CONTRIBUTING.md", *(str(p.relative_to(PROJECT)) for p in documents())]
FOLDERS = ("fpn_neck", "tests", "tools", "configs", "docs")

CODE = re.compile(r"```.*?```|`[^`]+`|^    .*?$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^):#]+)\)")
FILE = re.compile(r"(?<![\w:/.…*{},-])[\w./…*{},-]+\.(?:py|sh|md)(?:::\w+)?(?![\w.])")
FOLDER = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/(?:[\w.-]+/)*(?![\w.*{{…-])")
NAME = re.compile(r"(?<![\w./-])fpn_neck(?:\.\w+)+(?!\w|…|/)")
UP = re.compile(r"^(?:\.{1,2}/)*")
TEST = re.compile(r"^`(test_\w+)`$")
SETTINGS = {"test_cfg", "test_dataloader", "test_evaluator"}  # of a config


@cache
def files():
    """Path -> file, of the folders that documents speak of and of the project's own folder."""
    found = [p for folder in FOLDERS for p in (PROJECT / folder).rglob("*") if p.is_file()]
    found += [p for p in PROJECT.iterdir() if p.is_file()]
    return {p.relative_to(PROJECT).as_posix(): p for p in found}


def matching(pattern):
    """Files of that path, or of that path below some folder; ``…`` and ``*`` are any characters."""
    parts = [
        part[1:-1].split(",") if part[0] == "{" else [part]
        for part in re.split(r"({[^}]*})", pattern)
        if part
    ]
    found = []
    for choice in product(*parts):
        exact = "".join(
            r"[^/]*" if c in "…*" else re.escape(c) for c in UP.sub("", "".join(choice))
        )
        of_choice = [path for path in files() if re.search(rf"(^|/){exact}$", path)]
        if not of_choice:
            return []
        found += of_choice
    return found


@cache
def defined(path):
    """Names that a Python file defines or imports."""
    names = set()
    for node in ast.walk(ast.parse(files()[path].read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names


def exists(name):
    """Whether a dotted name is a module here, a name in one, or a class that a config can name."""
    *modules, last = name.split(".")
    folder = "/".join(modules)
    if not {f"{folder}/{last}.py", f"{folder}/{last}/__init__.py"}.isdisjoint(files()):
        return True
    places = {f"{folder}.py", f"{folder}/__init__.py"}
    if modules == ["fpn_neck"] and last[0].isupper():  # as in type='fpn_neck.FPNHead'
        places = {path for path in files() if path.startswith("fpn_neck/") and path.endswith(".py")}
    return any(last in defined(path) for path in places & set(files()))


def missing(text):
    """Names in the code of a document's text that nothing here has."""
    links = LINK.findall(SPAN.sub("", text))
    wrong, test_file = [name for name in links if not matching(name)], None
    for code in CODE.findall(text):
        for name in FILE.findall(code) + [n for n in TEST.findall(code) if n not in SETTINGS]:
            path, _, function = name.partition("::")
            if Path(path).stem.isupper():  # the reader's own file
                continue
            if path.endswith((".py", ".sh", ".md")):
                paths = matching(path)
                if not paths:
                    wrong.append(name)
                elif Path(path).name.startswith("test_"):
                    test_file = paths[0] if len(paths) == 1 else None
            else:  # a test of the file named last
                function = name
            if function and (not test_file or function not in defined(test_file)):
                wrong.append(name)
        wrong += [name for name in FOLDER.findall(code) if not (PROJECT / name).is_dir()]
        wrong += [name for name in NAME.findall(code) if not exists(name)]
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    assert missing((PROJECT / document).read_text()) == []


@pytest.mark.parametrize(
    "name",
    [
        *("tools/nothing.py", "tests/nothing/", "fpn_neck.nothing", "fpn_neck.Nothing"),
        *("fpn_neck.fast.nothing", "test_nothing", "configs/_base_/nothing_{a,b}.py"),
        *("tests/test_docs.py::test_nothing", "segmentation/fpn_{r50,r51}_…ade20k….py"),
    ],
)
def test_a_wrong_name_is_found(name):
    assert missing(f"see `{name}`") == [name]


def test_a_link_to_nothing_is_found():
    assert missing("![Truth](docs/nothing.png)") == ["docs/nothing.png"]


def test_lines_are_short():
    """Lines of text have at most 120 characters; rows of a table and addresses can't be split."""
    for document in DOCUMENTS:
        for line in (PROJECT / document).read_text().splitlines():
            assert len(line) <= 120 or line.startswith("|"), (document, line)
