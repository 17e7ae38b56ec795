"""Files that are either whole or not there."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fpn_neck.utils.files import check_file, check_folder, remove_leftovers, write_whole


def test_writes_into_a_new_folder(tmp_path):
    path = tmp_path / "a/b/c.txt"
    write_whole(path, lambda p: p.write_text("new"))
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_the_writer_gets_a_hidden_neighbour_that_no_pattern_finds(tmp_path):
    path = tmp_path / "c.d.pth"
    given, found = [], []
    write_whole(path, lambda p: (given.append(p), p.touch(), found.extend(tmp_path.rglob("*.pth"))))
    assert given[0].parent == tmp_path  # a rename is atomic only on one file system
    assert given[0].name.startswith(".") and not found


def test_an_error_names_the_file_that_the_user_named(tmp_path):
    path = tmp_path / "there"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(path, lambda p: p.write_text("new"))
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(path / "a.txt", lambda p: p.read_text())
    assert str(path / "a.txt") in str(caught.value)
    assert "part" not in str(caught.value)


def test_a_file_is_checked_before_the_work(tmp_path):
    check_file(tmp_path / "new/a.txt")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        check_file(tmp_path)
    (tmp_path / "text").touch()
    with pytest.raises(OSError, match="text: nothing can be written there"):
        check_file(tmp_path / "text/a.txt")


def test_replaces_the_old_file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("old and longer")
    write_whole(path, lambda p: p.write_text("new"))
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("begun", [True, False])
def test_a_writer_that_raises_leaves_everything_as_it_was(tmp_path, old, begun):
    path = tmp_path / "c.txt"
    if old:
        path.write_text(old)

    def write(p):
        if begun:
            p.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_whole(path, write)
    assert [p.name for p in tmp_path.iterdir()] == (["c.txt"] if old else [])
    assert not old or path.read_text() == old


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(OSError):
        write_whole(path, lambda p: None)
    assert path.read_text() == "old"


def test_a_target_that_cannot_be_replaced_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "folder"
    (path / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        write_whole(path, lambda p: p.write_text("new"))
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (path / "full").is_dir()


@pytest.mark.parametrize("sync", [False, True])
def test_the_content_is_the_same_whether_it_is_synced(tmp_path, sync):
    write_whole(tmp_path / "c.txt", lambda p: p.write_text("new"), sync=sync)
    assert (tmp_path / "c.txt").read_text() == "new"


def test_threads_write_one_file_each_a_whole_one(tmp_path):
    both = threading.Barrier(2)

    def write(path):
        path.write_text("whole")
        both.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write_whole, tmp_path / "c.txt", write) for _ in range(2)]:
            done.result()
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_only_what_killed_processes_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [f".iter_4.pth.{dead.pid}.part", f".last.{dead.pid}.part", f".a.99{'9' * 30}.part"]
    gone += [f".iter_4.pth.{os.getpid()}.part"]  # in a container, numbers come again
    alive = os.getppid()
    kept = ["iter_4.pth", f".iter_4.pth.{alive}.part", ".hidden", ".a.1x.part"]
    kept += [f"a.{dead.pid}.part"]
    for name in gone + kept:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{dead.pid}.part").mkdir()
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, f".folder.{dead.pid}.part"}


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("é" * 125 + ".png")
    write_whole(path, lambda p: p.write_text("new"))
    assert path.read_text() == "new"


def test_two_files_of_one_beginning_have_two_temporary_names(tmp_path):
    given = []
    write = lambda p: (given.append(p), p.touch())  # noqa: E731
    write_whole(tmp_path / ("a" * 40 + "1.png"), write)
    write_whole(tmp_path / ("a" * 40 + "2.png"), write)
    assert given[0] != given[1]


def test_what_a_killed_process_left_of_a_long_name_is_removed(tmp_path):
    given = []
    write_whole(tmp_path / ("a" * 250 + ".png"), lambda p: (given.append(p), p.touch()))
    given[0].touch()
    remove_leftovers(tmp_path)
    assert not given[0].exists()


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    check_folder(tmp_path / "a/b")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b"]
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/deeper"):
        with pytest.raises(OSError, match="file.*: nothing can be written there"):
            check_folder(path)
