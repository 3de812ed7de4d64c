"""The account of operators of a real program: a GPT-2 with random weights, trained and asked to go on writing."""

from __future__ import annotations

import threading
from typing import Any

import pandas as pd
import pytest
import torch

import gradprobe
from gradprobe.capture.ops.native.loader import load_core
from tests.capabilities import transformers_with_models

transformers = transformers_with_models()

COLUMNS = ["nodes", "version_bumps", "counters_created", "tracked_views", "saved_bytes"]


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    return transformers.GPT2LMHeadModel(config).eval()


TOKENS = torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])


def no_faults(recording: gradprobe.Recording) -> bool:
    return [n for n in recording._tables.contents[0].notes if n[0] == "fault"] == []


def region_of(recording: gradprobe.Recording, manager: str) -> pd.Series[Any]:
    """The outermost region of a manager that this file entered."""
    regions = recording.regions
    found = regions[(regions["manager"] == manager) & (regions["file"] == __file__)]
    assert len(found) == 1
    return found.iloc[0]


def ops_inside(recording: gradprobe.Recording, region: Any) -> pd.DataFrame:
    """The rows of a region and of all those inside it."""
    parents = recording.regions.set_index("region")["parent"]
    wanted = {region["region"]}
    for number in sorted(parents.index):
        if not pd.isna(parents[number]) and parents[number] in wanted:
            wanted.add(number)
    return recording.ops[recording.ops["region"].isin(wanted)]


def test_generate_writes_the_same_tokens_and_constructs_no_node() -> None:
    model = gpt2()
    alone = model.generate(TOKENS, max_new_tokens=5, do_sample=False)
    with gradprobe.record(level="ops", include_torch=True) as recording:
        watched = model.generate(TOKENS, max_new_tokens=5, do_sample=False)
    assert no_faults(recording)
    assert torch.equal(watched, alone)
    assert recording.ops["nodes"].sum() == 0
    assert recording.ops["count"].sum() > 100
    names = {
        f"GPT2LMHeadModel.{name}" for name in ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc", "lm_head")
    }
    assert names <= set(recording.ops["module"])
    ends_with = ("modeling_gpt2.py", "pytorch_utils.py")
    assert recording.ops["file"].str.endswith(ends_with).any()


def test_modes_side_by_side_differ_in_nodes_counters_and_inference_tensors() -> None:
    model = gpt2()
    model(TOKENS)
    counted: dict[str, int] = {}
    with gradprobe.record(level="ops") as recording:
        for manager in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            before = torch.autograd._get_sequence_nr()
            with manager():
                model(TOKENS)
            counted[manager.__name__] = torch.autograd._get_sequence_nr() - before
    assert no_faults(recording)
    grad, no_grad, inference = (region_of(recording, name) for name in counted)
    assert [r["nodes"] for r in (grad, no_grad, inference)] == list(counted.values())
    assert counted["enable_grad"] > 0
    assert counted["no_grad"] == counted["inference_mode"] == 0
    assert grad["saved_bytes"] > 0
    assert no_grad["saved_bytes"] == inference["saved_bytes"] == 0
    assert grad["counters_created"] > 0
    assert no_grad["counters_created"] > 0
    assert inference["counters_created"] == 0
    assert grad["inference_tensors"] == no_grad["inference_tensors"] == 0
    assert inference["inference_tensors"] > 0
    for region in (grad, no_grad, inference):
        inside = ops_inside(recording, region)
        assert {name: inside[name].sum() for name in COLUMNS if name != "saved_bytes"} == {
            name: region[name] for name in COLUMNS if name != "saved_bytes"
        }
    # A storage that two operators saved is one in the region, and stands at the first of them.
    assert ops_inside(recording, grad)["saved_bytes"].sum() == grad["saved_bytes"]
    names = {
        f"GPT2LMHeadModel.{name}" for name in ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj", "lm_head")
    }
    assert names <= set(recording.ops["module"])


