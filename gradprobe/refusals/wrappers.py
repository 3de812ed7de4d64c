"""Refusals of checkpointing and of the wrappers that reduce gradients between ranks."""

from __future__ import annotations

from gradprobe.refusals.refusal import WARNING, Refusal

REFUSALS = (
    Refusal(
        "recomputation-differs",
        "GP651",
        (
            r"A different number of tensors was saved during the original forward and recomputation",
            r"have different metadata than during the forward pass",
            r"trying to save more tensors during recomputation",
            r"encountered during backward but not found in storage",
        ),
        "The backward pass runs a checkpointed function again, and it does something else than in the forward pass: "
        "it depends on a mode, a global or the number of calls.",
        "Let the function depend on its arguments alone. Enter grad modes and autocast inside it, not around the "
        "backward; keep counters and caches out of it.",
        story="node",
    ),
    Refusal(
        "checkpoint-with-inputs",
        "GP651",
        (
            r"torch\.utils\.checkpoint is incompatible with \.grad\(\)",
            r"Checkpointing is not compatible with \.grad\(\)",
        ),
        "A reentrant checkpoint runs a backward of its own in the backward pass, which cannot be restricted to "
        "`inputs`.",
        "Pass `use_reentrant=False` to `checkpoint`, or call `backward()` without `inputs`.",
        story="node",
        node="CheckpointFunctionBackward",
    ),
    Refusal(
        "checkpoint-without-grad",
        "GP651",
        (r"none of output has requires_grad=True, this checkpoint\(\) is not necessary",),
        "A reentrant checkpoint is in the graph, and nothing that its function computes requires grad when it runs "
        "again.",
        "Pass `use_reentrant=False`, or do not disable grad inside the function.",
        story="node",
    ),
    Refusal(
        "checkpoint-read-twice",
        "GP651",
        (
            r"Unpack is being triggered for a tensor that was already unpacked once",
            r"Tensor cached during selective activation checkpoint has been mutated",
            r"device state was initialized in the forward pass of a Checkpoint",
            r"provided by context_fn suppressed an exception",
        ),
        "What a checkpoint keeps is read twice or changed, which it does not support.",
        "Read `ctx.saved_tensors` once, and do not modify in place what a checkpointed function has computed.",
        story="node",
    ),
    Refusal(
        "reduction-unfinished",
        "GP661",
        (
            r"Expected to have finished reduction in the prior iteration",
            r"Your training graph has changed in this iteration",
        ),
        "DistributedDataParallel begins a forward pass, and some of its parameters got no gradient in the iteration "
        "before: they took no part in the loss, or a mode or `detach()` cut them off.",
        "Let all parameters take part in the loss, freeze those that do not before the model is wrapped, or pass "
        "`find_unused_parameters=True`.",
        story="unreduced",
    ),
    Refusal(
        "ready-twice",
        "GP661",
        (r"Expected to mark a variable ready only once", r"has been marked as ready twice"),
        "DistributedDataParallel gets the gradient of a parameter twice in one iteration: by two backward passes, by "
        "reentrant checkpoints, or since the parameter is used outside of the module's forward.",
        "Run one forward and one backward per iteration, and pass `use_reentrant=False` to checkpoints or "
        "`static_graph=True` to DistributedDataParallel.",
        story="node",
    ),
    Refusal(
        "wrapper-misused",
        "GP661",
        (
            r"`initialize_buckets` must NOT be called during autograd execution",
            r"parameter gradient is not the expected DDP bucket view",
            r"DistributedDataParallel is not needed when a module doesn't have any parameters? that requires? a gradient",
            r"Compiled autograd is not compatible with C\+\+ DDP Reducer",
            r"gradients should not be modified during backward",
        ),
        "DistributedDataParallel is used in a way in which it cannot reduce gradients.",
        "Wrap modules that have trainable parameters, do not replace `.grad`, and rebuild nothing inside a backward "
        "pass.",
        story="",
        caught=WARNING,
    ),
    Refusal(
        "shards-misused",
        "GP661",
        (
            r"Must flatten tensors with uniform `requires_grad`",
            r"FSDP does not support changing the parameters between forward and backward",
            r"expected to be in states? .* but current state is",
            r"Expects `?_?is_root`?|Non-root FSDP instance",
        ),
        "FullyShardedDataParallel is used in a way in which it cannot gather parameters or reduce gradients.",
        "Pass `use_orig_params=True` to mix frozen and trained parameters, call the root module's forward, and do not "
        "change parameters between forward and backward.",
        story="",
        needs="several ranks",
    ),
)
