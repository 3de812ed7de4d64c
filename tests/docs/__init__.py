"""Tests of the documentation. ``generate`` is docs/generate.py, which is a script and no part of a package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
import generate

sys.path.pop(0)

__all__ = ["generate"]
