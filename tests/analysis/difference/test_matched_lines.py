"""Lines of two recordings are recognised by file, function and text, and by number only where there is no text."""

from __future__ import annotations

from gradprobe.analysis.difference.matched_lines import Line, match_lines


def lines(file: str, *rows: tuple[int, str, str]) -> list[Line]:
    return [Line(file, *row) for row in rows]


def numbers(before: list[Line], after: list[Line], programs: tuple[str, str] = ("", "")) -> dict[int, int]:
    return {line: match for (_, line), (_, match) in match_lines(before, after, programs).lines.items()}


BLOCK = "with torch.no_grad():"


def test_lines_that_moved_down_keep_their_match() -> None:
    before = lines("a.py", (3, "f", BLOCK), (4, "f", "y = net(x)"), (9, "g", BLOCK))
    after = lines("a.py", (13, "f", BLOCK), (14, "f", "y = net(x)"), (19, "g", BLOCK))
    assert numbers(before, after) == {3: 13, 4: 14, 9: 19}


def test_a_new_line_above_takes_the_match_of_none() -> None:
    """The line that is now where another was is not that one."""
    before = lines("a.py", (3, "f", BLOCK), (4, "f", "y = net(x)"))
    after = lines("a.py", (3, "f", "z = first(x)"), (4, "f", BLOCK), (5, "f", "y = net(x)"))
    assert numbers(before, after) == {3: 4, 4: 5}


def test_functions_that_changed_places_and_a_function_with_a_new_name() -> None:
    before = lines("a.py", (3, "f", "a = x + 1"), (9, "g", "b = x * 2"), (12, "h", "c = x / 2"))
    after = lines("a.py", (3, "g", "b = x * 2"), (9, "f", "a = x + 1"), (12, "renamed", "c = x / 2"))
    assert numbers(before, after) == {3: 9, 9: 3, 12: 12}


def test_an_edited_line_is_the_line_that_took_its_place() -> None:
    before = lines("a.py", (3, "f", BLOCK), (4, "f", "y = net(x)"))
    after = lines("a.py", (5, "f", "with torch.inference_mode():"), (6, "f", "y = net(x)"))
    assert numbers(before, after) == {3: 5, 4: 6}


def test_a_line_that_was_replaced_by_two_others_is_gone() -> None:
    before = lines("a.py", (3, "f", "total += loss"), (4, "f", "end()"))
    after = lines("a.py", (3, "f", "value = loss.item()"), (4, "f", "total += value"), (5, "f", "end()"))
    assert numbers(before, after) == {4: 5}


def test_without_text_order_decides_and_equal_numbers_stay() -> None:
    same = lines("a.py", (3, "f", ""), (8, "f", ""))
    assert numbers(same, [*same, Line("a.py", 20, "g", "")]) == {3: 3, 8: 8}
    moved = lines("a.py", (5, "f", ""), (10, "f", ""))
    assert numbers(same, moved) == {3: 5, 8: 10}


def test_files_are_found_in_another_folder_and_under_another_name() -> None:
    before = lines("/old/pkg/a.py", (1, "f", BLOCK)) + lines("/old/b/a.py", (1, "g", "x = 1"))
    after = lines("/new/b/a.py", (2, "g", "x = 1")) + lines("/new/pkg/a.py", (2, "f", BLOCK))
    assert match_lines(before, after).lines == {
        ("/old/pkg/a.py", 1): ("/new/pkg/a.py", 2),
        ("/old/b/a.py", 1): ("/new/b/a.py", 2),
    }
    one, two = lines("/w/before.py", (1, "f", BLOCK)), lines("/w/after.py", (7, "f", BLOCK))
    assert numbers(one, two) == {1: 7}, "by their lines"
    one, two = lines("/w/before.py", (1, "f", "")), lines("/w/after.py", (7, "f", ""))
    assert numbers(one, two, ("before.py", "after.py")) == {1: 7}, "as the program that ran"
    assert numbers(one, two) == {}


def test_what_has_no_place_stays_without_one() -> None:
    found = match_lines([], [])
    assert found.find((None, None)) == (None, None)
    assert found.find(("a.py", 3)) is None
