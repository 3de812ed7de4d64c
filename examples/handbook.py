"""Eight small programs about PyTorch's gradient modes, and the transitions that gradprobe records in each.

    python examples/handbook.py
    gradprobe run examples/handbook.py

Each program's own output comes first, which is the same without gradprobe, then a row per transition: the line, the
context manager, the form in which it was used, and the mode before and after. Look at

* 1: a decorator enters its mode at every call, and the line is that of the decorator, not that of the call;
* 3: the decorated function enables grad mode again for a caller that disabled it;
* 4 and 5: a plain call of ``set_grad_enabled`` has no end. Program 5 begins in the mode that program 4 left behind;
* 6: a tensor that was created in inference mode has no version counter, also after the block;
* 8: a parameter that is created under ``no_grad`` still requires grad; the product computed from it there does not.

The last part is the report of all eight.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import textwrap

import pandas as pd
import torch

import gradprobe


def no_grad_as_block_and_decorator() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    with torch.no_grad():
        y = x * 2
    print(f"{y.requires_grad = }")

    @torch.no_grad()
    def doubler(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    z = doubler(x)
    print(f"{z.requires_grad = }")


def enable_grad_inside_no_grad() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    with torch.no_grad():
        with torch.enable_grad():
            y = x * 2
    print(f"{y.requires_grad = }")
    y.backward()
    print(f"{x.grad = }")


def enable_grad_as_decorator() -> None:
    @torch.enable_grad()
    def doubler(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    x = torch.tensor([1.0], requires_grad=True)
    with torch.no_grad():
        z = doubler(x)
    print(f"{z.requires_grad = }")


def set_grad_enabled_as_block_and_call() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    is_train = False
    with torch.set_grad_enabled(is_train):
        y = x * 2
    print(f"{y.requires_grad = }")
    torch.set_grad_enabled(True)
    y = x * 2
    print(f"{y.requires_grad = }")
    torch.set_grad_enabled(False)  # gradprobe: ignore[GP101]
    y = x * 2
    print(f"{y.requires_grad = }")


def is_grad_enabled_after_those() -> None:
    print(f"{torch.is_grad_enabled() = }")
    torch.set_grad_enabled(True)
    print(f"{torch.is_grad_enabled() = }")
    with torch.no_grad():
        print(f"{torch.is_grad_enabled() = }")
    print(f"{torch.is_grad_enabled() = }")


def inference_mode_as_block_and_decorator() -> None:
    x = torch.ones(1, 2, 3, requires_grad=True)
    with torch.inference_mode():
        y = x * x
    print(f"{y.requires_grad = }")
    try:
        print(f"{y._version = }")
    except RuntimeError as error:
        print(f"y._version: RuntimeError: {error}")

    @torch.inference_mode()
    def square(x: torch.Tensor) -> torch.Tensor:
        return x * x

    out = square(x)
    print(f"{out.requires_grad = }")


def is_inference_mode_enabled_inside_and_outside() -> None:
    print(f"{torch.is_inference_mode_enabled() = }")
    with torch.inference_mode():
        print(f"{torch.is_inference_mode_enabled() = }")
        with torch.inference_mode(False):
            print(f"{torch.is_inference_mode_enabled() = }")
    print(f"{torch.is_inference_mode_enabled() = }")


def factory_functions_under_no_grad() -> None:
    with torch.no_grad():
        parameter = torch.nn.Parameter(torch.rand(10))
        product = parameter * 2
    print(f"{parameter.requires_grad = }")
    print(f"{product.requires_grad = }")


PROGRAMS = (
    no_grad_as_block_and_decorator,
    enable_grad_inside_no_grad,
    enable_grad_as_decorator,
    set_grad_enabled_as_block_and_call,
    is_grad_enabled_after_those,
    inference_mode_as_block_and_decorator,
    is_inference_mode_enabled_inside_and_outside,
    factory_functions_under_no_grad,
)


def mode(grad: bool, inference: bool) -> str:
    return "inference_mode" if inference else "grad" if grad else "no_grad"


def table(transitions: pd.DataFrame) -> str:
    rows = [
        (
            f"{t.line:3}  {linecache.getline(t.file, t.line).partition('  #')[0].strip()}",
            t.manager,
            t.form,
            t.event,
            f"{mode(t.grad_before, t.inference_before)} -> {mode(t.grad_after, t.inference_after)}",
        )
        for t in transitions.itertuples()
    ]
    return "\n".join(
        f"  {line:46}{manager:18}{form:11}{event:7}{change}" for line, manager, form, event, change in rows
    )


def main() -> None:
    pages = []
    with gradprobe.record() as recording:
        for program in PROGRAMS:
            with contextlib.redirect_stdout(io.StringIO()) as printed, gradprobe.record() as seen:
                program()
            pages.append((program.__name__, printed.getvalue(), seen))

    for number, (name, values, seen) in enumerate(pages, start=1):
        print(f"{number}. {name}\n")
        print(textwrap.indent(values, "       "))
        print(f"{table(seen.transitions)}\n")
    print(recording)


if __name__ == "__main__":
    main()
