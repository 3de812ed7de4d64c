"""``gradprobe.gather()``: the recordings of all ranks of a job as one, over torch.distributed, without a shared disk."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.recording.contents import Contents
from gradprobe.recording.sqlite_file import SUFFIX, read_file, write_file
from gradprobe.result import Recording, StoredRecording


def gather(recording: Recording, *, dst: int = 0, group: Any = None) -> Recording | None:
    """The recordings of all ranks on one time axis on rank ``dst``, None on the others.

    Every rank of ``group`` calls it once its recording has ended, before the process group is destroyed. Raises
    ``GradprobeError`` where no process group is there, and on rank ``dst`` where what came from another cannot be read.
    """
    import torch.distributed as distributed

    if not distributed.is_available():
        raise GradprobeError("this torch is built without torch.distributed; merge the files of the ranks instead")
    if not distributed.is_initialized():
        raise GradprobeError("there is no process group to gather over; call it before destroy_process_group()")
    rank = distributed.get_rank(group)
    mine = [_packed(_of_rank(contents, rank)) for contents in recording._tables.contents]
    everything: list[Any] | None = [None] * distributed.get_world_size(group) if rank == dst else None
    distributed.gather_object(mine, everything, dst=dst, group=group)
    if everything is None:
        return None
    contents = [_unpacked(data) for files in everything for data in files]
    return Recording(StoredRecording(contents))


def _of_rank(contents: Contents, rank: int) -> Contents:
    environment: dict[str, Any] = contents.meta.get("environment", {})
    known = environment.get("rank")
    return replace(
        contents, meta={**contents.meta, "environment": {**environment, "rank": rank if known is None else known}}
    )


def _packed(contents: Contents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rank{SUFFIX}")
        write_file(path, contents)
        return path.read_bytes()


def _unpacked(data: bytes) -> Contents:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rank{SUFFIX}")
        path.write_bytes(data)
        return read_file(path)
