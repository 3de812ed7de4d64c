// The facts of a call that are lost once it has run: its arguments, their versions, the number of nodes before it.

#pragma once

#include "saved.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/variable.h>

namespace gradprobe {

// Classes of operators that a detector looks at: a mirror of interest.py.
enum OpInterest { NO_OPS, OPS_ON_GRAPH_RESULTS, OPS_ON_GRAD_TENSORS, ALL_OPS };

// What the schema says of an operator.
struct OpPlan {
  const c10::FunctionSchema* const schema;
  NameId name = NO_NAME;
  bool is_sum = false, is_detach = false, may_alias = false, is_composite = false;
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
  for (const char* sum : {"aten.add.", "aten.add_.", "aten.sub.", "aten.sub_."}) is_sum |= text.rfind(sum, 0) == 0;
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
inline thread_local uint64_t running_since = UINT64_MAX;

// The facts of a call before it runs.
struct Call {
  struct Argument {
    const at::TensorImpl* impl;
    const c10::StorageImpl* storage;
  };
  struct Write {
    at::Tensor tensor;
    const void* counter;
    uint32_t version;
  };

  const OpPlan* plan = nullptr;
  uint64_t before = 0;
  bool has_graph_arguments = false, has_grad_arguments = false, has_subclass = false;
  uint32_t normal_without_counter = 0, inference_with_counter = 0;
  c10::SmallVector<Argument, 8> arguments;
  c10::SmallVector<Write, 2> writes;
  std::vector<c10::IValue> kept;  // the arguments themselves, while a detector looks at the operator

  Call(const OpPlan& plan_, const torch::jit::Stack& stack, int interest) : plan(&plan_) {
    before = at::sequence_number::peek();
    const size_t first = stack.size() - plan->arguments;
    for (size_t i = first; i < stack.size(); ++i) visit_tensors(stack[i], [this](const at::Tensor& t) { see(t); });
    for (const uint16_t position : plan->written) {
      visit_tensors(stack[first + position], [this](const at::Tensor& tensor) {
        auto* impl = tensor.unsafeGetTensorImpl();
        const void* counter = counter_of(impl);
        writes.push_back({tensor, counter, counter == nullptr ? 0 : impl->version_counter().current_version()});
      });
    }
    const bool is_looked_at = interest == ALL_OPS || (interest == OPS_ON_GRAD_TENSORS && has_grad_arguments) ||
        (interest == OPS_ON_GRAPH_RESULTS && has_graph_arguments) || (plan->is_sum && has_graph_arguments);
    if (is_looked_at) kept.assign(stack.begin() + static_cast<ptrdiff_t>(first), stack.end());
  }

 private:
  void see(const at::Tensor& tensor) {
    auto* impl = tensor.unsafeGetTensorImpl();
    arguments.push_back({impl, storage_of(impl)});
    if (tensor.requires_grad()) {
      has_grad_arguments = true;
      has_graph_arguments |= raw_grad_fn(tensor) != nullptr;
    }
    has_subclass |= impl->key_set().has(c10::DispatchKey::Python);
    const bool is_inference = impl->is_inference();
    if (is_inference == impl->version_counter().enabled()) ++(is_inference ? inference_with_counter : normal_without_counter);
  }
};

}  // namespace gradprobe
