"""Random programs that change the modes: as Python source, and as an interpreter of the rules says they must go.

The interpreter knows PyTorch's rules and what a recording promises. It shares no code with gradprobe.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

import gradprobe

State = tuple[bool, bool]  # grad mode, inference mode
FILE = "random_program.py"


class Raised(Exception):  # noqa: N818
    """What a random program raises."""


@dataclass
class Manager:
    name: str
    argument: bool
    drop_in: bool
    line: int = 0
    uses: list[int] = field(default_factory=list)
    """The lines on which a kept object is used."""

    @property
    def path(self) -> str:
        return f"{'gradprobe' if self.drop_in else 'torch'}.{self.name}"

    @property
    def source(self) -> str:
        takes_argument = self.name in ("set_grad_enabled", "inference_mode")
        return f"{self.path}({self.argument if takes_argument else ''})"


Statement = tuple[Any, ...]
Body = list[Statement]

ALL = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode")


def managers(*names: str) -> st.SearchStrategy[Manager]:
    return st.builds(Manager, st.sampled_from(names or ALL), st.booleans(), st.booleans())


LEAVES = (
    st.tuples(st.just("set"), managers("set_grad_enabled")),
    st.tuples(st.just("raw"), st.booleans()),
    st.tuples(st.just("raise")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("wait"), st.integers(0, 10_000)),
    st.tuples(st.just("operate")),
)


def _nested(inner: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
    body = st.lists(inner, max_size=4)
    return st.one_of(
        st.tuples(st.just("with"), st.lists(managers(), min_size=1, max_size=3), body),
        st.tuples(st.just("decorated"), managers(), st.booleans(), body),
        st.tuples(st.just("generator"), managers(), st.booleans(), st.lists(body, min_size=1, max_size=3), body),
        st.tuples(st.just("kept"), managers(), body, body),
        st.tuples(st.just("kept open"), managers("no_grad", "enable_grad", "set_grad_enabled"), body, body),
        st.tuples(st.just("kept decorator"), managers(), body),
        st.tuples(st.just("stack"), st.lists(st.tuples(managers(), body), min_size=1, max_size=3)),
        st.tuples(st.just("try"), body),
        st.tuples(st.just("repeat"), st.integers(2, 4), body),
    )


def programs(max_leaves: int = 14) -> st.SearchStrategy[Body]:
    return st.lists(st.recursive(st.one_of(*LEAVES), _nested, max_leaves=max_leaves), max_size=6)


class Source:
    """Writes a program as Python, and notes in each manager the line that it stands on."""

    def __init__(self, program: Body) -> None:
        self.lines: list[str] = []
        self._numbers = itertools.count()
        self.line("def program():", 0)
        self.body(program, 1)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, text: str, depth: int) -> int:
        self.lines.append("    " * depth + text)
        return len(self.lines)

    def body(self, body: Body, depth: int) -> None:
        self.line("look()", depth)
        for kind, *rest in body:
            getattr(self, kind.replace(" ", "_"), self.plain)(kind, depth, *rest)
            self.line("look()", depth)

    def plain(self, kind: str, depth: int, *arguments: Any) -> None:
        self.line(f"{kind}({', '.join(map(str, arguments))})", depth)

    def set(self, kind: str, depth: int, manager: Manager) -> None:
        manager.line = self.line(manager.source, depth)

    def with_(self, kind: str, depth: int, made: list[Manager], body: Body) -> None:
        line = self.line(f"with {', '.join(m.source for m in made)}:", depth)
        for manager in made:
            manager.line = line
        self.body(body, depth + 1)

    def decorated(self, kind: str, depth: int, manager: Manager, brackets: bool, body: Body) -> None:
        name = self.function(manager, brackets, depth)
        self.body(body, depth + 1)
        self.line(f"{name}()", depth)

    def function(self, manager: Manager, brackets: bool, depth: int) -> str:
        name = f"function_{next(self._numbers)}"
        is_set = manager.name == "set_grad_enabled"
        if not brackets and not is_set:
            manager.argument = True
        # A function's first line is that of its decorator.
        manager.line = self.line(f"@{manager.source if brackets or is_set else manager.path}", depth)
        self.line(f"def {name}():", depth)
        return name

    def generator(
        self, kind: str, depth: int, manager: Manager, brackets: bool, steps: list[Body], between: Body
    ) -> None:
        name = self.function(manager, brackets, depth)
        for step in steps:
            self.body(step, depth + 1)
            self.line("yield", depth + 1)
        self.line(f"for _ in {name}():", depth)
        self.body(between, depth + 1)

    def keep(self, manager: Manager, depth: int) -> str:
        name = f"kept_{next(self._numbers)}"
        manager.line = self.line(f"{name} = {manager.source}", depth)
        return name

    def kept(self, kind: str, depth: int, manager: Manager, first: Body, second: Body) -> None:
        name = self.keep(manager, depth)
        for body in (first, second):
            manager.uses.append(self.line(f"with {name}:", depth))
            self.body(body, depth + 1)

    def kept_open(self, kind: str, depth: int, manager: Manager, outer: Body, inner: Body) -> None:
        name = self.keep(manager, depth)
        manager.uses.append(self.line(f"with {name}:", depth))
        self.body(outer, depth + 1)
        manager.uses.append(self.line(f"with {name}:", depth + 1))
        self.body(inner, depth + 2)

    def kept_decorator(self, kind: str, depth: int, manager: Manager, body: Body) -> None:
        kept = self.keep(manager, depth)
        manager.uses.append(self.line(f"@{kept}", depth))
        self.line(f"def of_{kept}():", depth)
        self.body(body, depth + 1)
        self.line(f"of_{kept}()", depth)

    def stack(self, kind: str, depth: int, parts: list[tuple[Manager, Body]]) -> None:
        name = f"stack_{next(self._numbers)}"
        self.line(f"with contextlib.ExitStack() as {name}:", depth)
        for manager, body in parts:
            manager.line = self.line(f"{name}.enter_context({manager.source})", depth + 1)
            self.body(body, depth + 1)

    def try_(self, kind: str, depth: int, body: Body) -> None:
        self.line("try:", depth)
        self.body(body, depth + 1)
        self.line("except Raised:", depth)
        self.line("pass", depth + 1)

    def repeat(self, kind: str, depth: int, times: int, body: Body) -> None:
        self.line(f"for _ in range({times}):", depth)
        self.body(body, depth + 1)

    def raise_(self, kind: str, depth: int) -> None:
        self.line("raise Raised", depth)


for _keyword in ("with", "try", "raise"):
    setattr(Source, _keyword, getattr(Source, f"{_keyword}_"))


@dataclass
class Real:
    """Runs a program's source with PyTorch; ``states`` are the modes that it finds at each step."""

    drain: Callable[[], object]
    wait: Callable[[int], object]
    states: list[State] = field(default_factory=list)

    def run(self, text: str) -> None:
        parameter = torch.ones(1, requires_grad=True)
        names: dict[str, Any] = {
            "torch": torch,
            "gradprobe": gradprobe,
            "contextlib": contextlib,
            "Raised": Raised,
            "look": lambda: self.states.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())),
            "drain": self.drain,
            "wait": self.wait,
            "raw": torch._C._set_grad_enabled,
            "operate": lambda: parameter + parameter,
        }
        exec(compile(text, FILE, "exec"), names)
        with contextlib.suppress(Raised):
            names["program"]()


