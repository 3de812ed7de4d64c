// The facts of a call that are lost once it has run: its arguments, their versions, the number of nodes before it.

#pragma once

#include "memory_ranges.h"
#include "saved.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

namespace gradprobe {

// Classes of operators that a detector looks at: a mirror of interest.py.
enum OpInterest { NO_OPS, OPS_ON_GRAD_TENSORS, ALL_OPS };

// What the schema says of an operator.
struct OpPlan {
  const c10::FunctionSchema* const schema;
  NameId name = NO_NAME;
  bool is_detach = false, may_alias = false, is_composite = false;
  bool is_marker = false, begins_range = false;  // a range of the profiler: it computes nothing
  bool takes_values = true;  // not only the shape and the type of its arguments, as `zeros_like` does
  bool compares = false, copies = false, stacks = false, zeroes = false, is_random = false;
  const size_t arguments, returns;
  c10::SmallVector<uint16_t, 2> written;  // positions of the arguments that it modifies in place

  explicit OpPlan(const c10::OperatorHandle& op);
};

inline OpPlan::OpPlan(const c10::OperatorHandle& op)
    : schema(&op.schema()), arguments(op.schema().arguments().size()), returns(op.schema().returns().size()) {
  const auto& known = op.operator_name();
  std::string text = known.name;
  const auto colons = text.find("::");
  if (colons != std::string::npos) text.replace(colons, 2, ".");
  if (!known.overload_name.empty()) text += "." + known.overload_name;
  name = Names::global().add(text);
  is_composite = op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  is_detach = text == "aten.detach" || text == "aten.alias";
  for (const char* name : {"aten.sub.Tensor", "aten.eq.Tensor", "aten.equal", "aten.allclose", "aten.isclose", "aten.dist"}) {
    compares |= text == name;
  }
  // PyTorch's own only: an operator of a library may have any name, such as that of a new GELU.
  for (const char* name : {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
                           "new_zeros", "new_ones", "new_empty", "new_empty_strided", "new_full"}) {
    takes_values &= known.name != std::string("aten::") + name;
  }
  for (const char* name : {"aten.zero_", "aten._foreach_zero_", "aten.fill_.Scalar"}) zeroes |= text == name;
  copies = text == "aten.copy_";
  stacks = text == "aten.stack";
  is_random = op.hasTag(at::Tag::nondeterministic_seeded);
  is_marker = text.rfind("profiler.", 0) == 0;
  begins_range = text == "profiler._record_function_enter_new";
  const auto& schema_arguments = op.schema().arguments();
  for (size_t i = 0; i < schema_arguments.size(); ++i) {
    const auto* alias = schema_arguments[i].alias_info();
    if (alias != nullptr && alias->isWrite()) written.push_back(static_cast<uint16_t>(i));
  }
  for (const auto& result : op.schema().returns()) may_alias |= result.alias_info() != nullptr;
}

// Calls `see` with each tensor in a value: itself, or the elements of a list.
template <typename See>
void visit_tensors(const c10::IValue& value, const See& see) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) see(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) {
      if (item.isTensor()) {
        if (item.toTensor().defined()) see(item.toTensor());
      } else if (!item.isNone()) {
        return;
      }
    }
  }
}

// The identity of a version counter, which views share with their base; null for a tensor without one.
inline const void* counter_of(const at::TensorImpl* impl) {
  const auto& counter = impl->version_counter();
  static_assert(sizeof(counter) == sizeof(void*), "a version is more than a reference to its counter");
  return counter.enabled() ? *reinterpret_cast<const void* const*>(&counter) : nullptr;
}

inline const c10::intrusive_ptr<Node>* raw_grad_fn(const at::Tensor& tensor) {
  // Reading it the usual way would construct the node of a view again whose base was modified.
  const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
  return meta == nullptr || !meta->grad_fn_ ? nullptr : &meta->grad_fn_;
}

// The number of nodes that the thread had constructed when the operator began that it runs now. Hooks on saved tensors are
// called within operators, and may change modes there.
inline constinit thread_local uint64_t running_since = UINT64_MAX;

// Uses of several tensors over one memory that can hardly be meant so: all of them show what was written last.
enum AliasUse { NO_ALIASES, COPIED_ONTO_ITSELF, COMPARED_WITH_ITSELF, STACKED_ON_ITSELF };

// The facts of a call before it runs.
struct Call {
  struct Argument {
    const at::TensorImpl* impl;
    const c10::StorageImpl* storage;
    FlowId flow = NO_FLOW;
    bool requires_grad = false, is_data_of_leaf = false;
  };
  struct Write {
    at::Tensor tensor;
    const void* counter;
    uint32_t version;
    bool is_saved = false, is_unseen = false;  // a graph has saved the memory, with another counter
    bool was_zero = false;                     // in a backward: it is small, and had only zeros before
    MemoryRange range;
    std::optional<uint64_t> contents;  // of the range, where the write is unseen

    Write(const at::Tensor& written, bool is_backward) : tensor(written), counter(counter_of(written.unsafeGetTensorImpl())) {
      const auto* impl = tensor.unsafeGetTensorImpl();
      version = counter == nullptr ? 0 : impl->version_counter().current_version();
      auto* storage = storage_of(impl);
      constexpr int64_t MAX_NUMBERS = 1 << 14;  // the engine itself fills large tensors of zeros part by part
      was_zero = is_backward && !impl->has_symbolic_sizes_strides() && !impl->is_python_dispatch() &&
          impl->numel() <= MAX_NUMBERS && is_all_zero(tensor);
      if (storage == nullptr || is_backward) return;
      const auto checked = SavedStorages::global().find_counter(storage);
      if (!checked) return;
      is_saved = true;
      is_unseen = *checked != counter;
      range = range_of(*impl);
      if (is_unseen && can_be_read(*storage)) contents = hash_contents(*storage, range);
    }
  };

