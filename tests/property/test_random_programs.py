"""Random nested programs against a small model of PyTorch's mode rules, written without looking at gradprobe's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.recorder import Recorder

Row = tuple[Any, ...]


class Raised(Exception):  # noqa: N818
    """What a random program raises."""


@dataclass
class Object:
    """A manager object: which manager, with which argument; ``kept`` is what it holds to restore."""

    manager: str
    argument: bool
    drop_in: bool
    kept: list[Any] = field(default_factory=list)

    def make(self) -> Any:
        source = gradprobe if self.drop_in else torch
        if self.manager in ("set_grad_enabled", "inference_mode"):
            return getattr(source, self.manager)(self.argument)
        return getattr(source, self.manager)()


Statement = tuple[Any, ...]
objects = st.builds(
    Object,
    st.sampled_from(["no_grad", "enable_grad", "set_grad_enabled", "inference_mode"]),
    st.booleans(),
    st.booleans(),
)
leaves = st.one_of(
    st.tuples(st.just("set"), st.booleans()),
    st.tuples(st.just("raw"), st.booleans()),
    st.tuples(st.just("raise")),
)


def nested(inner: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
    bodies = st.lists(inner, max_size=4)
    return st.one_of(
        st.tuples(st.just("block"), objects, bodies),
        st.tuples(st.just("decorated"), objects, bodies),
        st.tuples(st.just("generator"), objects, st.lists(bodies, min_size=1, max_size=2)),
        st.tuples(st.just("again"), objects, bodies, bodies),
        st.tuples(st.just("within itself"), objects.filter(lambda o: o.manager != "inference_mode"), bodies),
        st.tuples(st.just("try"), bodies),
    )


programs = st.lists(st.recursive(leaves, nested, max_leaves=12), max_size=6)


class Model:
    """The rules: runs a program without PyTorch, and says what should be recorded."""

    def __init__(self) -> None:
        self.grad, self.inference = True, False
        self.announced = (True, False)
        self.states: list[tuple[bool, bool]] = []
        self.rows: list[Row] = []
        self.regions: list[dict[str, Any]] = []
        self.open: list[int] = []

    @property
    def state(self) -> tuple[bool, bool]:
        return self.grad, self.inference

    def row(self, manager: str, form: str, event: str, before: tuple[bool, bool], depth: int) -> None:
        self.rows.append((manager, form, event, *before, *self.state, before == self.state, depth))
        self.announced = self.state

    def depth(self) -> int:
        return sum(self.regions[number]["form"] != "call" for number in self.open)

    def begin(self, manager: str, form: str) -> int:
        if form == "call" and self.open and self.regions[self.open[-1]]["form"] == "call":
            self.regions[self.open.pop()]["closed"] = True
        parent = self.open[-1] if self.open else None
        self.regions.append({"manager": manager, "form": form, "parent": parent, "closed": False, "error": ""})
        self.open.append(len(self.regions) - 1)
        return self.open[-1]

    def notice(self) -> None:
        """An event is about to happen: a change that nothing announced shows now."""
        if self.state != self.announced:
            self.begin("unknown", "call")
            self.row("unknown", "call", "set", self.announced, self.depth())

    def block(self, made: Object, form: str, body: Callable[[], None], *, new: bool = True) -> None:
        """Enters the object, just constructed if it is ``new``, and leaves it after ``body``."""
        self.notice()
        before = self.state
        if made.manager == "inference_mode":
            made.kept = [self.grad, self.inference]
            self.grad, self.inference = not made.argument, made.argument
        else:
            if new or made.manager != "set_grad_enabled":
                made.kept = [self.grad]
            self.grad = {"no_grad": False, "enable_grad": True}.get(made.manager, made.argument)
        depth = self.depth()
        region = self.begin(made.manager, form)
        self.row(made.manager, form, "enter", before, depth)
        error = ""
        try:
            body()
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.notice()
            before = self.state
            self.grad = made.kept[0]
            if made.manager == "inference_mode":
                self.inference = made.kept[1]
            while self.open[-1] != region:
                self.regions[self.open.pop()]["closed"] = True
            self.open.pop()
            self.regions[region].update(closed=True, error=error)
            self.row(made.manager, form, "exit", before, depth)

    def plain(self, mode: bool) -> None:
        self.notice()
        before, self.grad = self.state, mode
        self.begin("set_grad_enabled", "call")
        self.row("set_grad_enabled", "call", "set", before, self.depth())

    def keep(self, made: Object) -> None:
        """Constructs an object that is entered later."""
        if made.manager == "set_grad_enabled":
            grad = self.grad
            self.plain(made.argument)
            made.kept = [grad]

    def run(self, body: list[Statement]) -> None:
        self.states.append(self.state)
        for kind, *rest in body:
            if kind == "set":
                self.plain(*rest)
            elif kind == "raw":
                self.grad = rest[0]
            elif kind == "raise":
                raise Raised
            elif kind == "try":
                with contextlib.suppress(Raised):
                    self.run(rest[0])
            elif kind in ("block", "decorated"):
                form = "with" if kind == "block" else "decorator"
                self.block(rest[0], form, lambda body=rest[1]: self.run(body))  # type: ignore[misc]
            elif kind == "generator":
                for step in rest[1]:
                    self.block(rest[0], "generator", lambda body=step: self.run(body))  # type: ignore[misc]
                with contextlib.suppress(StopIteration):
                    self.block(rest[0], "generator", end_of_generator)
            elif kind == "again":
                self.keep(rest[0])
                self.block(rest[0], "with", lambda body=rest[1]: self.run(body), new=False)  # type: ignore[misc]
                self.block(rest[0], "with", lambda body=rest[2]: self.run(body), new=False)  # type: ignore[misc]
            elif kind == "within itself":
                self.keep(rest[0])
                inner = functools.partial(self.block, rest[0], "with", lambda body=rest[1]: self.run(body), new=False)
                self.block(rest[0], "with", inner, new=False)
            self.states.append(self.state)


def end_of_generator() -> None:
    raise StopIteration


class Real:
    """Runs the same program with PyTorch."""

    def __init__(self) -> None:
        self.states: list[tuple[bool, bool]] = []

    def look(self) -> None:
        self.states.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    def run(self, body: list[Statement]) -> None:
        self.look()
        for kind, *rest in body:
            if kind == "set":
                torch.set_grad_enabled(*rest)
            elif kind == "raw":
                torch._C._set_grad_enabled(*rest)
            elif kind == "raise":
                raise Raised
            elif kind == "try":
                with contextlib.suppress(Raised):
                    self.run(rest[0])
            elif kind == "block":
                with rest[0].make():
                    self.run(rest[1])
            elif kind == "decorated":
                rest[0].make()(self.run)(rest[1])
            elif kind == "generator":
                list(rest[0].make()(self.steps)(rest[1]))
            elif kind == "again":
                made = rest[0]
                # Constructed here, as a program does that keeps it: what a helper makes for a block is one with it.
                is_set, source = made.manager == "set_grad_enabled", gradprobe if made.drop_in else torch
                kept = source.set_grad_enabled(made.argument) if is_set else made.make()
                with kept:
                    self.run(rest[1])
                with kept:
                    self.run(rest[2])
            elif kind == "within itself":
                made = rest[0]
                # Constructed here, as a program does that keeps it: what a helper makes for a block is one with it.
                is_set, source = made.manager == "set_grad_enabled", gradprobe if made.drop_in else torch
                kept = source.set_grad_enabled(made.argument) if is_set else made.make()
                with kept:
                    with kept:
                        self.run(rest[1])
            self.look()

    def steps(self, bodies: list[list[Statement]]) -> Iterator[None]:
        for body in bodies:
            self.run(body)
            yield


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_every_transition_and_region_of_a_random_program_is_as_the_rules_say(program: list[Statement]) -> None:
    model, real = Model(), Real()
    with contextlib.suppress(Raised):
        model.run(program)
    recorder = Recorder(level="modes")
    recording = recorder.start()
    try:
        with contextlib.suppress(Raised):
            real.run(program)
    finally:
        recorder.stop()
        torch._C._set_grad_enabled(True)
    model.notice()  # as the end of a recording does
    assert real.states == model.states
    columns = ["manager", "form", "event", "grad_before", "inference_before", "grad_after", "inference_after"]
    seen = recording.transitions[[*columns, "redundant", "depth"]]
    assert list(seen.itertuples(index=False, name=None)) == model.rows
    regions = recording.regions
    tree = regions[["manager", "form", "closed", "error"]].to_dict("records")
    assert tree == [{key: r[key] for key in ("manager", "form", "closed", "error")} for r in model.regions]
    parents = [None if parent is pd.NA else int(parent) for parent in regions["parent"].tolist()]
    assert parents == [r["parent"] for r in model.regions]
    assert (regions["self_ns"] >= 0).all()
    assert (regions["self_ns"] <= regions["duration_ns"]).all()
