"""Programs whose gradients do not arrive or are taken by no optimizer, and programs that look alike and are right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def encoder_under_inference_mode() -> None:
    encoder, head = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, head)
    for x in batches():
        with torch.no_grad():  # with
            features = encoder(x)  # at
        step(optimizer, head(features.clone()).mean())  # with


def detached_features() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        features = model.embed(x)
        features = features.detach()  # at
        step(optimizer, model.head(features).mean())


def weight_read_through_data() -> None:
    scale, model = nn.Parameter(torch.ones(4)), Net()
    optimizer = torch.optim.SGD([scale, *model.parameters()], lr=0.01)
    for x in batches():
        step(optimizer, model(x * scale.data))  # at


def gate_by_comparison() -> None:
    gate, model = nn.Linear(4, 1), Net()
    optimizer = sgd(gate, model)
    for x in batches():
        is_open = gate(x) > 0  # at
        step(optimizer, model(x * is_open))


def function_that_returns_none() -> None:
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(weight)
            return x * weight

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            (weight,) = ctx.saved_tensors
            return grads[0] * weight, None  # at

    weight, model = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)
    optimizer = torch.optim.SGD([weight, *model.parameters()], lr=0.01)
    for x in batches():
        step(optimizer, Scale.apply(model(x), weight).mean())  # with


def gradients_cleared_before_the_step() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model(x).backward()  # with
        optimizer.zero_grad()  # with
        optimizer.step()  # at


def head_that_is_in_no_loss() -> None:
    model, auxiliary = Net(), nn.Linear(4, 1)
    optimizer = sgd(model, auxiliary)
    for x in batches():
        auxiliary(model.embed(x)).mean()  # at
        step(optimizer, model(x))


def result_read_through_data() -> None:
    model, keys = Net(), nn.Linear(4, 4)
    optimizer = sgd(model, keys)
    for x in batches():
        chosen = keys(x)
        step(optimizer, model.head(model.embed(x) * chosen.data).mean())  # at


def second_loss_under_no_grad() -> None:
    model, other = Net(), nn.Linear(4, 1)
    optimizer = sgd(model, other)
    for x in batches():
        features = model.embed(x)
        with torch.no_grad():  # with
            extra = other(features).mean()  # at
        step(optimizer, model.head(features).mean() + extra)


def generator_detached_like_its_critic() -> None:
    maker, critic = nn.Linear(4, 4), Net()
    makes, judges = sgd(maker), sgd(critic)
    for x in batches():
        made = maker(x)
        judges.zero_grad()
        (critic(made.detach()) - critic(x)).backward()
        judges.step()
        makes.zero_grad()
        loss = -critic(made.detach())  # at
        loss.backward()  # with
        makes.step()


def action_detached_before_its_value() -> None:
    actor, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    acts, judges = sgd(actor), sgd(critic)
    for x in batches():
        action = actor(x)
        fixed = action.detach()  # at
        value = critic(fixed).mean()
        acts.zero_grad()
        (-value).backward()  # with
        acts.step()
        error = (critic(x + action.detach()) - 1).square().mean()
        judges.zero_grad()
        error.backward()
        judges.step()


def student_detached_like_its_probe() -> None:
    teacher, student, probe = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    learns, looks = sgd(student), sgd(probe)
    for x in batches():
        hidden = student(x)
        looks.zero_grad()
        probe(hidden.detach()).square().mean().backward()
        looks.step()
        with torch.no_grad():
            target = teacher(x)
        given = hidden.detach()  # at
        learns.zero_grad()
        ((given - target).square().mean() + probe(given).mean()).backward()  # with
        learns.step()


def codebook_behind_its_straight_through_output() -> None:
    encoder, codes, decoder = nn.Linear(4, 4), nn.Embedding(8, 4), nn.Linear(4, 4)
    optimizer = sgd(encoder, codes, decoder)
    for x in batches():
        found = encoder(x)
        chosen = codes(torch.cdist(found, codes.weight).argmin(dim=-1))
        quantized = found + (chosen - found).detach()  # at
        loss = (decoder(quantized) - x).square().mean() + (quantized - found.detach()).square().mean()
        step(optimizer, loss)


def prototypes_read_without_grad() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))

        def nearest(self, x: torch.Tensor) -> torch.Tensor:
            index = (x @ self.table.t()).max(dim=1).indices.unsqueeze(1).expand(-1, 4)
            return self.table.data.gather(0, index)  # at

    prototypes, model = Prototypes(), Net()
    optimizer = sgd(prototypes, model)
    for x in batches():
        hidden = model.embed(x)
        step(optimizer, (hidden - prototypes.nearest(hidden)).square().mean() + model.head(hidden).mean())


def nearest_center_is_detached() -> None:
    centers, model = nn.Parameter(torch.randn(3, 4)), Net()
    optimizer = torch.optim.SGD([centers, *model.parameters()], lr=0.01)
    for x in batches():
        hidden = model.embed(x)
        index = (hidden.unsqueeze(1) - centers).square().sum(-1).argmin(dim=1)
        center = centers[index].detach()  # at
        step(optimizer, (hidden - center).square().mean() + model.head(hidden).mean())


def inner_steps_on_a_copy() -> None:
    model = nn.Linear(4, 1)
    optimizer = sgd(model)
    for x in batches():
        fast = copy.deepcopy(model)  # at
        gradients = torch.autograd.grad(fast(x).square().mean(), list(fast.parameters()), create_graph=True)
        for parameter, gradient in zip(fast.parameters(), gradients, strict=True):
            parameter.data -= 0.1 * gradient  # with
        step(optimizer, (fast(x) - 1).square().mean())


def model_prepared_as_a_copy() -> None:
    def prepare(model: nn.Module) -> nn.Module:
        prepared = copy.deepcopy(model)  # at
        prepared.register_buffer("scale", torch.ones(()))
        return prepared

    model = Net()
    optimizer = sgd(model)
    model = prepare(model)
    for x in batches():
        step(optimizer, model(x))


def parameters_cloned_into_new_leaves() -> None:
    model = nn.Linear(4, 1)
    optimizer = sgd(model)
    for x in batches():
        weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}  # at
        step(optimizer, torch.func.functional_call(model, weights, (x,)).mean())


def features_detached_in_a_closure() -> None:
    body, head = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(body, head)
    for x in batches():

        def closure(x: torch.Tensor = x) -> float:
            optimizer.zero_grad()
            loss = head(body(x).detach()).mean()  # at
            loss.backward()  # with
            return loss.item()

        optimizer.step(closure)


def threshold_that_requires_grad() -> None:
    model = nn.Linear(4, 4)
    optimizer = sgd(model)
    for x in batches():
        mask = model(x).sigmoid() > 0.5  # at
        mask = mask.float().requires_grad_()  # with
        step(optimizer, 1 - (mask * x).sum() / (mask.sum() + x.sum()))


def features_that_require_grad_again() -> None:
    def freeze(h: torch.Tensor) -> torch.Tensor:
        copy = h.detach()  # at
        return copy.requires_grad_(True)

    encoder, head = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, head)
    for x in batches():
        hidden = freeze(encoder(x).relu())
        step(optimizer, head(hidden).mean())


def codes_that_are_chosen_and_leaves() -> None:
    encoder, head = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, head)
    for x in batches():
        levels = torch.round(encoder(x).detach() * 8) / 8  # at
        levels.requires_grad_()
        step(optimizer, head(levels).mean())


def members_of_a_stacked_ensemble() -> None:
    members = [nn.Linear(4, 1) for _ in range(3)]
    optimizer = sgd(*members)
    stacked, _ = torch.func.stack_module_state(members)  # at
    for x in batches():
        output = torch.einsum("boi,ni->nbo", stacked["weight"], x) + stacked["bias"]  # with
        step(optimizer, output.square().mean())


def weight_that_a_network_generates() -> None:
    generator, layer = nn.Linear(4, 4), nn.Linear(4, 1, bias=False)
    optimizer = sgd(generator)
    for x in batches():
        generated = generator(x.mean(dim=0, keepdim=True))
        layer.weight = nn.Parameter(generated)  # at
        step(optimizer, layer(x).mean())


def function_that_computes_again_without_grad() -> None:
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, weight)
            return (x * weight).tanh()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            x, weight = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            output = (x * weight).tanh()  # with
            output.requires_grad_()
            gradients = torch.autograd.grad(output, (x, weight), grads, allow_unused=True)
            return gradients[0], gradients[1]  # at

    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    for x in batches():
        step(optimizer, Recompute.apply(x, weight).mean())  # with


def function_that_forgets_what_it_computes_again() -> None:
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, weight)
            return (x * weight).tanh()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            x, weight = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            with torch.enable_grad():
                output = (x * weight).tanh()
            return torch.autograd.grad(output, x, grads)[0], None  # at

    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    for x in batches():
        step(optimizer, Forgetful.apply(x, weight).mean())  # with


def levels_of_a_code() -> None:
    encoder, decoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), nn.Linear(2, 4)
    optimizer = sgd(encoder, decoder)
    for x in batches():
        codes = torch.round(encoder(x) * 4)  # at
        step(optimizer, (decoder(codes / 4) - x).square().mean())


def binary_weights() -> None:
    class Binary(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.sign(), self.bias)  # at

    model = nn.Sequential(Binary(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 1))
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x).square().mean())


def position_on_a_grid() -> None:
    locate, model = nn.Linear(4, 4), Net()
    optimizer = sgd(locate, model)
    for x in batches():
        offset = locate(x).div(0.25, rounding_mode="floor")  # at
        step(optimizer, model(x + offset))


STEPWISE: list[Program] = [levels_of_a_code, binary_weights, position_on_a_grid]


def levels_with_a_straight_way() -> None:
    encoder, decoder = nn.Linear(4, 2), nn.Linear(2, 4)
    optimizer = sgd(encoder, decoder)
    for x in batches():
        found = encoder(x)
        codes = found + (found.round() - found).detach()
        step(optimizer, (decoder(codes) - x).square().mean())


def sign_that_weighs() -> None:
    gate, model = nn.Linear(4, 4), Net()
    optimizer = sgd(gate, model)
    for x in batches():
        signal = gate(x)
        step(optimizer, model(signal * signal.sign()) + signal.floor().mean())


def encoder_that_computes_without_grad_in_eval_mode() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(self.training):  # with
                return self.layers(x)  # at

    encoder, head = Encoder(), nn.Linear(4, 1)
    encoder.eval()  # with
    optimizer = sgd(encoder, head)
    for x in batches():
        step(optimizer, head(encoder(x)).mean())


def features_by_the_mode_of_the_module() -> None:
    class Extractor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                with torch.no_grad():  # with
                    return self.layer(x)  # at
            return self.layer(x)

    extractor, head = Extractor(), nn.Linear(4, 1)
    optimizer = sgd(extractor, head)
    for part in (extractor, head):
        part.train(False)  # with
    for x in batches():
        step(optimizer, head(extractor(x)).mean())


def code_that_is_sampled() -> None:
    encoder, decoder = nn.Linear(4, 4), nn.Linear(2, 4)
    optimizer = sgd(encoder, decoder)
    for x in batches():
        mean, scale = encoder(x).chunk(2, dim=-1)
        posterior = torch.distributions.Normal(mean, scale.exp())
        code = posterior.sample()  # at
        step(optimizer, (decoder(code) - x).square().mean())


def mask_that_is_sampled() -> None:
    gate, model = nn.Linear(4, 4), Net()
    optimizer = sgd(gate, model)
    for x in batches():
        temperature = torch.tensor(0.5)
        mask = torch.distributions.RelaxedBernoulli(temperature, logits=gate(x)).sample()  # at
        step(optimizer, model(x * mask))


def results_written_into_memory() -> None:
    cell, scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([*cell.parameters(), scale], lr=0.01)
    for x in batches():
        outputs = torch.zeros(3, 2, 4)
        for t in range(3):
            outputs.data[t] = cell(x)  # at
        step(optimizer, (outputs * scale).mean())


def sums_written_past_the_graph() -> None:
    layers, head = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Linear(4, 1)
    optimizer = sgd(layers, head)
    for x in batches():
        total = torch.zeros(2, 4)
        for layer in layers:
            total.detach().add_(layer(x))  # at
        step(optimizer, head(total).mean())


def temperature_read_as_a_number() -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = float(self.log_scale.exp())  # at
            return super().forward(x) / scale

    model = Scaled()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def rate_read_as_a_number() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.rate = nn.Linear(4, 4), nn.Parameter(torch.tensor(0.1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.rate.item() * self.layer(x)  # at

    model = Unrolled()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x).square().mean())


def gains_read_as_an_array() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gains, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gains = np.tanh(self.gains.detach().numpy())  # at
            return self.head(torch.from_numpy(x.numpy() * gains))

    model = Filter()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x).mean())


def result_that_a_first_call_without_grad_keeps() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.head, self.kept = nn.Linear(1, 4), nn.Linear(4, 1), torch.empty(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not len(self.kept):
                self.kept = self.gate(torch.ones(1)).sigmoid()  # at
            return self.head(x * self.kept + self.head(x)).mean()  # with

    model = Scaled()
    optimizer = sgd(model)
    with torch.no_grad():  # with
        model(torch.ones(1, 4))
    for x in batches():
        step(optimizer, model(x))


STARVED: list[Program] = [
    result_that_a_first_call_without_grad_keeps,
    temperature_read_as_a_number,
    rate_read_as_a_number,
    gains_read_as_an_array,
    code_that_is_sampled,
    mask_that_is_sampled,
    results_written_into_memory,
    sums_written_past_the_graph,
    encoder_that_computes_without_grad_in_eval_mode,
    features_by_the_mode_of_the_module,
    *STEPWISE,
    function_that_computes_again_without_grad,
    function_that_forgets_what_it_computes_again,
    members_of_a_stacked_ensemble,
    weight_that_a_network_generates,
    threshold_that_requires_grad,
    features_that_require_grad_again,
    codes_that_are_chosen_and_leaves,
    features_detached_in_a_closure,
    inner_steps_on_a_copy,
    model_prepared_as_a_copy,
    parameters_cloned_into_new_leaves,
    generator_detached_like_its_critic,
    action_detached_before_its_value,
    student_detached_like_its_probe,
    second_loss_under_no_grad,
    encoder_under_inference_mode,
    detached_features,
    weight_read_through_data,
    gate_by_comparison,
    function_that_returns_none,
    gradients_cleared_before_the_step,
    head_that_is_in_no_loss,
    result_read_through_data,
    codebook_behind_its_straight_through_output,
    prototypes_read_without_grad,
    nearest_center_is_detached,
]


def codebook_loss_on_the_code() -> None:
    encoder, codes, decoder = nn.Linear(4, 4), nn.Embedding(8, 4), nn.Linear(4, 4)
    optimizer = sgd(encoder, codes, decoder)
    for x in batches():
        found = encoder(x)
        chosen = codes(torch.cdist(found, codes.weight).argmin(dim=-1))
        quantized = found + (chosen - found).detach()
        loss = (decoder(quantized) - x).square().mean() + (chosen - found.detach()).square().mean()
        step(optimizer, loss)


def frozen_encoder() -> None:
    encoder, head = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 1)
    optimizer = sgd(head)
    for x in batches():
        step(optimizer, head(encoder(x)).mean())


def adversaries() -> None:
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    of_generator, of_critic = sgd(generator), sgd(critic)
    for x in batches():
        fake = generator(x)
        step(of_critic, critic(fake.detach()).mean() - critic(x).mean())
        step(of_generator, -critic(fake).mean())


def straight_through() -> None:
    gate, model = nn.Linear(4, 4), Net()
    optimizer = sgd(gate, model)
    for x in batches():
        soft = gate(x).sigmoid()
        hard = (soft > 0.5).float()
        step(optimizer, model(x * (hard - soft).detach() + soft))


def expert_that_nothing_chooses() -> None:
    experts, model = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)]), Net()
    optimizer = sgd(experts, model)
    for number, x in enumerate(batches()):
        step(optimizer, model(experts[number % 2](x)))


def warm_up_without_encoder() -> None:
    model = Net()
    optimizer = sgd(model)
    for number, x in enumerate(batches(8)):
        features = model.embed(x)
        step(optimizer, model.head(features.detach() if number < 4 else features).mean())


def soft_target_of_an_average() -> None:
    model = Net()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, (model(x) - average(x)).square())
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)


def parameters_updated_by_hand() -> None:
    model, scale = Net(), torch.ones(4, requires_grad=True)
    optimizer = sgd(model)
    for x in batches():
        scale.grad = None
        step(optimizer, model(x * scale))
        with torch.no_grad():
            assert scale.grad is not None
            scale -= 0.01 * scale.grad


def inputs_that_are_perturbed() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        attacked = x.clone().requires_grad_()
        model(attacked).backward()
        assert attacked.grad is not None
        step(optimizer, model((attacked + 0.1 * attacked.grad.sign()).detach()))


def parameters_added_later() -> None:
    model = Net()
    optimizer = sgd(model.body)
    model.head = nn.Linear(4, 1)
    optimizer.add_param_group({"params": [*model.head.parameters()]})
    for x in batches():
        step(optimizer, model(x))


def teacher_in_the_optimizer() -> None:
    student, teacher = Net(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = sgd(student, teacher)
    for x in batches():
        with torch.no_grad():
            aim = teacher(x).mean()
        step(optimizer, (student(x) - aim).square())


def sum_that_a_library_begins_with_a_leaf() -> None:
    library: dict[str, Any] = {"torch": torch}
    source = "start = torch.zeros(1, requires_grad=True)\ndef add(x): return start + x"
    exec(compile(source, "/env/lib/python3/site-packages/sums/start.py", "exec"), library)
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, library["add"](model(x)).sum())


def optimizer_constructed_after_a_layer_was_replaced() -> None:
    model = Net()
    for _ in range(2):
        optimizer = sgd(model)
        for x in batches():
            step(optimizer, model(x))
        model.head = nn.Linear(4, 1)


def gradients_of_a_loaded_snapshot_looked_at() -> None:
    model, best = Net(), Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))
        best.load_state_dict(model.state_dict())
    inputs = torch.ones(2, 4, requires_grad=True)
    best(inputs).sum().backward()
    assert inputs.grad is not None


def new_head_added_to_the_optimizer() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))
    model.head = nn.Linear(4, 1)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    for x in batches():
        step(optimizer, model(x))


class Inner:
    """Inner steps of meta-learning on a copy of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def adapt(self, x: torch.Tensor) -> nn.Module:
        fast = copy.deepcopy(self.model)
        gradients = torch.autograd.grad(fast(x).square().mean(), list(fast.parameters()), create_graph=True)
        for parameter, gradient in zip(fast.parameters(), gradients, strict=True):
            parameter.data -= 0.1 * gradient
        return fast