@pytest.mark.parametrize("foreach", [False, True], ids=["one by one", "foreach"])
def test_a_training_step_is_told_apart_into_forward_backward_and_optimizer(foreach: bool) -> None:
    model = gpt2().train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=foreach)

    def step() -> None:
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()

    step()
    versions = {name: p._version for name, p in model.named_parameters()}
    before = torch.autograd._get_sequence_nr()
    with gradprobe.record(level="ops") as recording:
        with torch.enable_grad():
            step()
    constructed = torch.autograd._get_sequence_nr() - before
    assert no_faults(recording)
    ops = recording.ops
    assert set(ops["phase"]) == {"forward", "backward", "optimizer"}
    phases = ops.groupby("phase")[["nodes", "version_bumps"]].sum()
    assert phases.loc["forward", "nodes"] == constructed == region_of(recording, "enable_grad")["nodes"]
    assert phases.loc["backward", "nodes"] == phases.loc["optimizer", "nodes"] == 0
    changed = sum(p._version - versions[name] for name, p in model.named_parameters())
    assert changed >= len(versions)
    # Beside the weights two averages of each and the count of steps are changed.
    assert phases.loc["optimizer", "version_bumps"] >= changed + 3 * len(versions)
    assert set(ops["node"].dropna()) >= {"AddmmBackward0", "NativeLayerNormBackward0", "EmbeddingBackward0"}
    backward = ops[ops["phase"] == "backward"]
    assert {"aten.mm", "aten.native_layer_norm_backward"} <= set(backward["op"])


def test_level_graph_counts_the_same_nodes_as_level_ops() -> None:
    model = gpt2()
    counted = {}
    for level in ("graph", "ops"):
        with gradprobe.record(level=level) as recording:
            with torch.enable_grad():
                model(TOKENS, labels=TOKENS).loss.backward()
            with torch.no_grad():
                model(TOKENS)
        assert no_faults(recording)
        regions = recording.regions[recording.regions["file"] == __file__]
        counted[level] = list(zip(regions["manager"], regions["nodes"], regions["backward_nodes"], strict=True))
    assert counted["graph"] == counted["ops"]
    assert counted["ops"][0][1] > 0


class Rotary(torch.nn.Module):
    """Keeps the angles of the first call, as implementations of rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-2]
        if length not in self.cache:
            angles = torch.outer(torch.arange(float(length)), torch.ones(x.shape[-1]))
            self.cache[length] = angles.cos(), angles.sin()  # the line
        cos, sin = self.cache[length]
        return x * cos + x.flip(-1) * sin


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary = Rotary()
        self.out = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.rotary(x))
        return out


def test_an_inference_tensor_that_a_module_keeps_is_found_with_its_line_and_its_holder() -> None:
    model = Attention()
    x = torch.ones(2, 3, 4)
    with gradprobe.record(level="ops") as recording:
        with torch.inference_mode():
            model(x)
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            model(x.clone().requires_grad_())
    assert no_faults(recording)
    births = recording.births
    kept = births[births["alive"] > 0]
    assert list(kept["op"]) == ["aten.cos", "aten.sin"]
    with open(__file__, encoding="utf-8") as file:
        line = next(number for number, text in enumerate(file, 1) if "# the " + "line" in text)
    assert set(kept["line"]) == {line}
    assert set(kept["file"]) == {__file__}
    assert set(kept["module"]) == {"Attention.rotary"}
    assert list(kept["held_by"]) == ["Attention.rotary.cache[3][0]", "Attention.rotary.cache[3][1]"]
    assert list(kept["count"]) == list(kept["alive"]) == [1, 1]
    assert list(kept["bytes"]) == [48, 48]
    assert model.rotary.cache[3][0].is_inference()


def test_a_recording_stopped_in_another_thread_leaves_what_others_watch_there() -> None:
    first = gradprobe.record(level="ops")
    seen: list[gradprobe.Recording] = []
    may_go = threading.Event()

    def watch_itself() -> None:
        may_go.wait()
        with gradprobe.record(level="ops") as recording:
            first.stop()
            torch.ones(2).add_(1)
        seen.append(recording)

    thread = threading.Thread(target=watch_itself)
    thread.start()
    first.start()
    may_go.set()
    thread.join()
    torch.ones(2)  # not recorded by anybody, and the last operator of this thread that is looked at

    assert seen[0].ops["op"].tolist() == ["aten.ones", "aten.add_.Tensor"]


def test_tensors_made_of_numbers_are_born_and_have_counters() -> None:
    with gradprobe.record(level="ops") as recording:
        torch.tensor([1.0])
        with torch.inference_mode():
            kept = torch.tensor([1.0])

    assert recording.ops["counters_created"].sum() == 1
    assert recording.births["op"].tolist() == ["aten.empty.memory_format"]
    assert recording.births["alive"].tolist() == [1]
    assert gradprobe.inspect(kept).born is not None


def test_nodes_constructed_while_nothing_was_observed_are_counted_however_many() -> None:
    x = torch.ones(2, requires_grad=True)
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        load_core().include_key(False)
        for _ in range(1_000):
            x * 2
        load_core().include_key(True)
        x + 1
    assert no_faults(recording)
    nodes = recording.ops.groupby("op")["nodes"].sum()
    assert nodes.to_dict() == {"(no operator)": 1_000, "aten.add.Tensor": 1}
    assert recording.regions["nodes"].iloc[0] == 1_001
