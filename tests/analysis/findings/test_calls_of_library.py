"""The line of the program that leads to a line of a library is found in the sources of both."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gradprobe.analysis.findings.calls_of_library import locate_calls
from gradprobe.recording.flow import FlowSite

CLASSIFIER = """
    def _make(features, classes):
        return Linear(features, classes)  # made

    def create_classifier(features, classes):
        return _make(features, classes)
"""
MODEL = """
    class Network:
        def __init__(self, classes):
            self.head = create_classifier(8, classes)

        def forward(self, x):
            return self.head(x)

        def reset_classifier(self, classes):
            self.head = create_classifier(8, classes)
"""
LAYERS = """
    class Head:
        def __init__(self, features, classes):
            self.weight = Parameter(zeros(classes, features))  # made
"""
CASES = {
    "a method that other functions of the library lead to": (
        {"classifier.py": CLASSIFIER, "model.py": MODEL},
        "_make",
        """
        model = library.create("network", 10)
        optimizer = SGD(model.parameters())
        model.reset_classifier(5)  # found
        train(model)
        """,
    ),
    "a constructor": (
        {"layers.py": LAYERS},
        "Head.__init__",
        """
        model.head = library.Head(8, 5)  # found
        train(model)
        """,
    ),
    "nothing: the program only constructs the model": (
        {"classifier.py": CLASSIFIER, "model.py": MODEL},
        "_make",
        """
        model = library.create("network", 10)
        train(model)
        """,
    ),
}


@pytest.mark.parametrize(("library", "function", "program"), CASES.values(), ids=CASES)
def test_calls_of_the_program_that_lead_to_a_line_of_a_library(
    library: dict[str, str], function: str, program: str, tmp_path: Path
) -> None:
    folder = tmp_path / "site-packages" / "library"
    folder.mkdir(parents=True)
    sites = []
    for name, text in library.items():
        (folder / name).write_text(textwrap.dedent(text))
        line = next((number for number, each in enumerate(text.splitlines(), 1) if "# made" in each), 1)
        sites.append(FlowSite(str(folder / name), line, function, "aten.empty", ""))
    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(program))
    found = locate_calls(sites[0], sites, [str(file)], "replaced here")
    expected = [number for number, line in enumerate(program.splitlines(), 1) if "# found" in line]
    assert [(at.file, at.line) for at in found] == [(str(file), line) for line in expected]