def gradients_of_a_copy_are_copied_back() -> None:
    inner = Inner(nn.Linear(4, 1))
    for x in batches():
        fast = inner.adapt(x)
        inner.optimizer.zero_grad()
        (fast(x) - 1).square().mean().backward()
        for parameter, changed in zip(inner.model.parameters(), fast.parameters(), strict=True):
            parameter.grad = changed.grad
        inner.optimizer.step()


def copy_is_trained_by_an_optimizer_of_its_own() -> None:
    model = nn.Linear(4, 1)
    for x in batches(2):
        fast = copy.deepcopy(model)
        optimizer = sgd(fast)
        for _ in range(3):
            step(optimizer, fast(x).square().mean())
        with torch.no_grad():
            for parameter, changed in zip(model.parameters(), fast.parameters(), strict=True):
                parameter += 0.5 * (changed - parameter)


def layers_listed_twice() -> None:
    class Both(Net):
        def __init__(self) -> None:
            super().__init__()
            self.order = [self.body, self.head]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.order:
                x = layer(x)
            return x.mean()

    model = Both()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def frozen_network_hidden_in_a_list() -> None:
    class Judged(Net):
        def __init__(self) -> None:
            super().__init__()
            self.judge = [nn.Linear(4, 4).requires_grad_(False)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(x)
            return self.head(hidden).mean() + self.judge[0](hidden).square().mean()

    model = Judged()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def backward_in_two_parts() -> None:
    encoder, head = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, head)
    for x in batches():
        hidden = encoder(x)
        boundary = hidden.detach().requires_grad_()
        optimizer.zero_grad()
        head(boundary).mean().backward()
        hidden.backward(boundary.grad)
        optimizer.step()


