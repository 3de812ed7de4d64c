// Where gradients come from: the backward passes that gave them, the lines that wrote them after that, the steps that took them.
//
// The flow has ways for it that carry no gradient: from what stands for a gradient (a backward, a line that wrote it, a step that
// has taken it) to the next backward, which adds to it, and to the step that takes it.

#pragma once

#include "graphs.h"

namespace gradprobe {

// Returns whether nothing is left of a gradient: there is none, or it was set to zero. A backward may give zeros, too.
inline bool is_cleared(const at::Tensor& leaf, const std::unordered_set<const c10::StorageImpl*>& zeroed) {
  const at::Tensor& grad = leaf.grad();
  if (!grad.defined()) return true;
  if (zeroed.count(storage_of(grad.unsafeGetTensorImpl())) == 0) return false;
  return is_all_zero(grad);
}

// The site that stands for the gradient of a leaf, NO_FLOW without one.
inline FlowId flow_of_gradient(const at::Tensor& leaf) {
  const at::Tensor& grad = leaf.grad();
  return grad.defined() ? Creations::global().find_flow(grad.unsafeGetTensorImpl(), FlowNodes::global().epoch()).first : NO_FLOW;
}

// Notes that a backward at a site is about to give these leaves their gradients, which of the gradients before it were cleared, and
// which it adds to.
inline void note_gradients(ThreadLog& log, FlowId site, const std::vector<at::Tensor>& leaves) {
  const uint32_t epoch = FlowNodes::global().epoch();
  const auto zeroed = log.take_zeroed();
  const uint32_t pass = log.begin_pass();
  std::set<FlowId> left;
  for (const at::Tensor& leaf : leaves) {
    const auto* impl = leaf.unsafeGetTensorImpl();
    GradientOrigin before = Creations::global().exchange_gradient(impl, {}, epoch);
    GradientOrigin now{site, pass};
    if (is_cleared(leaf, zeroed)) {
      if (before.pending != NO_FLOW) log.note_cleared(before.pending, flow_of_leaf(leaf));
    } else if (const FlowId by = flow_of_gradient(leaf)) {
      // By a tensor over the same memory, such as `.grad.data`, it may have been set to zero without the record of it.
      const bool was_zeroed = zeroed.count(storage_of(leaf.grad().unsafeGetTensorImpl())) != 0;
      left.insert(by);
      if (log.is_step(by) && !was_zeroed) now.again = by;
      if (before.pending != NO_FLOW && !was_zeroed) {
        // What a line of the program has written since is its own affair.
        if (now.again == NO_FLOW && by == before.pending) now.again = before.again;
        now.other = log.is_taken(before.pass) ? before.pending : before.other;
      }
    }
    Creations::global().exchange_gradient(impl, now, epoch);
  }
  log.note_left(site, left);
}

inline bool is_zero_gradient(const at::Tensor& gradient) {
  constexpr int64_t MAX_NUMBERS = 1 << 22;  // those of a large embedding may begin with many zeros
  return gradient.numel() <= MAX_NUMBERS && is_all_zero(gradient);
}

// Notes that an optimizer which steps at a site takes the gradients of its parameters.
inline void note_taken(ThreadLog& log, const FlowNode& at, const std::vector<at::Tensor>& parameters) {
  const uint32_t epoch = FlowNodes::global().epoch();
  const bool follows = log.iterations().sees_all_steps();
  const FlowId site = log.number_of(at);
  StepFacts step;
  for (const auto& parameter : parameters) {
    if (!parameter.requires_grad() || !parameter.is_leaf()) continue;
    const bool has_grad = parameter.grad().defined();
    const FlowId leaf = flow_of_leaf(parameter);
    const auto origin = Creations::global().exchange_gradient(parameter.unsafeGetTensorImpl(), {}, epoch);
    const bool is_again = has_grad && origin.pending != NO_FLOW && origin.again != NO_FLOW;
    if (leaf != NO_FLOW) step.parameters.push_back({leaf, has_grad, is_again, has_grad && follows && is_zero_gradient(parameter.grad())});
    if (!has_grad || !follows) continue;
    if (origin.pending != NO_FLOW) log.note_pass_taken(origin.pass);
    if (origin.pending != NO_FLOW && origin.other != NO_FLOW) step.others.insert(origin.other);
    if (const FlowId by = flow_of_gradient(parameter)) step.takes.insert(by);
    Creations::global().set_flow(parameter.grad().unsafeGetTensorImpl(), site, epoch);
  }
  log.begin_step(at, step);
}

}  // namespace gradprobe
