"""The folder ``OUT.partial`` of a run on Ray, which lets an interrupted run resume.

``run.json`` states settings and input of the run, and is locked by the process that leads it. ``input/`` holds the
proteins of each shard, ``shards/`` the finished shards, and ``done/`` what is known of each finished shard. A shard is
finished when its file in ``done/`` exists. The nodes of a cluster share this folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prott5nv.embedding.commits import Skipped
from prott5nv.embedding.partial import JOURNAL, open_locked, partial_folder
from prott5nv.embedding.shard_folder import Shard, shard_name
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import write_text
from prott5nv.io.output import check_unlinked
from prott5nv.io.sync import sync_folder

_OWN = re.compile(r"run\.json|input|shards|done|copies|replaced|\.prott5nv-[0-9a-f]{16}|\.nfs\w+")


class Done(NamedTuple):
    """A finished shard, and the records that it lacks."""

    shard: Shard
    skipped: list[Skipped]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes
    ----------
    output : Path
        The folder to write in the end.
    """

    output: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return partial_folder(self.output)

    @property
    def shards(self) -> Path:
        """The folder of finished shards, which becomes the output."""
        return self.path / "shards"

    @property
    def copies(self) -> Path:
        """The folder of the copies of remote input files."""
        return self.path / "copies"

    def input(self, number: int) -> Path:
        """Return the file with the proteins of a shard."""
        return self.path / "input" / f"{number:06d}.parquet"

    def shard(self, number: int) -> Path:
        """Return the file with the embeddings of a shard."""
        return self.shards / shard_name(number)

    def done(self, number: int) -> Path:
        """Return the file that exists when a shard is finished."""
        return self.path / "done" / f"{number:06d}.json"

    def is_done(self, number: int) -> bool:
        """Return whether a shard is finished."""
        return self.done(number).exists()

    def write_done(self, number: int, done: Done) -> None:
        """Note that a shard is finished."""
        write_text(self.done(number), json.dumps({"shard": done.shard._asdict(), "skipped": done.skipped}))

    def read_done(self, number: int) -> Done:
        """Return what is known of a finished shard.

        Raises
        ------
        ProtT5nvError
            If the shard or the file in ``done/`` is missing or damaged.
        """
        path = self.done(number)
        try:
            content = json.loads(path.read_bytes())
            done = Done(Shard(**content["shard"]), [Skipped(*skipped) for skipped in content["skipped"]])
            size = self.shard(number).stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            size = None
        if size is None or size != done.shard.bytes:
            raise ProtT5nvError(
                f"{self.shard(number)} or {path} is missing or damaged: delete both, and give the same command again. "
                "All nodes must see the folder of the output under the same path"
            )
        return done

    def attempts(self, number: int) -> int:
        """Count one more attempt to embed a shard, and return how many there were in this run."""
        with open(self.path / "input" / f"{number:06d}.attempts", "ab") as file:
            file.write(b".")
            return file.tell()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep other processes from leading a run in it until the block ends.

        Raises
        ------
        ProtT5nvError
            If another process leads a run to this output, or a run without Ray has not finished.
        """
        if (self.path / JOURNAL).exists():
            raise ProtT5nvError(
                f"{self.path} holds an unfinished run without --ray: finish it with its own command, or delete that "
                "folder to start again"
            )
        check_unlinked(self.path)
        with open_locked(self._header, _OWN):
            shutil.rmtree(self.path / "input", ignore_errors=True)  # Each start writes it again.
            for folder in "input", "shards", "done":
                (self.path / folder).mkdir(exist_ok=True)
            try:
                yield
            finally:
                if not self.header() and not self.copies.exists():  # The run has not started, or it has finished.
                    self.discard()

    @property
    def _header(self) -> Path:
        return self.path / "run.json"

    def header(self) -> dict[str, Any]:
        """Return the description of the unfinished run; empty for a new one."""
        try:
            header = json.loads(self._header.read_bytes())
        except (OSError, ValueError):  # The folder is new, or the run was killed while it wrote the file.
            header = None
        return header if isinstance(header, dict) else {}

    def start(self, header: dict[str, Any]) -> None:
        """Describe a new run. Shards of a run without a description are removed.

        Parameters
        ----------
        header : dict
            What :meth:`header` returns from now on.
        """
        for path in (*self.shards.iterdir(), *(self.path / "done").iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with open(self._header, "r+", encoding="utf-8") as file:  # in place, because this file is locked
            file.truncate(0)
            json.dump(header, file)
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give the folder of finished shards the name of the output, and remove everything else."""
        replaced = self.path / "replaced"
        if replaced.exists():
            shutil.rmtree(replaced)
        if self.output.exists():
            os.replace(self.output, replaced)
        os.replace(self.shards, self.output)
        sync_folder(self.output.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