def sensitivity_of_a_threshold() -> None:
    model = nn.Linear(4, 4)
    optimizer = sgd(model)
    for x in batches():
        output = model(x)
        mask = (output > 0).float().requires_grad_()
        (mask * x).sum().backward()
        assert mask.grad is not None
        step(optimizer, (output * mask.grad).mean())


def stacked_ensemble_is_optimized() -> None:
    stacked, _ = torch.func.stack_module_state([nn.Linear(4, 1) for _ in range(3)])
    optimizer = torch.optim.SGD(stacked.values(), lr=0.01)
    for x in batches():
        output = torch.einsum("boi,ni->nbo", stacked["weight"], x) + stacked["bias"]
        step(optimizer, output.square().mean())


def function_that_computes_again_with_grad() -> None:
    class Enabled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, weight)
            return (x * weight).tanh()

        @staticmethod
        @torch.enable_grad()
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            x, weight = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            return torch.autograd.grad((x * weight).tanh(), (x, weight), grads)

    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    for x in batches():
        step(optimizer, Enabled.apply(x, weight).mean())


def encoder_that_is_evaluated_without_grad() -> None:
    class Encoder(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(self.training):
                return super().forward(x)

    encoder, head = Encoder(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, head)
    for x in batches():
        step(optimizer, head(encoder(x)).mean())
        encoder.eval()
        with torch.no_grad():
            head(encoder(x)).mean()
        encoder.train()


def action_that_is_sampled() -> None:
    policy = nn.Linear(4, 3)
    optimizer = sgd(policy)
    history = torch.zeros(6, 2, 3)
    for number, x in enumerate(batches()):
        choice = torch.distributions.Categorical(logits=policy(x))
        action = choice.sample()
        history.data[number] = choice.probs
        step(optimizer, -(choice.log_prob(action) * action.float()).mean())


def norms_that_are_printed() -> None:
    class Partial(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pooler, self.gate = nn.Linear(4, 4), nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last_gate = self.gate.item()
            return super().forward(x * self.gate)

    model = Partial()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))
        norms = [p.norm().item() for p in model.parameters()]
        assert len(norms) == 7


