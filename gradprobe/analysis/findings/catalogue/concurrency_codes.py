"""Catalogue of the rules about threads, tasks, generators, processes and ranks."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, WARNING, Rule

RULES = (
    Rule(
        "GP701",
        "mode-does-not-reach-thread",
        WARNING,
        "Work submitted to another thread under no_grad or inference mode runs there with grad enabled.",
        "Grad mode is thread-local: a new thread, or one of a pool or a server, starts with grad enabled.",
        "Enter the mode inside the function that the thread runs.",
    ),
    Rule(
        "GP702",
        "decorator-on-async-def",
        WARNING,
        "A grad-mode decorator of PyTorch has no effect on the body of an `async def`.",
        "The decorator enters and exits the mode while the coroutine object is created. The body runs later, under the "
        "mode that is current then.",
        "Remove the decorator, and enter `with torch.no_grad():` in the body, around lines that do not await.",
    ),
    Rule(
        "GP703",
        "mode-held-across-yield",
        WARNING,
        "A generator yields inside a mode block, so its consumer runs under the block's mode.",
        "Grad mode is thread-local, and the generator is suspended with the block open: the mode stays active for the "
        "code that asked for the next item.",
        "Exit the block before `yield`.",
    ),
    Rule(
        "GP704",
        "mode-held-across-await",
        WARNING,
        "A mode block is open across an `await`, so other tasks of the thread run under its mode.",
        "Grad mode belongs to the thread, not to the task. While the block is open the event loop runs other tasks, "
        "and blocks that exit in a different order restore the wrong mode.",
        "Exit the block before `await`.",
    ),
    Rule(
        "GP705",
        "exit-out-of-order",
        ERROR,
        "A mode block was exited out of order and restored a stale mode.",
        "On exit, inference mode restores all thread-local state that it saved on entry, including autocast, even if "
        "the autocast block has ended in the meantime.",
        "Exit blocks in the reverse order of their entry; do not keep inference mode open in a generator or a task.",
    ),
    Rule(
        "GP706",
        "mode-does-not-reach-process",
        WARNING,
        "A process that was started under no_grad or inference mode runs with grad enabled.",
        "A spawned process starts with grad enabled, regardless of the mode of the process that started it. Only a "
        "forked process inherits the mode of the thread that forked it.",
        "Enter the mode inside the function that the process runs.",
    ),
    Rule(
        "GP901",
        "ranks-differ-in-graph",
        WARNING,
        "Some ranks build a graph at a line where other ranks build none.",
        "Ranks are expected to run the same work. A rank without a graph contributes no gradients: wrappers that "
        "reduce gradients wait for it, or train on those of the other ranks alone.",
        "Set the same mode on all ranks, or skip the work on all ranks.",
    ),
    Rule(
        "GP902",
        "ranks-differ-in-mode-at-collective",
        WARNING,
        "Ranks run the same collective operator under different modes.",
        "The results have a graph on some ranks and none on others, or are inference tensors there. Later code fails "
        "on some ranks only, and the other ranks wait for them.",
        "Enter the mode on all ranks, or exit it before the collective.",
    ),
)
"""Rules, by their codes."""
