"""--json: one document with a schema on stdout, whatever else a verb says goes to stderr."""

import json
import re
from pathlib import Path

import pytest
from helpers.project import PROJECT

for _package in ("mmseg", "mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)

DOC = (PROJECT / "docs/commands.md").read_text(encoding="utf-8")


def document(done, code=0):
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("schema") == 1
    return found


@pytest.fixture
def call_verb(monkeypatch, capsys):
    """Run ``fpn-neck VERB ...`` in this process: exit code and document."""
    from fpn_neck import __main__ as command

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fpn-neck", *arguments])
        capsys.readouterr()
        code = command.main()
        return code or 0, json.loads(capsys.readouterr().out)

    return call


def test_list_and_doctor(call_verb):
    code, found = call_verb("list", "--json")
    assert code == 0 and found["schema"] == 1
    assert "fpn_neck::segmentation/fpn_lite0_demo_shapes-256x320.py" in found["configs"]
    code, found = call_verb("doctor", "--json")
    assert found["schema"] == 1 and found["sections"][0]["rows"]
    assert code == int(any(section["problems"] for section in found["sections"]))


def test_test_and_check(run_tool, trained, tmp_path):
    found = document(run_tool("test", trained.config, trained.checkpoint, "--json", cwd=tmp_path))
    assert 0 <= found["metrics"]["mIoU"] <= 100
    written = [p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("work_dirs/**/*.py")]
    assert f"work_dirs/{trained.config.stem}/test/{trained.config.name}" in written
    assert not any(Path(name).parts[2] != "test" for name in written)  # the training's stays
    done = run_tool("check_dataset", trained.config, "--workers", 1, "--json", cwd=tmp_path)
    assert {*document(done, done.returncode)} == {"config", "findings", "data_sets"}
    assert "photos" in done.stderr and done.returncode in (0, 1)


def test_convert(call_tool, varied, tmp_path):
    done = call_tool(
        "convert_checkpoint", varied, tmp_path / "out.pth", "--from", "mmseg", "--to", "mmdet",
        "--json",
    )  # fmt: skip
    found = document(done)
    assert found["mapped"]["decode_head.conv_seg.weight"] == "semantic_head.conv_logits.weight"
    assert found["written"] == str(tmp_path / "out.pth") and "mapped:" in done.stderr


def test_the_page_names_the_verbs_that_have_it():
    named = set(re.findall(r"^\| `(\w+) --json`", DOC, re.MULTILINE))
    cli = PROJECT / "fpn_neck/cli"
    has = {
        path.relative_to(cli).with_suffix("").parts[0]  # a verb is a file or a folder
        for path in cli.rglob("*.py")
        if re.search(r'add_json_argument\(parser|"--json",', path.read_text(encoding="utf-8"))
    }
    assert named == has


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_the_page_names_every_exit_code(code):
    assert re.search(rf"^\| {code} \|", DOC, re.MULTILINE)