RIGHT: list[Program] = [
    gradients_of_a_loaded_snapshot_looked_at,
    norms_that_are_printed,
    action_that_is_sampled,
    encoder_that_is_evaluated_without_grad,
    levels_with_a_straight_way,
    sign_that_weighs,
    function_that_computes_again_with_grad,
    stacked_ensemble_is_optimized,
    backward_in_two_parts,
    sensitivity_of_a_threshold,
    layers_listed_twice,
    frozen_network_hidden_in_a_list,
    gradients_of_a_copy_are_copied_back,
    copy_is_trained_by_an_optimizer_of_its_own,
    frozen_encoder,
    teacher_in_the_optimizer,
    sum_that_a_library_begins_with_a_leaf,
    adversaries,
    straight_through,
    expert_that_nothing_chooses,
    warm_up_without_encoder,
    soft_target_of_an_average,
    parameters_updated_by_hand,
    inputs_that_are_perturbed,
    parameters_added_later,
    codebook_loss_on_the_code,
    optimizer_constructed_after_a_layer_was_replaced,
    new_head_added_to_the_optimizer,
]


def number_made_a_tensor() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        error = model(x).item()  # with
        loss = torch.tensor(error, requires_grad=True)  # at
        step(optimizer, loss)


def copy_that_requires_grad() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        output = model(x)
        loss = output.detach().requires_grad_()  # at
        step(optimizer, loss)


