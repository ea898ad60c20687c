"""A file is the one before or the whole new one, whatever stops its writing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.files import disk_errors, file_sha256, whole_file, write_text
from rewards import CheckError, InputError


def test_a_file_takes_its_name_when_it_is_whole_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with whole_file(path) as file:
        file.write(b"one\n")
        assert not path.exists()
    assert path.read_bytes() == b"one\n"
    write_text(path, "zwei: ä\n")
    assert path.read_bytes() == "zwei: ä\n".encode()
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [InputError("row 3"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_what_stops_the_writing_passes_and_leaves_the_file_before(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(type(error)), whole_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


FULL = """
import resource, signal, sys
from pathlib import Path
from benchmarks.files import whole_file
from rewards import CheckError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with whole_file(Path(sys.argv[1])) as file:
        for _ in range(100):
            file.write(b"x" * 1000)
except CheckError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written (File too large); make room or choose another folder")
    assert done.stdout.count("\n") == 1
    assert path.read_text() == "before" and len([*tmp_path.iterdir()]) == 1


def test_a_folder_that_cannot_be_made_and_a_folder_in_the_file_s_place_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckError, match=r"file: cannot be written \(.*\); make room or choose another folder"):
        write_text(tmp_path / "file" / "below", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckError, match=r"folder: cannot be written \(Is a directory\)"):
        write_text(tmp_path / "folder", "text")
    assert {one.name for one in tmp_path.iterdir()} == {"file", "folder"}


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="No space left on device"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
