"""Why two runs of a program differ, as one of a closed list of classes, with the lines that show it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradprobe.advice.line_trace import FIRST_VIRTUAL_LINE, INFERENCE, Trace
from gradprobe.advice.manager_sites import Site, SourceFile

REASONS = {
    "none": "Both runs agree.",
    "saved_for_backward": "A tensor of the block is saved for backward later.",
    "written_in_place": "A tensor of the block is modified in place later, outside of inference mode.",
    "version_read": "The version counter of a tensor of the block is read later.",
    "requires_grad": "A tensor of the block is to require grad later.",
    "functional": "The block uses forward AD or a function transform, which inference mode disables.",
    "nested_grad": "The block computes gradients inside of it, which inference mode does not allow.",
    "subclass": "A tensor subclass or a wrapper meets inference mode, which dispatches other operators to it.",
    "compiled": "Compiled code meets both kinds of tensors or both modes, and is compiled again or fails.",
    "leaves_process_or_pickle": "A tensor of the block goes to another process or through pickle.",
    "results_differ": "The runs differ without an exception.",
    "not_run": "Lines that did not run could meet what the block leaves.",
    "not_repeatable": "The program does not repeat itself.",
    "timeout": "A run did not end in time.",
    "escapes_unknown": "The result goes to callers that are not part of the program.",
}
"""Classes of reasons, each with its meaning."""

OF_ESCAPED = frozenset(
    ["saved_for_backward", "written_in_place", "version_read", "requires_grad", "results_differ", "subclass"]
)
"""Reasons that lie in what happens to a tensor after its block."""

_MESSAGES = (
    (r"cannot be saved for backward", "saved_for_backward"),
    (r"Inplace update to inference tensor|created in inference mode and is being modified inplace", "written_in_place"),
    (r"do not track version counter|_unsafe_set_version", "version_read"),
    (r"Setting requires_grad=True on inference tensor", "requires_grad"),
    (r"Cannot set version_counter for inference tensor", "subclass"),
)
_NO_GRAD_MESSAGE = re.compile(
    r"do(es)? not require grad|not have been used in the graph|does not have a grad_fn|has no grad|NoneType"
)
_FUNCTIONAL = ("torch.func.", "functorch.", "torch.autograd.functional.", "torch.autograd.forward_ad.", "torch.vmap")
_FUNCTIONAL_NAMES = frozenset(
    [
        "jvp",
        "vjp",
        "jacobian",
        "hessian",
        "jacrev",
        "jacfwd",
        "hvp",
        "vhp",
        "vmap",
        "make_dual",
        "unpack_dual",
        "dual_level",
        "functional_call",
        "grad_and_value",
        "linearize",
    ]
)
_GRADIENT_NAMES = frozenset(["enable_grad", "backward", "grad", "requires_grad_", "autograd_grad"])
_SUBCLASS_NAMES = frozenset(
    [
        "__torch_dispatch__",
        "__torch_function__",
        "_make_wrapper_subclass",
        "TorchDispatchMode",
        "TorchFunctionMode",
        "quantize_dynamic",
        "nested_tensor",
        "DTensor",
        "distribute_tensor",
        "FullyShardedDataParallel",
        "fully_shard",
        "quantize_per_tensor",
        "as_nested_tensor",
    ]
)
_PROCESS_MODULES = (
    "pickle.",
    "multiprocessing.",
    "torch.multiprocessing.",
    "torch.distributed.",
    "concurrent.futures.",
)
_COMPILER_ERRORS = ("BackendCompilerFailed", "InternalTorchDynamoError", "TorchRuntimeError", "Unsupported")
_COMPILED = ("torch.compile", "torch.jit.", "torch._dynamo", "torch.export")


@dataclass(frozen=True)
class Reason:
    """A class of reasons, the sentence for it, and lines with their roles."""

    name: str
    message: str
    lines: tuple[tuple[str, int, str], ...] = ()


def explain_difference(
    site: Site,
    files: Sequence[SourceFile],
    normal: Trace,
    inference: Trace,
    difference: str,
    failures: Sequence[str] = (),
) -> Reason:
    """Return why the run under inference mode differs from the one under ``no_grad``.

    Args:
        site: The site that differs between the runs.
        files: The files of the program.
        normal: What was traced of the run with ``no_grad`` at the site.
        inference: What was traced of the run with ``inference_mode`` at the site.
        difference: What differs, in words.
        failures: Messages of tests that fail under inference mode alone.
    """
    known = {(file, text) for file, _, _, text in normal.exceptions}
    new = [each for each in inference.exceptions if (each[0], each[3]) not in known]
    signals = list(_find_signals(files, inference))
    functional = [s for s in signals if s[0] == "functional"]
    for file, raw_line, kind, text in new:
        line = find_real_line(files, file, raw_line)
        for pattern, name in _MESSAGES:
            if re.search(pattern, text):
                if kind in _COMPILER_ERRORS:
                    name = "compiled"
                elif (file, raw_line, text) in inference.failed_elsewhere or _leaves_process(files, file, line):
                    name = "leaves_process_or_pickle"
                where = (file, line, _describe(kind, text))
                return Reason(name, REASONS[name], (where, *(s[1] for s in signals if s[0] == name)))
        if _NO_GRAD_MESSAGE.search(text):
            name = "functional" if functional else "nested_grad"
            where = (file, line, _describe(kind, text))
            return Reason(name, REASONS[name], (where, *(s[1] for s in signals if s[0] == name)))
    for text in failures:
        for pattern, name in _MESSAGES:
            if re.search(pattern, text):
                return Reason(name, f"{REASONS[name]} {difference}", tuple(s[1] for s in signals if s[0] == name))
    raised = tuple(
        (file, find_real_line(files, file, line), _describe(kind, text)) for file, line, kind, text in new[:1]
    )
    for name in ("functional", "nested_grad", "subclass", "compiled", "version_read", "leaves_process_or_pickle"):
        lines = tuple(signal[1] for signal in signals if signal[0] == name)
        if lines:
            return Reason(name, f"{REASONS[name]} {difference}", (*raised, *lines))
    return Reason("results_differ", f"{REASONS['results_differ']} {difference}", raised)


def _leaves_process(files: Sequence[SourceFile], file: str, line: int) -> bool:
    """Return whether a line passes tensors to other processes."""
    return any(
        isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and (each.names.resolve(node.func) or "").startswith(_PROCESS_MODULES)
        for each in files
        if each.file == file
        for node in ast.walk(each.tree)
    )


def _describe(kind: str, text: str) -> str:
    return f"raises: {kind}: {text.partition('. ')[0][:120]}"


def find_real_line(files: Sequence[SourceFile], file: str, line: int) -> int:
    """Return the line of the source that a traced line number stands for."""
    if line < FIRST_VIRTUAL_LINE:
        return line
    from gradprobe.advice.line_trace import _LINES_PER_PART, list_parts, part_number

    for each in files:
        if each.file == file:
            parts = list_parts(each.tree)
            return parts[part_number(line)][1] + line % _LINES_PER_PART
    return 0


def _find_signals(files: Sequence[SourceFile], trace: Trace) -> Iterator[tuple[str, tuple[str, int, str]]]:
    """Yield what in the source may explain a difference: the class and the line, those that ran in the block first."""
    inside = {
        (file, find_real_line(files, file, line))
        for (file, line), modes in trace.lines.items()
        if any(mode & INFERENCE for mode in modes)
    }
    for file in files:
        for node in ast.walk(file.tree):
            place = (file.file, getattr(node, "lineno", 0))
            if isinstance(node, ast.Call):
                yield from _classify_call(file, node, place, place in inside)
            elif isinstance(node, ast.Attribute) and node.attr == "_version":
                yield "version_read", (*place, "reads a version counter")
            elif isinstance(node, ast.FunctionDef | ast.Name | ast.Attribute) and _get_name(node) in _SUBCLASS_NAMES:
                yield "subclass", (*place, "has operators dispatched to it")
            elif isinstance(node, ast.ClassDef) and any(_is_tensor_class(file, base) for base in node.bases):
                yield "subclass", (*place, "a subclass of Tensor")
            if isinstance(node, ast.Attribute | ast.Name):
                dotted = file.names.resolve(node) or ""
                if dotted.startswith(_COMPILED):
                    yield "compiled", (*place, "compiles")


def _classify_call(
    file: SourceFile, call: ast.Call, place: tuple[str, int], is_inside: bool
) -> Iterator[tuple[str, tuple[str, int, str]]]:
    dotted = file.names.resolve(call.func) or ""
    name = dotted.rpartition(".")[2] or _get_name(call.func)
    if dotted.startswith(_PROCESS_MODULES):
        yield "leaves_process_or_pickle", (*place, "leaves the process or is pickled")
    if not is_inside:
        return
    if dotted.startswith(_FUNCTIONAL) or name in _FUNCTIONAL_NAMES:
        yield "functional", (*place, f"{name} runs in the block")
    elif name in _GRADIENT_NAMES or (name == "set_grad_enabled" and "True" in ast.unparse(call)):
        yield "nested_grad", (*place, f"{name} runs in the block")


def _get_name(node: ast.AST) -> str:
    return str(getattr(node, "name", None) or getattr(node, "attr", None) or getattr(node, "id", ""))


def _is_tensor_class(file: SourceFile, base: ast.expr) -> bool:
    return file.names.resolve(base) in ("torch.Tensor", "torch.nn.Parameter")


def list_created(trace: Trace) -> list[tuple[str, int, str]]:
    """Return the lines that created tensors which outlive the block, with their holders."""
    found: dict[tuple[str, int], str] = {}
    for each in trace.survivors:
        if each["file"]:
            held = f", kept by {each['holder']}" if each["holder"] else ""
            found.setdefault((each["file"], each["line"]), f"created here by {each['op']}{held}")
    return [(file, line, role) for (file, line), role in found.items()]
