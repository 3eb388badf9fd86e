"""Files and folders appear complete or not at all: after errors, on a full disk and when the process is killed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest
from helpers.full_disk import limited

from prott5nv.errors import ProtT5nvError
from prott5nv.io import atomic, work_folders
from prott5nv.io.atomic import publish, remove_file, together, whole_file, whole_files, whole_folder, write_text
from prott5nv.io.exclusive import open_and_lock
from prott5nv.io.output import check_outputs


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def old_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


@contextmanager
def process_inside(block: str):
    """Run ``with <block> as temporary`` in another process, which writes there and then waits inside the block."""
    code = f"""
import sys
from prott5nv.io.atomic import whole_file, whole_folder
with {block} as temporary:
    (temporary / "new.txt" if temporary.is_dir() else temporary).write_text("new")
    print("ready", flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "table.csv"
    with whole_file(path) as temporary:
        assert temporary.name == "table.csv" and not temporary.exists()
        temporary.write_text("new")
        assert not path.exists()
    assert content(tmp_path) == {"table.csv": "new"}


def test_an_older_file_is_replaced(tmp_path):
    write_text(tmp_path / "card.md", "old")
    write_text(str(tmp_path / "card.md"), "größer")
    assert content(tmp_path) == {"card.md": "größer"}


def test_a_path_without_a_folder_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("card.md", "new")
    with whole_folder("folder") as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == ["card.md", "folder"]


def test_publish_moves_a_file(tmp_path):
    (tmp_path / "partial").write_text("new")
    (tmp_path / "final").write_text("old")
    publish(tmp_path / "partial", tmp_path / "final")
    assert content(tmp_path) == {"final": "new"}


def test_a_folder_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "parent" / "folder"
    with whole_folder(path) as temporary:
        assert temporary.name == "folder"
        (temporary / "subfolder").mkdir()
        (temporary / "subfolder" / "new.txt").write_text("new")
        assert not path.exists()
    assert names(path.parent) == ["folder"]
    assert content(path / "subfolder") == {"new.txt": "new"}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["folder", "new", "replaced"])
def test_an_empty_folder_is_replaced(tmp_path, name, replace):
    (tmp_path / name).mkdir()
    with whole_folder(tmp_path / name, replace=replace) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == [name]
    assert content(tmp_path / name) == {"new.txt": "new"}


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, ProtT5nvError])
def test_an_exception_keeps_the_old_file(tmp_path, exception):
    write_text(tmp_path / "card.md", "old")
    with pytest.raises(exception), whole_file(tmp_path / "card.md") as temporary:
        temporary.write_text("new")
        raise exception
    assert content(tmp_path) == {"card.md": "old"}


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, ProtT5nvError])
def test_an_exception_keeps_the_old_folder(tmp_path, old_folder, exception):
    with pytest.raises(exception), whole_folder(old_folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
        raise exception
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"old.txt": "old"}


def test_replace_swaps_a_folder_with_content(tmp_path, old_folder):
    with whole_folder(old_folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
        assert content(old_folder) == {"old.txt": "old"}
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"new.txt": "new"}


@pytest.mark.parametrize("change", ["add", "edit", "remove"])
def test_a_folder_that_changes_during_the_work_is_not_replaced(tmp_path, old_folder, change):
    refusal = pytest.raises(ProtT5nvError, match=r"was changed while .* was to be replaced")
    with refusal, whole_folder(old_folder, replace=True) as temporary:
        (temporary / "new").touch()
        if change == "remove":
            (old_folder / "old.txt").unlink()
        else:
            (old_folder / ("notes.txt" if change == "add" else "old.txt")).write_text("of the user")
        before = content(old_folder)
    assert content(old_folder) == before
    assert names(tmp_path) == [old_folder.name]


def test_a_folder_with_content_is_refused_before_the_work(tmp_path, old_folder):
    with pytest.raises(ProtT5nvError, match="exists already and is not empty"), whole_folder(old_folder):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"old.txt": "old"}