def metric_in_numpy() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        score = np.mean(model.embed(x).detach().numpy())
        step(optimizer, torch.tensor(float(score)).requires_grad_())  # at


LEAVES: list[Program] = [number_made_a_tensor, copy_that_requires_grad, metric_in_numpy]


def head_replaced() -> None:
    model = Net()
    optimizer = sgd(model)
    model.head = nn.Linear(4, 2)  # at
    for x in batches():
        step(optimizer, model(x))


def weight_initialized_again() -> None:
    model = nn.Linear(4, 1)
    optimizer = sgd(model)
    model.weight = nn.Parameter(torch.full((1, 4), 0.1))  # at
    for x in batches():
        step(optimizer, model(x).mean())


def model_loaded_into_another_one() -> None:
    model = Net()
    optimizer = sgd(model)
    fresh = Net()
    fresh.load_state_dict(model.state_dict())
    for x in batches():
        step(optimizer, fresh(x))


def layer_exchanged_with_its_values() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = sgd(model)
    layer = nn.Linear(4, 4, bias=False)  # at
    with torch.no_grad():
        layer.weight.copy_(model[0].weight)
    model[0] = layer
    for x in batches():
        step(optimizer, model(x).mean())


def weights_sent_to_a_new_model_by_name() -> None:
    old, new = nn.ModuleDict({"a": nn.Linear(4, 1)}), nn.ModuleDict({"a": nn.Linear(4, 1)})  # at
    optimizer = sgd(old)
    values = {name: weight.detach() for name, weight in old.named_parameters()}
    for name, weight in new.named_parameters():
        weight.data.copy_(values[name])
    for x in batches():
        step(optimizer, new["a"](x).mean())


