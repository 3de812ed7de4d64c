// The tensors that autograd nodes saved for backward, read without unpacking them, and a number for each of their storages.

#pragma once

#include "creations.h"

#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/node.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <typeinfo>

namespace gradprobe {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::dynamo::autograd::TensorArg;
using torch::dynamo::autograd::TensorArgs;

// Access to a private member, which C++ allows in an explicit instantiation: PyTorch lists the saved variables of a node for
// compiled autograd only, and keeps the list to itself.
using VariablesMember = std::unordered_map<const SavedVariable*, TensorArg*> TensorArgs::*;
VariablesMember listed_variables();
template <VariablesMember member>
struct Reveal {
  friend VariablesMember listed_variables() { return member; }
};
template struct Reveal<&TensorArgs::_saved_variables>;

// Returns whether the sizes that a node saved may be symbols of a tracer, as in `torch.export` with dynamic shapes. Listing the
// saved variables asks each size for its number, and the tracer would take that for a condition of the program.
inline bool may_save_symbols(const Node& node) {
  using Modes = c10::impl::TorchDispatchModeTLS;
  if (Modes::get_mode(c10::impl::TorchDispatchModeKey::FAKE) || Modes::get_mode(c10::impl::TorchDispatchModeKey::PROXY)) {
    return true;
  }
  const auto has_symbols = [](const torch::autograd::InputMetadata& metadata) {
    if (metadata.was_default_constructed() || metadata.is_cpp_nested_tensor()) return false;
    const auto sizes = metadata.shape_as_dim_vector();
    return std::any_of(sizes.begin(), sizes.end(), [](const c10::SymInt& size) {
      return size.is_heap_allocated() && !size.toSymNodeImplUnowned()->is_nested_int();
    });
  };
  for (uint32_t i = 0; i < node.num_inputs(); ++i) {
    if (has_symbols(node.input_metadata(i))) return true;
  }
  for (const auto& edge : node.next_edges()) {
    if (edge.function && has_symbols(edge.function->input_metadata(edge.input_nr))) return true;
  }
  return false;
}

inline std::vector<const SavedVariable*> list_saved_variables(const c10::intrusive_ptr<Node>& node) {
  // PyTorch unpacks them while it lists them, and detaches those that are results: no mode or tracer may see that.
  const c10::impl::ExcludeDispatchKeyGuard unseen(
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::python_ks |
      c10::DispatchKeySet({c10::DispatchKey::Tracer, c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
                           c10::DispatchKey::FuncTorchDynamicLayerBackMode}));
  torch::dynamo::autograd::AutogradCompilerCall compiler(torch::dynamo::autograd::SizeInput::STATIC);
  torch::dynamo::autograd::NodeCall call(0, node);
  torch::dynamo::autograd::CompiledNodeArgs args(compiler, call);
  node->compiled_args(args);
  std::vector<const SavedVariable*> found;
  for (const auto& listed : compiler.tensor_args.*listed_variables()) found.push_back(listed.first);
  for (const auto& listed : compiler.sv_to_hooks) found.push_back(listed.first);
  return found;
}

// What is known of the nodes of one type. A saved variable that is a member is at the same distance from the beginning of
// each of them; the elements of a list are elsewhere in each.
class NodeType {
 public:
  explicit NodeType(const Node& node)
      // By name: the type itself is not exported.
      : is_python(std::strcmp(typeid(node).name(), "N5torch8autograd6PyNodeE") == 0),
        is_copy_slices(typeid(node) == typeid(torch::autograd::CopySlices)),
        name(is_python ? NO_NAME : Names::global().add(node.name())) {}

  const bool is_python, is_copy_slices;
  const NameId name;  // a custom function of Python has its own

  // Calls `see` with each saved variable of the node.
  template <typename See>
  void visit(const c10::intrusive_ptr<Node>& node, const See& see) {
    if (is_settled()) {
      for (const ptrdiff_t offset : offsets_) {
        see(*reinterpret_cast<const SavedVariable*>(reinterpret_cast<const char*>(node.get()) + offset));
      }
      return;
    }
    if (!is_listed_ || may_save_symbols(*node)) return;
    try {
      const auto variables = list_saved_variables(node);
      learn(*node, variables);
      for (const SavedVariable* variable : variables) see(*variable);
    } catch (const std::exception&) {  // a node of another library, which PyTorch cannot list, or one that a backward has freed
      is_listed_ = learnt_ > 0;
    }
  }

 private:
  // A list may be empty in the first nodes of a type.
  static constexpr int NODES_TO_LEARN_FROM = 8;

  bool is_settled() const { return !has_lists_ && learnt_ >= NODES_TO_LEARN_FROM; }

