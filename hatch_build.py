"""Hook of the build that puts libraries which observe operators into a wheel for this kind of machine and Python.

``GRADPROBE_SHIPPED`` names their folders, as ``gradprobe build-core`` made them; without it the wheel is for any machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "gradprobe/capture/ops/native/shipped"
FILES = ("gradprobe_core.so", "sum.txt")


class ShippedLibraries(BuildHookInterface[Any]):
    """The libraries of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the files of the wheel."""
        folders = [Path(folder) for folder in os.environ.get("GRADPROBE_SHIPPED", "").split(os.pathsep) if folder]
        if version != "standard" or not folders:
            return
        for folder in folders:
            for name in FILES:
                build_data["force_include"][str(folder / name)] = f"{PLACE}/{folder.name}/{name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