def layers_pruned_while_training() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x).square().mean())
    for index, (rows, columns) in {0: (6, 4), 2: (2, 6)}.items():
        model[index] = nn.Linear(columns, rows)  # at
    for x in batches():
        step(optimizer, model(x).square().mean())


def head_grown_for_new_classes() -> None:
    class Growing:
        def __init__(self) -> None:
            self.model = Net()
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

        def grow(self, classes: int) -> None:
            self.model.head = nn.Linear(4, classes)  # at

        def learn(self) -> None:
            for x in batches():
                step(self.optimizer, self.model(x))

    growing = Growing()
    growing.learn()
    growing.grow(1)
    growing.learn()


def weights_reset_as_new_parameters() -> None:
    model = Net()
    optimizer = sgd(model)
    for epoch in range(2):
        for x in batches():
            step(optimizer, model(x))
        if epoch == 0:
            model.head.weight = nn.Parameter(torch.zeros(1, 4))  # at


REPLACED: list[Program] = [
    model_loaded_into_another_one,
    layer_exchanged_with_its_values,
    weights_sent_to_a_new_model_by_name,
    head_replaced,
    weight_initialized_again,
    layers_pruned_while_training,
    head_grown_for_new_classes,
    weights_reset_as_new_parameters,
]


def teacher_with_a_graph() -> None:
    teacher, student = Net(), Net()
    optimizer = sgd(student)
    for x in batches():
        aim = teacher(x)  # at
        step(optimizer, (student(x) - aim).square())


