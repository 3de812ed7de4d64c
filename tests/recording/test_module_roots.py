"""Names of modules for a reader."""

from __future__ import annotations

import pytest

from gradprobe.recording.module_roots import ModuleNames, ModuleRoot, read_module_names, write_root

STUDENT, TEACHER = ModuleRoot("Net", "Net", "student"), ModuleRoot("Net#2", "Net", "teacher")


@pytest.mark.parametrize(
    ("roots", "shown"),
    [
        ([], ["Net.fc", "Net#2.fc"]),
        ([STUDENT], ["Net.fc", "Net#2.fc"]),
        ([STUDENT, TEACHER], ["student.fc", "teacher.fc"]),
        ([STUDENT, TEACHER._replace(variable="student")], ["Net#1.fc", "Net#2.fc"]),
        ([STUDENT, TEACHER._replace(variable="")], ["student.fc", "Net#2.fc"]),
        ([STUDENT, TEACHER, ModuleRoot("teacher", "teacher", "x")], ["student.fc", "Net#2.fc"]),
        ([STUDENT, TEACHER, ModuleRoot("Other", "Other", "student")], ["student.fc", "teacher.fc"]),
        ([STUDENT, TEACHER._replace(path="Big.net")], ["Net.fc", "Big.net.fc"]),
        ([STUDENT._replace(path="Net.net"), TEACHER], ["student.fc", "teacher.fc"]),
    ],
    ids=["none", "one", "two", "same-variable", "no-variable", "taken", "other-class", "part", "itself"],
)
def test_names_tell_the_outermost_modules_apart(roots: list[ModuleRoot], shown: list[str]) -> None:
    names = ModuleNames(roots)
    assert [names.show("Net.fc"), names.show("Net#2.fc")] == shown
    assert names.show("Other") == "Other"
    assert names.show("parameter 2 of Adam") == "parameter 2 of Adam"


def test_a_part_of_a_part_has_the_path_from_the_outermost_module() -> None:
    names = ModuleNames([ModuleRoot("A", "A", "a", "B.a"), ModuleRoot("B", "B", "b", "C.b"), ModuleRoot("C", "C", "c")])
    assert names.show("A.fc") == "C.b.a.fc"
    assert names.show_class("C.b") == "C.b"


def test_parts_of_each_other_end() -> None:
    names = ModuleNames([ModuleRoot("A", "A", "a", "B.a"), ModuleRoot("B", "B", "b", "A.b")])
    assert names.show("A.fc").endswith(".fc")


def test_notes_bring_the_names_back_and_others_are_left_out() -> None:
    notes = [write_root(STUDENT), write_root(TEACHER), ("module root", "[1]", 1), ("fault", "x", 1)]
    names = read_module_names(notes)
    assert (names.show("Net"), names.show_class("teacher.fc")) == ("student", "Net.fc")