class Interpreter:
    """The rules: runs a program without PyTorch, and says what a recording of it must hold."""

    def __init__(self) -> None:
        self.state: State = (True, False)
        self.announced = self.state
        self.states: list[State] = []
        self.rows: list[tuple[Any, ...]] = []
        self.regions: list[dict[str, Any]] = []
        self.open: list[int] = []

    # What a recording notes.

    def depth(self) -> int:
        return sum(self.regions[number]["form"] != "call" for number in self.open)

    def row(self, event: str, region: int, before: State, depth: int) -> None:
        r = self.regions[region]
        change = (*before, *self.state, before == self.state)
        self.rows.append((r["manager"], r["form"], event, *change, depth, r["line"], region))
        self.announced = self.state

    def begin(self, manager: str, form: str, line: int | None) -> int:
        if form == "call" and self.open and self.regions[self.open[-1]]["form"] == "call":
            self.regions[self.open.pop()]["closed"] = True
        self.regions.append(
            {
                "manager": manager,
                "form": form,
                "line": line,
                "parent": self.open[-1] if self.open else None,
                "error": "",
                "closed": False,
            }
        )
        self.open.append(len(self.regions) - 1)
        return self.open[-1]

    def notice(self, line: int | None) -> None:
        """An event is about to happen: a change that nothing announced shows now."""
        if self.state != self.announced:
            self.row("set", self.begin("unknown", "call", line), self.announced, self.depth())

    def change(self, manager: Manager, after: bool, line: int) -> None:
        """A plain call of ``set_grad_enabled``."""
        self.notice(line)
        before, self.state = self.state, (after, self.state[1])
        self.row("set", self.begin(manager.name, "call", line), before, self.depth())

    def block(
        self, manager: Manager, form: str, line: int, body: Callable[[], object], kept: list[bool] | None = None
    ) -> None:
        """Enters and leaves a manager; ``kept`` is the mode that a kept object puts back, changed where it is."""
        self.notice(line)
        before = self.state
        if kept is None:
            kept = [before[0]]
        elif manager.name != "set_grad_enabled":
            kept[0] = before[0]
        self.state = {
            "no_grad": (False, before[1]),
            "enable_grad": (True, before[1]),
            "set_grad_enabled": (manager.argument, before[1]),
            "inference_mode": (not manager.argument, manager.argument),
        }[manager.name]
        depth = self.depth()
        region = self.begin(manager.name, form, line)
        self.row("enter", region, before, depth)
        error = ""
        try:
            body()
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.notice(line)
            inside = self.state
            self.state = before if manager.name == "inference_mode" else (kept[0], self.state[1])
            while self.open[-1] != region:
                self.regions[self.open.pop()]["closed"] = True
            self.open.pop()
            self.regions[region].update(closed=True, error=error)
            self.row("exit", region, inside, depth)

    # What a program does.

    def run(self, body: Body) -> None:
        self.look()
        for kind, *rest in body:
            getattr(self, f"do_{kind.replace(' ', '_')}", lambda *_: None)(*rest)
            self.look()

    def look(self) -> None:
        self.states.append(self.state)

    def do_set(self, manager: Manager) -> None:
        self.change(manager, manager.argument, manager.line)

    def do_raw(self, mode: bool) -> None:
        self.state = (mode, self.state[1])

    def do_raise(self) -> None:
        raise Raised

    def do_try(self, body: Body) -> None:
        with contextlib.suppress(Raised):
            self.run(body)

    def do_repeat(self, times: int, body: Body) -> None:
        for _ in range(times):
            self.run(body)

    def do_with(self, made: list[Manager], body: Body) -> None:
        if not made:
            return self.run(body)
        return self.block(made[0], "with", made[0].line, lambda: self.do_with(made[1:], body))

    def do_decorated(self, manager: Manager, brackets: bool, body: Body) -> None:
        self.block(manager, "decorator", manager.line, lambda: self.run(body))

    def do_generator(self, manager: Manager, brackets: bool, steps: list[Body], between: Body) -> None:
        def body() -> Iterator[None]:
            for step in steps:
                self.run(step)
                yield

        generator = body()
        while True:
            try:
                self.block(manager, "generator", manager.line, lambda: next(generator))
            except StopIteration:
                return
            try:
                self.run(between)
            except Raised:
                # The loop drops the generator, which is then closed under its manager.
                self.block(manager, "generator", manager.line, generator.close)
                raise

    def keep(self, manager: Manager) -> list[bool]:
        kept = [self.state[0]]
        if manager.name == "set_grad_enabled":
            self.change(manager, manager.argument, manager.line)
        return kept

    def do_kept(self, manager: Manager, first: Body, second: Body) -> None:
        kept = self.keep(manager)
        for line, body in zip(manager.uses, (first, second), strict=True):
            self.block(manager, "with", line, lambda body=body: self.run(body), kept)  # type: ignore[misc]

    def do_kept_open(self, manager: Manager, outer: Body, inner: Body) -> None:
        kept = self.keep(manager)

        def body() -> None:
            self.run(outer)
            self.block(manager, "with", manager.uses[1], lambda: self.run(inner), kept)

        self.block(manager, "with", manager.uses[0], body, kept)

    def do_kept_decorator(self, manager: Manager, body: Body) -> None:
        kept = self.keep(manager)
        if manager.name == "set_grad_enabled":
            self.change(manager, kept[0], manager.uses[0])
        self.block(manager, "decorator", manager.uses[0], lambda: self.run(body))

    def do_stack(self, parts: list[tuple[Manager, Body]]) -> None:
        if parts:
            (manager, body), *rest = parts

            def inside() -> None:
                self.run(body)
                self.do_stack(rest)

            self.block(manager, "with", manager.line, inside)
