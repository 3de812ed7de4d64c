"""``gradprobe.gather()``: one recording of all ranks, over torch.distributed, without a shared disk."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradprobe._files import SUFFIX
from gradprobe.errors import GradprobeError
from gradprobe.recording.contents import Contents
from gradprobe.recording.sqlite_file import read_file, write_file
from gradprobe.result import Recording
from gradprobe.stored_recordings import StoredRecording


def gather(recording: Recording, *, dst: int = 0, group: Any = None) -> Recording | None:
    """Gather the recordings of all ranks into one, on a common time axis.

    Every rank of ``group`` must call it, after its recording has ended and before the process group is destroyed.

    Args:
        recording (Recording): The recording of this rank.
        dst (int): Global rank that receives the merged recording. Default: 0.
        group (ProcessGroup, optional): The process group. Default: the default group.

    Returns:
        Recording or None: the merged recording on rank ``dst``, None on the other ranks.

    Raises:
        GradprobeError: torch is built without torch.distributed, no process group is initialized, or, on rank ``dst``,
            the recording of another rank cannot be read.

    Example::

        with gradprobe.record() as recording:
            train()
        merged = gradprobe.gather(recording)
        if merged is not None:
            merged.to_html("ranks.html")
        torch.distributed.destroy_process_group()
    """
    import torch.distributed as distributed

    if not distributed.is_available():
        raise GradprobeError(
            "cannot gather: this torch is built without torch.distributed; merge the files of the ranks"
        )
    if not distributed.is_initialized():
        raise GradprobeError("cannot gather: no process group is initialized; call it before destroy_process_group()")
    rank = distributed.get_rank(group)
    own_files = [_serialize(_set_rank(contents, rank)) for contents in recording._tables.contents]
    gathered: list[Any] | None = [None] * distributed.get_world_size(group) if rank == dst else None
    distributed.gather_object(own_files, gathered, dst=dst, group=group)
    if gathered is None:
        return None
    contents = [_deserialize(data) for files in gathered for data in files]
    return Recording(StoredRecording(contents))


def _set_rank(contents: Contents, rank: int) -> Contents:
    environment: dict[str, Any] = contents.meta.get("environment", {})
    known = environment.get("rank")
    return replace(
        contents, meta={**contents.meta, "environment": {**environment, "rank": rank if known is None else known}}
    )


def _serialize(contents: Contents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rank{SUFFIX}")
        write_file(path, contents)
        return path.read_bytes()


def _deserialize(data: bytes) -> Contents:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rank{SUFFIX}")
        path.write_bytes(data)
        return read_file(path)
