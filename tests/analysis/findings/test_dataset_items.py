"""The lines of a dataset that run in the workers of a loader are found in the source."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gradprobe.analysis.findings.dataset_items import locate_item_code

DATASET = """
    class Embedded(Dataset):
        def load(self, i):
            return self.files[i]

        def __getitem__(self, i):
            x = self.load(i)
            return self.encoder(x){mark}

    class Plain(Dataset):
        def load(self, i):
            return i

        def __getitem__(self, i):
            return self.load(i)
"""
LOADERS = {
    "constructed for the loader": ("  # runs", "for x in DataLoader(Embedded(), num_workers=2):\n    pass"),
    "a variable": ("  # runs", "data = Embedded()\nloader = DataLoader(dataset=data)\nfor x in loader:\n    pass"),
    "of a class that holds no model": ("", "for x in DataLoader(Plain(), num_workers=2):\n    pass"),
    "of an unknown class": ("", "for x in DataLoader(given):\n    pass"),
}


@pytest.mark.parametrize(("mark", "loader"), LOADERS.values(), ids=LOADERS)
def test_the_call_of_what_a_dataset_holds_is_found(mark: str, loader: str, tmp_path: Path) -> None:
    text = textwrap.dedent(DATASET.format(mark=mark)) + loader + "\n"
    file = tmp_path / "program.py"
    file.write_text(text, encoding="utf-8")
    lines = text.splitlines()
    found = locate_item_code(str(file), lines.index(next(line for line in lines if line.startswith("for x"))) + 1)
    assert [at.line for at in found] == [n for n, line in enumerate(lines, 1) if line.endswith("# runs")]
