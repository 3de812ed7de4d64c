// What a thread reads of autograd nodes: their types and names, and the tensors that they saved.

#pragma once

#include "call.h"
#include "unseen_writes.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

namespace gradprobe {

struct ResultMemory {
  const c10::StorageImpl* storage;
  const void* counter;
};

inline ResultMemory memory_of(const at::Tensor& tensor) {
  const auto* impl = tensor.unsafeGetTensorImpl();
  return {storage_of(impl), counter_of(impl)};
}

class NodeReader {
 public:
  NodeType& type_of(const Node& node) {
    const void* table = *reinterpret_cast<const void* const*>(&node);  // one for each type
    auto& known = types_[table];
    if (!known) known = std::make_unique<NodeType>(node);
    return *known;
  }

  static NameId name_of(const NodeType& type, const Node& node) {
    if (!type.is_python) return type.name;
    const OwnPython lock;
    return Names::global().add(node.name());
  }

  // Adds the storages that a node saved, each once, and the number of tensors that went to hooks of the program. `results` are the
  // memories of the operator's results, which are made now.
  template <typename Storages>
  void read_saved(NodeType& type, const c10::intrusive_ptr<Node>& node, const Storages& results, int64_t now, int64_t& hooked,
                  std::vector<SavedStorage>& saved) {
    const auto see_tensor = [&](const at::Tensor& tensor) {
      auto* storage = storage_of(tensor.unsafeGetTensorImpl());
      if (storage == nullptr) return;
      const auto is_its = [storage](const ResultMemory& result) { return result.storage == storage; };
      const auto result = std::find_if(results.begin(), results.end(), is_its);
      const bool is_output = result != results.end();
      const int64_t made = is_output ? now : made_at(tensor);
      // A node keeps its result without the counter of the result, and checks that one all the same.
      const auto* impl = tensor.unsafeGetTensorImpl();
      const void* counter = is_output ? result->counter : counter_of(impl);
      const auto entry = SavedStorages::global().add(tensor, storage, counter, made, is_output);
      const uint32_t version = counter_of(impl) == nullptr ? 0 : impl->version_counter().current_version();
      UnseenWrites::global().on_saved(storage, {{node->thread_id(), node->sequence_nr()}, 0, counter_of(impl), version});
      const auto is_same = [&entry](const SavedStorage& other) { return other.number == entry.number; };
      if (std::find_if(saved.begin(), saved.end(), is_same) == saved.end()) saved.push_back(entry);
    };
    const auto see = [&](const SavedVariable& variable) {
      if (variable.has_hooks()) {
        ++hooked;
        return;
      }
      const auto tensor = variable.get_raw_data();
      if (tensor && tensor->defined()) see_tensor(*tensor);
    };
    if (!type.is_python) {
      type.visit(node, see);
      return;
    }
    const OwnPython lock;
    PyObject* object = static_cast<const torch::autograd::PyNode&>(*node).pyobj();
    if (object == nullptr) return;
    for (const SavedVariable& variable : reinterpret_cast<THPFunction*>(object)->saved_variables) see(variable);
    const auto attributes = py::reinterpret_steal<py::object>(PyObject_GetAttrString(object, "__dict__"));
    if (!attributes) {
      PyErr_Clear();
      return;
    }
    for (const auto& item : py::dict(attributes)) {
      if (THPVariable_Check(item.second.ptr())) see_tensor(THPVariable_Unpack(item.second.ptr()));
    }
  }

  // Calls `see` with what a node saved for backward. With the GIL.
  template <typename See>
  void visit_saved(const c10::intrusive_ptr<Node>& node, const See& see) {
    NodeType& type = type_of(*node);
    if (!type.is_python) {
      type.visit(node, see);
      return;
    }
    PyObject* object = static_cast<const torch::autograd::PyNode&>(*node).pyobj();
    if (object == nullptr) return;
    for (const SavedVariable& variable : reinterpret_cast<THPFunction*>(object)->saved_variables) see(variable);
  }

 private:
  // When the storage of a saved input was made: that of its base if it is a view.
  static int64_t made_at(const at::Tensor& tensor) {
    const int64_t made = Creations::global().storage_made(tensor.unsafeGetTensorImpl());
    if (made >= 0 || tensor.is_inference() || !tensor.is_view()) return made;
    return Creations::global().storage_made(tensor._base().unsafeGetTensorImpl());
  }

  std::unordered_map<const void*, std::unique_ptr<NodeType>> types_;
};

}  // namespace gradprobe
