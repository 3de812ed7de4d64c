"""Start of a recording by the environment variable ``GRADPROBE_RECORD``, in each process that imports torch.

``gradprobe_record.pth``, which is installed beside the package, calls this as Python starts if the variable is set. The
workers of an engine are started by the engine, so that neither a command line nor a line of the user's reaches them.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from gradprobe._levels import DEFAULT_LEVEL
from gradprobe._switch import RECORD_VARIABLE, is_enabled
from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.subprocesses.follow_request import BOOT_FOLDER, FOLLOW_VARIABLE, FollowRequest, make_stem

LEVEL_VARIABLE = "GRADPROBE_LEVEL"


@functools.cache
def record_from_environment() -> None:
    """Record this process from its import of torch on, if the environment requests it.

    Python may run the file that calls this more than once, for each name of the folder that it is in.
    """
    request = _find_request()
    if request is not None:
        PostImportHook("torch", lambda: _start(request)).begin()


def _find_request() -> FollowRequest | None:
    """Return the request of the process that started this one, else one by the variable."""
    path, followed = os.environ.get(RECORD_VARIABLE), os.environ.get(FOLLOW_VARIABLE)
    if not path or not is_enabled() or (followed and BOOT_FOLDER in sys.path):
        return None  # in the last case Python imports a sitecustomize that records
    if followed:
        return FollowRequest(**json.loads(followed))
    # Now and not at the import of torch, before which the program may have changed the folder.
    stem = make_stem(Path(path))
    return FollowRequest(stem, os.environ.get(LEVEL_VARIABLE) or DEFAULT_LEVEL, include_torch=False, parent=None)


def _start(request: FollowRequest) -> None:
    if "gradprobe.commands" in sys.modules:
        return  # a command of gradprobe, which records by itself if at all
    try:
        from gradprobe.subprocesses.follower import follow_process

        Path(request.stem).parent.mkdir(parents=True, exist_ok=True)
        follow_process(asdict(request))
    except Exception as error:  # the program goes on, whatever keeps gradprobe from recording it
        if sys.stderr is not None:
            print(f"gradprobe: process {os.getpid()} is not recorded: {error}", file=sys.stderr)