  const OpPlan* plan = nullptr;
  uint64_t before = 0;
  bool has_grad_arguments = false, has_inference_arguments = false;
  bool has_subclass = false;
  bool is_backward = false;
  AliasUse alias_use = NO_ALIASES;
  uint32_t normal_without_counter = 0, inference_with_counter = 0;
  c10::SmallVector<Argument, 8> arguments;
  c10::SmallVector<Write, 2> writes;
  std::vector<c10::IValue> kept;  // the arguments themselves, while a detector looks at the operator

  Call(const OpPlan& plan_, const torch::jit::Stack& stack, int interest, bool watches_inference) : plan(&plan_) {
    before = at::sequence_number::peek();
    is_backward = torch::autograd::get_current_graph_task_id() != -1;
    // What inference mode makes cannot lead to a backward pass; what no_grad makes can.
    follows_all_ = !is_backward && !c10::InferenceMode::is_enabled();
    const size_t first = stack.size() - plan->arguments;
    for (size_t i = first; i < stack.size(); ++i) visit_tensors(stack[i], [this](const at::Tensor& t) { see(t); });
    for (const uint16_t position : plan->written) {
      visit_tensors(stack[first + position], [this](const at::Tensor& tensor) { writes.emplace_back(tensor, is_backward); });
    }
    if (plan->compares || plan->copies || plan->stacks) alias_use = find_alias_use();
    const bool is_looked_at = alias_use != NO_ALIASES || interest == ALL_OPS || (interest == OPS_ON_GRAD_TENSORS && has_grad_arguments) ||
        (watches_inference && has_inference_arguments);
    if (is_looked_at) kept.assign(stack.begin() + static_cast<ptrdiff_t>(first), stack.end());
  }

  bool is_written(const at::TensorImpl* impl) const {
    const auto is_it = [impl](const Write& write) { return write.tensor.unsafeGetTensorImpl() == impl; };
    return std::any_of(writes.begin(), writes.end(), is_it);
  }

  // The number of a leaf, which it gets here for its first operator.
  static FlowId leaf_of(at::TensorImpl* impl, c10::StorageImpl* storage) {
    auto& nodes = FlowNodes::global();
    const uint32_t epoch = nodes.epoch();
    const auto [flow, known] = Creations::global().find_flow(impl, epoch);
    if (known != NO_FLOW) return known;
    if (!can_be_weak(*impl)) return flow;
    const FlowId leaf = nodes.add_leaf(flow);
    Creations::global().set_leaf(impl, leaf, epoch);
    if (storage != nullptr) LeafStorages::global().add(storage, leaf);
    return leaf;
  }

 private:
  static FlowId flow_of(const at::TensorImpl* impl) {
    return Creations::global().find_flow(impl, FlowNodes::global().epoch()).first;
  }

  static bool is_same_memory(const Argument& one, const Argument& other) {
    if (one.impl == other.impl || one.storage == nullptr || other.storage == nullptr || one.storage->data() == nullptr) return false;
    // A subclass may compute its size in Python, and a symbol of a tracer has no number.
    for (const auto* impl : {one.impl, other.impl}) {
      if (impl->is_python_dispatch() || impl->has_symbolic_sizes_strides()) return false;
    }
    return one.storage->data() == other.storage->data() && one.impl->storage_offset() == other.impl->storage_offset() &&
        one.impl->numel() > 0 && one.impl->sizes() == other.impl->sizes() && one.impl->strides() == other.impl->strides();
  }

  AliasUse find_alias_use() const {
    constexpr size_t MIN_STACKED = 3;
    if (plan->stacks) {
      if (arguments.size() < MIN_STACKED) return NO_ALIASES;
      const auto is_first = [this](const Argument& other) { return is_same_memory(arguments[0], other); };
      return std::all_of(arguments.begin() + 1, arguments.end(), is_first) ? STACKED_ON_ITSELF : NO_ALIASES;
    }
    if (arguments.size() != 2 || !is_same_memory(arguments[0], arguments[1])) return NO_ALIASES;
    // `x - x.detach()` has the value 0 and a gradient, which is how it is meant.
    if (plan->compares) return has_grad_arguments && c10::GradMode::is_enabled() ? NO_ALIASES : COMPARED_WITH_ITSELF;
    return COPIED_ONTO_ITSELF;
  }

  bool follows_all_ = false;

  void see(const at::Tensor& tensor) {
    auto* impl = tensor.unsafeGetTensorImpl();
    auto* storage = storage_of(impl);
    Argument argument{impl, storage};
    if (tensor.requires_grad()) {
      const bool has_node = raw_grad_fn(tensor) != nullptr;
      // A view of a tensor that requires grad has no node either if it was made under no_grad.
      const bool is_leaf = !has_node && !torch::autograd::impl::get_autograd_meta(tensor)->is_view_;
      has_grad_arguments = argument.requires_grad = true;
      if (!is_backward) argument.flow = is_leaf ? leaf_of(impl, storage) : flow_of(impl);
    } else if (follows_all_) {
      argument.flow = flow_of(impl);
      if (argument.flow == NO_FLOW && storage != nullptr) {
        argument.flow = LeafStorages::global().find(storage);
        argument.is_data_of_leaf = argument.flow != NO_FLOW;
      }
    }
    arguments.push_back(argument);
    has_subclass |= impl->key_set().has(c10::DispatchKey::Python);
    const bool is_inference = impl->is_inference();
    has_inference_arguments |= is_inference;
    if (is_inference == impl->version_counter().enabled()) ++(is_inference ? inference_with_counter : normal_without_counter);
  }
};

}  // namespace gradprobe