  void learn(const Node& node, const std::vector<const SavedVariable*>& variables) {
    if (learnt_ >= NODES_TO_LEARN_FROM) return;
    ++learnt_;
    const auto size = static_cast<ptrdiff_t>(malloc_usable_size(const_cast<Node*>(&node)));
    for (const SavedVariable* variable : variables) {
      const ptrdiff_t offset = reinterpret_cast<const char*>(variable) - reinterpret_cast<const char*>(&node);
      if (offset < 0 || offset >= size) {
        has_lists_ = true;
      } else if (std::find(offsets_.begin(), offsets_.end(), offset) == offsets_.end()) {
        offsets_.push_back(offset);
      }
    }
  }

  bool has_lists_ = false, is_listed_ = true;
  int learnt_ = 0;
  std::vector<ptrdiff_t> offsets_;
};

inline c10::StorageImpl* storage_of(const at::TensorImpl* impl) {
  return impl->has_storage() ? impl->unsafe_storage().unsafeGetStorageImpl() : nullptr;
}

struct SavedStorage {
  uint64_t number = 0;
  int64_t bytes = 0;
  int64_t made = -1;
  bool is_input = false;
};

// Numbers of storages. A weak reference to each keeps its address from being used again.
class SavedStorages {
 public:
  static SavedStorages& global() {
    static SavedStorages* storages = new SavedStorages();  // never freed: threads may still run as the interpreter ends
    return *storages;
  }

  void lock() { shards_.lock(); }
  void unlock() { shards_.unlock(); }

  // Returns the entry of a saved tensor's storage. `counter` is the one that the graph checks, `made` is when the storage was made
  // if that is known, and `is_output` whether it belongs to a result of the operator.
  SavedStorage add(const at::Tensor& tensor, c10::StorageImpl* storage, const void* counter, int64_t made, bool is_output) {
    Shard& shard = shards_.of(storage);
    std::vector<WeakStorage> freed;  // released after the lock
    const c10::SymInt& size = storage->sym_nbytes();
    const int64_t bytes = size.is_heap_allocated() ? 0 : size.as_int_unchecked();  // a symbol of a tracer is no memory
    const std::lock_guard<SpinLock> guard(shard.lock);
    auto [found, is_new] = shard.entries.try_emplace(storage);
    Entry& entry = found->second;
    if (is_new) {
      c10::raw::weak_intrusive_ptr::incref(storage);
      entry.weak = WeakStorage::reclaim(storage);
      const bool is_of_leaf = tensor.is_leaf() || LeafStorages::global().find(storage) != NO_FLOW;
      entry.saved = {next_++, bytes, made, !is_output && is_of_leaf};
    } else if (entry.saved.bytes != bytes || (entry.saved.made < 0 && !entry.saved.is_input)) {
      entry.saved.bytes = bytes;
      entry.saved.made = made;
    }
    entry.counter = counter;
    const SavedStorage saved = entry.saved;
    if (is_new && shard.entries.size() >= shard.sweep_at) shard.sweep(freed);
    return saved;
  }

  // Returns the version counter that the latest node checks which has saved this storage, or nothing if none has. The node may have
  // been freed since: which ones a backward has freed is not known here.
  std::optional<const void*> find_counter(c10::StorageImpl* storage) {
    Shard& shard = shards_.of(storage);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const auto found = shard.entries.find(storage);
    return found == shard.entries.end() ? std::nullopt : std::make_optional(found->second.counter);
  }

  void clear() {
    for (Shard& shard : shards_) {
      std::unordered_map<c10::StorageImpl*, Entry> entries;
      const std::lock_guard<SpinLock> guard(shard.lock);
      entries.swap(shard.entries);
      shard.sweep_at = Shard::SPARE;
    }
  }

 private:
  using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

  struct Entry {
    WeakStorage weak{c10::intrusive_ptr<c10::StorageImpl>{}};
    SavedStorage saved;
    const void* counter = nullptr;
  };

  struct Shard {
    static constexpr size_t SPARE = 2;

    SpinLock lock;
    std::unordered_map<c10::StorageImpl*, Entry> entries;
    size_t sweep_at = SPARE;

    void sweep(std::vector<WeakStorage>& freed) {
      for (auto it = entries.begin(); it != entries.end();) {
        if (it->second.weak.expired()) {
          freed.push_back(std::move(it->second.weak));
          it = entries.erase(it);
        } else {
          ++it;
        }
      }
      sweep_at = 2 * entries.size() + SPARE;
    }
  };

  Shards<Shard> shards_;
  std::atomic<uint64_t> next_ = 1;
};

}  // namespace gradprobe