def loss_network() -> None:
    model, judge = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    optimizer = sgd(model)

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (judge(one) - judge(other)).square().mean()  # at

    for x in batches():
        step(optimizer, distance(model(x), x))


def center_that_no_optimizer_has() -> None:
    model, centers = nn.Linear(4, 4), nn.Parameter(torch.zeros(4))
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, (model(x) - centers).square().mean())  # at


class Listed(nn.Module):
    """Layers in a container and a head; the container is made by ``keep``."""

    def __init__(self, keep: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.layers = keep([nn.Linear(4, 4) for _ in range(2)])
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = layer(x).relu()
        return self.head(x).mean()


def layers_in_a_list() -> None:
    model = Listed(list)
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def layers_in_a_dictionary() -> None:
    model = Listed(lambda layers: {f"layer {i}": layer for i, layer in enumerate(layers)})
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def weights_in_a_tuple() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 2)
            self.weights = tuple(nn.Parameter(torch.randn(4)) for _ in range(2))  # with

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gates = self.gate(x).softmax(-1).unbind(-1)
            terms = [gate * (x @ weight) for gate, weight in zip(gates, self.weights, strict=True)]  # with
            return torch.stack(terms).sum()

    model = Mixture()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))


def reference_that_a_function_scores_like_the_policy() -> None:
    class Preferences:
        def __init__(self) -> None:
            self.policy = Net()
            self.reference = copy.deepcopy(self.policy)
            self.optimizer = sgd(self.policy)

        @staticmethod
        def score(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return model(x).sigmoid().log()

        def update(self, x: torch.Tensor) -> None:
            gain = self.score(self.policy, x) - self.score(self.policy, -x)
            gain = gain - self.score(self.reference, x)  # at
            gain = gain + self.score(self.reference, -x)  # with
            step(self.optimizer, -gain)

    preferences = Preferences()
    for x in batches():
        preferences.update(x)


def teacher_of_the_same_class() -> None:
    student, teacher = Net(), Net()
    optimizer = sgd(student)
    for x in batches():
        found = student(x)
        wanted = teacher(x)  # at
        step(optimizer, (found - wanted).square())


def parts_of_a_model_that_is_not_called_itself() -> None:
    class Codec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.mix = nn.Sequential(nn.Linear(4, 2)), nn.Linear(2, 2)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(self.down(x))

    codec, head = Codec(), nn.Linear(2, 1)
    optimizer = sgd(head)
    for x in batches():
        codes = codec.encode(x)
        step(optimizer, head(codes).mean())


def parameter_that_is_only_an_operand() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(4)).neg()  # at

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.gamma

    model, scale = Net(), Scale()
    optimizer = sgd(model, scale)
    for x in batches():
        step(optimizer, model(scale(x)))


UNTAKEN: list[Program] = [
    parameter_that_is_only_an_operand,
    reference_that_a_function_scores_like_the_policy,
    teacher_of_the_same_class,
    parts_of_a_model_that_is_not_called_itself,
    layers_in_a_list,
    layers_in_a_dictionary,
    weights_in_a_tuple,
    teacher_with_a_graph,
    loss_network,
    center_that_no_optimizer_has,
]