def test_content_that_appears_during_the_work_is_kept(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(ProtT5nvError, match="exists already and is not empty"), whole_folder(path) as temporary:
        (temporary / "new.txt").write_text("new")
        path.mkdir()
        (path / "other.txt").write_text("other")
    assert names(tmp_path) == ["folder"] and content(path) == {"other.txt": "other"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_not_replaced_by_a_folder(tmp_path, replace):
    write_text(tmp_path / "card.md", "old")
    with pytest.raises(ProtT5nvError, match="not a folder"), whole_folder(tmp_path / "card.md", replace=replace):
        pytest.fail("the block must not run")
    assert content(tmp_path) == {"card.md": "old"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path, old_folder):
    with pytest.raises(ProtT5nvError, match=str(old_folder)):
        write_text(old_folder, "new")
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"old.txt": "old"}


def test_a_failed_swap_brings_the_old_folder_back(tmp_path, old_folder, monkeypatch):
    def move(source, target, replace=os.replace):
        if os.path.exists(os.path.join(source, "new.txt")):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", move)
    with pytest.raises(ProtT5nvError, match="No space left"), whole_folder(old_folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"old.txt": "old"}


def test_a_kill_during_the_swap_loses_no_folder(tmp_path, old_folder):
    """The process is killed when the old folder is already moved away and the new one is not yet in its place."""
    code = f"""
import os, signal
from prott5nv.io import atomic, work_folders
move = os.replace
def move_and_die(source, target):
    move(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
atomic.os.replace = move_and_die
with atomic.whole_folder({str(old_folder)!r}, replace=True) as temporary:
    (temporary / "new.txt").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert not old_folder.exists()
    write_text(tmp_path / "card.md", "new")
    assert names(tmp_path) == ["card.md", "folder"] and content(old_folder) == {"new.txt": "new"}


@pytest.mark.parametrize("block", ["whole_file('{}/target')", "whole_folder('{}/target')"])
def test_a_killed_process_leaves_no_final_name(tmp_path, block):
    with process_inside(block.format(tmp_path)) as process:
        process.kill()
        process.wait()
    abandoned = names(tmp_path)
    assert len(abandoned) == 1 and abandoned[0].startswith(".prott5nv-")
    write_text(tmp_path / "next.md", "next")
    assert content(tmp_path) == {"next.md": "next"}


def test_a_work_folder_of_a_running_process_is_kept(tmp_path):
    with process_inside(f"whole_file('{tmp_path}/target')") as process:
        write_text(tmp_path / "next.md", "next")
        with whole_file(tmp_path / "third.md") as temporary:
            temporary.write_text("third")
            write_text(tmp_path / "fourth.md", "fourth")  # nor does a process remove its own work folder
        process.communicate("\n", timeout=1000)
        assert process.returncode == 0
    assert content(tmp_path) == {"fourth.md": "fourth", "next.md": "next", "target": "new", "third.md": "third"}


def test_other_hidden_files_are_kept(tmp_path):
    (tmp_path / ".prott5nv-notes").mkdir()
    (tmp_path / ".prott5nv-0123456789abcdef.txt").touch()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "replaced").mkdir(parents=True)
    (elsewhere / "replaced" / "kept.txt").touch()
    (tmp_path / ".prott5nv-0123456789abcdef").symlink_to(elsewhere)
    before = names(tmp_path)
    write_text(tmp_path / "next.md", "next")
    assert names(tmp_path) == sorted([*before, "next.md"]) and names(elsewhere / "replaced") == ["kept.txt"]


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "card.md", "old")
    with pytest.raises(ProtT5nvError) as error, limited(4096):
        write_text(tmp_path / "card.md", "new" * 10_000)
    assert str(error.value) == f"{tmp_path / 'card.md'}: File too large"
    assert content(tmp_path) == {"card.md": "old"}


def test_a_full_disk_is_one_line_and_keeps_the_old_folder(tmp_path, old_folder):
    with pytest.raises(ProtT5nvError) as error, limited(4096), whole_folder(old_folder, replace=True) as temporary:
        (temporary / "new.txt").write_text("new" * 10_000)
    assert str(error.value) == f"{old_folder}: File too large"
    assert names(tmp_path) == ["folder"] and content(old_folder) == {"old.txt": "old"}


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"card\.md: No such file or directory"):
        write_text(tmp_path / "missing" / "card.md", "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_permissions_follow_the_umask(tmp_path, umask, file_mode, folder_mode):
    previous = os.umask(umask)
    try:
        write_text(tmp_path / "card.md", "new")
        with whole_folder(tmp_path / "folder") as temporary:
            (temporary / "new.txt").write_text("new")
    finally:
        os.umask(previous)
    assert (tmp_path / "card.md").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder" / "new.txt").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder_mode


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "card.md").symlink_to(tmp_path / "elsewhere" / "real.md")  # dangling at first
    for text in ("old", "new"):
        write_text(tmp_path / "card.md", text)
        assert (tmp_path / "card.md").is_symlink()
        assert content(tmp_path / "elsewhere") == {"real.md": text}
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    with whole_folder(tmp_path / "folder", replace=True) as temporary:
        (temporary / "a.txt").write_text("a")
    assert (tmp_path / "folder").is_symlink() and content(tmp_path / "elsewhere") == {"a.txt": "a"}


def test_a_symbolic_link_to_another_file_system_is_followed(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "final").symlink_to(tmp_path / "elsewhere" / "real")
    (tmp_path / "partial").write_text("new")

    def move(source, target, replace=os.replace):
        if os.path.basename(source) == "partial":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", move)
    publish(tmp_path / "partial", tmp_path / "final")
    assert names(tmp_path) == ["elsewhere", "final"] and content(tmp_path / "elsewhere") == {"real": "new"}


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_only_a_file_is_replaced(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.stat()
    with pytest.raises(ProtT5nvError, match=f"target: this is a {kind}; give the name of a file"), whole_file(path):
        pytest.fail("the block must not run")
    (tmp_path / "partial").write_text("new")
    with pytest.raises(ProtT5nvError, match=f"this is a {kind}"):
        publish(tmp_path / "partial", path)
    assert path.stat().st_ino == before.st_ino and path.stat().st_mode == before.st_mode


def test_files_of_a_folder_appear_together(tmp_path):
    for number in ("1", "2"):
        with whole_files(tmp_path / "run") as temporary:
            write_text(temporary / "a.csv", number)  # waits for no lock of its own
            (temporary / "b.json").write_text(number)
            assert number == "2" or not (tmp_path / "run").exists()
        assert content(tmp_path / "run") == {"a.csv": number, "b.json": number}
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(KeyError), whole_files(tmp_path / "run") as temporary:
        (temporary / "a.csv").write_text("3")
        raise KeyError
    assert content(tmp_path / "run") == {"a.csv": "2", "b.json": "2", "notes.txt": "mine"}


def test_whole_files_can_be_written_next_to_a_temporary_file(tmp_path):
    with whole_file(tmp_path / "outer.txt") as temporary:
        with whole_file(temporary.with_name("inner.txt")) as inner:
            inner.write_text("inner")
        write_text(temporary, temporary.with_name("inner.txt").read_text())
    assert (tmp_path / "outer.txt").read_text() == "inner"
    assert [path.name for path in tmp_path.iterdir()] == ["outer.txt"]


def test_files_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(ProtT5nvError, match="no more"), together():
        write_text(tmp_path / "new", "new")
        write_text(tmp_path / "old", "new")
        raise ProtT5nvError("no more")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old"}
    with together():
        write_text(tmp_path / "new", "new")
        write_text(tmp_path / "old", "new")
        assert not (tmp_path / "new").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "new", "new": "new"}


def test_whole_files_within_a_work_folder_are_not_delayed(tmp_path):
    with together(), whole_folder(tmp_path / "tables") as temporary:
        with whole_files(temporary) as inner:
            write_text(inner / "a", "a")
        write_text(temporary / "b", "b")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["a", "b"]


@pytest.mark.parametrize("block", ["together()", "whole_files(folder)"])
def test_the_next_command_completes_files_between_whose_names_a_process_was_killed(tmp_path, block, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b", "other"):
        write_text(folder / name, "old")
    killed_between_names(folder, block)
    assert {name: text for name, text in visible(folder).items() if name != "other"} == {"a": "new", "b": "old"}
    with pytest.raises(ProtT5nvError, match="a: exists already"):
        check_outputs([folder / "a", folder / "b", folder / "c"])
    assert content(folder) == {"a": "new", "b": "new", "c": "new", "other": "old"}
    assert caplog.messages == ["completed the output of a command that was killed: b, c"]


def killed_between_names(folder, block: str) -> None:
    """Write the files a, b and c, and kill the process when the first has its name."""
    code = f"""
import os, signal
from pathlib import Path
from prott5nv.io import atomic, work_folders
folder = Path({str(folder)!r})
move = os.replace
def move_and_die(source, target):
    move(source, target)
    if Path(target).parent == folder:
        os.kill(os.getpid(), signal.SIGKILL)
atomic.os.replace = move_and_die
with atomic.{block} as temporary:
    for name in "cab":
        atomic.write_text((temporary or folder) / name, "new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_files_in_other_folders_are_completed_after_a_kill(tmp_path, caplog):
    x, y = tmp_path / "x", tmp_path / "y"
    for folder in (x, y):
        folder.mkdir()
    code = f"""
import os, signal
from pathlib import Path
from prott5nv.io import atomic
move = os.replace
def move_and_die(source, target):
    move(source, target)
    if Path(target).parent == Path({str(x)!r}):
        os.kill(os.getpid(), signal.SIGKILL)
atomic.os.replace = move_and_die
with atomic.together():
    for name in ("x/a", "y/b", "y/c"):
        atomic.write_text(Path({str(tmp_path)!r}) / name, "new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (visible(x), visible(y)) == ({"a": "new"}, {})
    check_outputs([x / "a", y / "b", y / "c"], overwrite=True)
    assert visible(y) == {"b": "new", "c": "new"}
    assert caplog.messages == ["completed the output of a command that was killed: b, c"]


def visible(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("[!.]*")}


def test_a_file_that_was_changed_after_the_kill_stays(tmp_path, caplog):
    killed_between_names(tmp_path, "together()")
    (tmp_path / "older").write_text("mine")
    os.utime(tmp_path / "older", (1, 1))
    (tmp_path / "older").rename(tmp_path / "b")
    write_text(tmp_path / "d", "next")
    assert visible(tmp_path) == {"a": "new", "b": "mine", "c": "new", "d": "next"}
    [kept] = tmp_path.glob(".prott5nv-*/finished-*/*")
    assert (kept.name, kept.read_text()) == ("b", "new")
    assert caplog.messages == [
        f"{tmp_path / 'b'} was changed after a command that writes it was killed; keep it or {kept}",
        "completed the output of a command that was killed: c",
    ]
    kept.rename(tmp_path / "b")
    write_text(tmp_path / "d", "next")
    assert content(tmp_path) == {"a": "new", "b": "new", "c": "new", "d": "next"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_only_another_user_can_replace_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("of another user")
    tmp_path.chmod(0o1777)
    os.chown(tmp_path / "a", 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 23456)
    os.chown(tmp_path, 34567, 34567)
    with pytest.raises(ProtT5nvError, match=r"a: this file belongs to another user; choose another name"):
        atomic.check_replaceable(tmp_path / "a")
    atomic.check_replaceable(tmp_path / "b")
    tmp_path.chmod(0o777)
    atomic.check_replaceable(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_prepared_replaces_nothing(tmp_path):
    write_text(tmp_path / "a", "mine")
    (work_folder := tmp_path / ".prott5nv-0123456789abcdef").mkdir()
    work_folders.finished_folder(work_folder).mkdir()
    (work_folders.finished_folder(work_folder) / "a").write_text("planted")
    os.chown(work_folder, 12345, 12345)
    write_text(tmp_path / "d", "next")
    assert visible(tmp_path)["a"] == "mine"


def test_ctrl_c_between_two_names_leaves_all_files(tmp_path, monkeypatch):
    def move(source, target, replace=os.replace, interrupt=iter([True])):  # noqa: B008
        replace(source, target)
        if os.path.dirname(target) == str(tmp_path) and next(interrupt, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", move)
    with pytest.raises(KeyboardInterrupt), together():
        for name in ("a", "b"):
            write_text(tmp_path / name, "new")
    assert content(tmp_path) == {"a": "new", "b": "new"}


def test_files_that_appear_together_are_refused_together(tmp_path):
    for target in (tmp_path / "x", tmp_path / "y"):
        target.mkdir()
    with pytest.raises(ProtT5nvError, match="1: this is a folder"), together():
        write_text(tmp_path / "x" / "1", "1")
        write_text(tmp_path / "y" / "1", "1")
        (tmp_path / "y" / "1").mkdir()
    assert names(tmp_path / "x") == [] and names(tmp_path / "y") == ["1"]


def test_a_file_whose_block_failed_is_left_out(tmp_path):
    with together():
        with suppress(ProtT5nvError), whole_file(tmp_path / "failed"):
            raise ProtT5nvError("the block failed")
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "folder" / "written", "written")
    assert names(tmp_path) == ["folder"] and content(tmp_path / "folder") == {"written": "written"}


@pytest.mark.parametrize("subfolder", [work_folders.finished_folder, work_folders.replaced_folder])
def test_a_link_in_a_work_folder_is_not_followed(tmp_path, subfolder):
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "mine").write_text("mine")
    (folder := tmp_path / "folder").mkdir()
    (work_folder := folder / ".prott5nv-0123456789abcdef").mkdir()
    subfolder(work_folder).symlink_to(elsewhere)
    write_text(folder / "next", "next")
    assert content(elsewhere) == {"mine": "mine"} and content(folder) == {"next": "next"}


@pytest.mark.parametrize("subfolder", [work_folders.finished_folder, work_folders.replaced_folder])
def test_a_copy_of_a_work_folder_gives_nothing_a_name(tmp_path, subfolder):
    """An archive of a stranger can hold a work folder, but not one of the number that it gets here."""
    (made := tmp_path / "made").mkdir()
    subfolder(made).mkdir()
    (subfolder(made) / "mine").mkdir() if "replaced" in subfolder(made).name else (subfolder(made) / "mine").touch()
    (folder := tmp_path / "folder").mkdir()
    shutil.copytree(made, folder / ".prott5nv-0123456789abcdef")
    write_text(folder / "next", "next")
    assert content(folder) == {"next": "next"}


def test_a_kill_between_the_steps_of_a_replacement_keeps_the_new_folder(tmp_path, old_folder, caplog):
    work_folder = killed_while_replacing(old_folder)
    write_text(tmp_path / "next", "next")
    assert content(old_folder) == {"new.txt": "new"} and not work_folder.exists()
    assert caplog.messages == ["completed the output of a command that was killed: folder"]


def test_both_folders_stay_if_the_name_of_a_replaced_one_is_taken(tmp_path, old_folder, caplog):
    work_folder = killed_while_replacing(old_folder)
    old_folder.mkdir()
    write_text(tmp_path / "next", "next")
    assert content(work_folder / "new" / "folder") == {"new.txt": "new"}
    assert content(work_folders.replaced_folder(work_folder) / "folder") == {"old.txt": "old"}
    assert "a killed command has left two folders folder in it" in caplog.text


def killed_while_replacing(folder):
    """Return the work folder of a process that was killed when the old folder had been moved away."""
    (work_folder := folder.parent / ".prott5nv-0123456789abcdef").mkdir()
    (work_folder / "new" / folder.name).mkdir(parents=True)
    (work_folder / "new" / folder.name / "new.txt").write_text("new")
    work_folders.replaced_folder(work_folder).mkdir()
    folder.rename(work_folders.replaced_folder(work_folder) / folder.name)
    return work_folder


def test_a_file_is_removed_only_if_the_others_have_their_names(tmp_path):
    (tmp_path / "list").write_text("old")
    with pytest.raises(KeyError), together():
        write_text(tmp_path / "table", "new")
        remove_file(tmp_path / "list")
        raise KeyError
    assert content(tmp_path) == {"list": "old"}
    with together():
        remove_file(tmp_path / "list")
        write_text(tmp_path / "table", "new")
        assert (tmp_path / "list").exists()
    assert content(tmp_path) == {"table": "new"}


def test_folders_nested_too_deeply_do_not_stop_a_write(tmp_path):
    deepest = os.open(tmp_path, os.O_RDONLY)
    for name in (".prott5nv-0123456789abcdef", *["a"] * 2000):
        os.mkdir(name, dir_fd=deepest)
        deeper = os.open(name, os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = deeper
    os.close(deepest)
    write_text(tmp_path / "next", "next")
    assert (tmp_path / "next").read_text() == "next"
    subprocess.run(["rm", "-rf", tmp_path / ".prott5nv-0123456789abcdef"], check=True)


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path):
    with pytest.raises(ProtT5nvError, match="this name is too long for the file system; choose a shorter one"):
        atomic.check_replaceable(tmp_path / ("x" * 256))


def test_a_pipe_or_a_lock_of_another_program_does_not_stop_a_write(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / ".prott5nv-0123456789abcdef")
    monkeypatch.setattr(work_folders, "_PATIENCE", 0.1)
    write_text(tmp_path / "first", "first")
    descriptor = open_and_lock(tmp_path)
    write_text(tmp_path / "second", "second")
    os.close(descriptor)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"first", "second"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_complete_files_of_another_user_wait_for_that_user(tmp_path):
    killed_between_names(tmp_path, "together()")
    [work_folder] = tmp_path.glob(".prott5nv-*")
    os.chown(work_folder, 12345, 12345)
    write_text(tmp_path / "d", "next")
    assert set(visible(tmp_path)) == {"a", "d"}
    os.chown(work_folder, 0, 0)
    write_text(tmp_path / "d", "next")
    assert set(visible(tmp_path)) == {"a", "b", "c", "d"}
