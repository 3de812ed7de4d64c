// Walks over autograd graphs: what a backward will reach, and which graphs the program still holds.

#pragma once

#include "thread_log.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <unordered_set>

namespace gradprobe {

using Logs = std::vector<std::shared_ptr<ThreadLog>>;
using NodesByThread = std::unordered_map<uint64_t, std::vector<uint64_t>>;  // sequence numbers, by PyTorch's number of the thread

constexpr uint64_t OF_A_LEAF = UINT64_MAX;  // the sequence number of each AccumulateGrad

// A set of nodes: each is looked for once or twice, so that a table of addresses without any other memory serves best.
class NodeSet {
 public:
  // Returns whether the node is new.
  bool insert(const Node* node) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    const Node*& slot = slot_of(node);
    if (slot == node) return false;
    slot = node;
    ++size_;
    return true;
  }

 private:
  const Node*& slot_of(const Node* node) {
    size_t slot = (reinterpret_cast<uintptr_t>(node) >> 4) * 0x9E3779B97F4A7C15ull >> 32 & (slots_.size() - 1);
    while (slots_[slot] != nullptr && slots_[slot] != node) slot = (slot + 1) & (slots_.size() - 1);
    return slots_[slot];
  }

  void grow() {
    std::vector<const Node*> all(std::max<size_t>(64, 2 * slots_.size()));
    all.swap(slots_);
    for (const Node* node : all) {
      if (node != nullptr) slot_of(node) = node;
    }
  }

  std::vector<const Node*> slots_;
  size_t size_ = 0;
};

// In PyTorch's own nodes: a Python object for each would be kept, and a chain of those is freed by recursion.
class GraphWalk {
 public:
  explicit GraphWalk(std::function<void(const c10::intrusive_ptr<Node>&)> on_node = {}) : on_node_(std::move(on_node)) {}

  // Adds the nodes behind a tensor that no earlier one has led to. Returns whether there are any.
  bool add(const at::Tensor& root) {
    const auto* node = raw_grad_fn(root);
    if (node == nullptr || !visit(*node)) return false;
    while (!waiting_.empty()) {
      Node* next = waiting_.back();
      waiting_.pop_back();
      for (const auto& edge : next->next_edges()) {
        if (edge.function) visit(edge.function);
      }
    }
    return true;
  }

  NodesByThread take_nodes() {
    of_thread_ = nullptr;
    for (auto& [thread, numbers] : nodes_) std::sort(numbers.begin(), numbers.end());
    return std::move(nodes_);
  }

  const std::vector<at::Tensor>& leaves() const { return leaves_; }

 private:
  bool visit(const c10::intrusive_ptr<Node>& owned) {
    Node* node = owned.get();
    if (!found_.insert(node)) return false;
    if (on_node_) on_node_(owned);
    if (node->sequence_nr() == OF_A_LEAF) {
      if (typeid(*node) == typeid(torch::autograd::AccumulateGrad)) {
        const auto& variable = static_cast<const torch::autograd::AccumulateGrad*>(node)->variable;
        if (variable.defined()) leaves_.push_back(variable);
      }
    } else {
      if (of_thread_ == nullptr || thread_ != node->thread_id()) {
        thread_ = node->thread_id();
        of_thread_ = &nodes_[thread_];
      }
      of_thread_->push_back(node->sequence_nr());
    }
    waiting_.push_back(node);
    return true;
  }

  std::function<void(const c10::intrusive_ptr<Node>&)> on_node_;
  std::vector<Node*> waiting_;
  NodeSet found_;
  NodesByThread nodes_;
  std::vector<uint64_t>* of_thread_ = nullptr;  // the numbers of the thread of the latest node
  uint64_t thread_ = 0;
  std::vector<at::Tensor> leaves_;
};

inline FlowId flow_of_leaf(const at::Tensor& tensor) {
  auto* impl = tensor.unsafeGetTensorImpl();
  return Call::leaf_of(impl, storage_of(impl));
}

inline FlowId flow_of_root(const at::Tensor& root) {
  if (root.requires_grad() && raw_grad_fn(root) == nullptr) return flow_of_leaf(root);
  return Creations::global().find_flow(root.unsafeGetTensorImpl(), FlowNodes::global().epoch()).first;
}

// What a backward goes through.
struct BackwardPass {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // of sequence numbers, each by its first and last one
  ReachedAgain again;
  FlowId site = NO_FLOW;
  std::vector<at::Tensor> leaves;
  std::vector<UnseenWrite> unseen;
};

// Adds the writes to what a node saved that the graph has not seen.
inline void add_unseen_writes(ThreadLog& log, const c10::intrusive_ptr<Node>& node, std::vector<UnseenWrite>& found) {
  constexpr size_t MAX_FOUND = 8;
  log.nodes().visit_saved(node, [&](const SavedVariable& variable) {
    if (found.size() >= MAX_FOUND || variable.has_hooks()) return;
    const auto tensor = variable.get_raw_data();
    if (!tensor || !tensor->defined()) return;
    const auto* impl = tensor->unsafeGetTensorImpl();
    auto* storage = storage_of(impl);
    if (storage == nullptr) return;
    const auto write = find_unseen_write(*impl, storage, counter_of(impl), node->thread_id(), node->sequence_nr());
    if (write) found.push_back(*write);
  });
}

// Notes a backward from these roots in the logs of all threads that constructed its nodes, and, called at `site`, in the log of
// the thread that runs it.
inline BackwardPass begin_backward(const Logs& logs, ThreadLog* own, const FlowNode& site, const std::vector<at::Tensor>& roots,
                                   bool ends_iteration = true) {
  BackwardPass pass;
  std::function<void(const c10::intrusive_ptr<Node>&)> on_node;
  if (own != nullptr && !UnseenWrites::global().is_empty()) {
    on_node = [&pass, own](const c10::intrusive_ptr<Node>& node) { add_unseen_writes(*own, node, pass.unseen); };
  }
  GraphWalk walk(std::move(on_node));
  for (const auto& root : roots) walk.add(root);
  std::vector<std::pair<FlowId, bool>> starts;
  std::vector<FlowId> leaves;
  for (const auto& root : roots) {
    if (const FlowId flow = flow_of_root(root)) starts.emplace_back(flow, raw_grad_fn(root) == nullptr);
  }
  for (const auto& leaf : walk.leaves()) {
    if (const FlowId flow = flow_of_leaf(leaf)) leaves.push_back(flow);
  }
  const auto nodes = walk.take_nodes();
  std::vector<uint64_t> all;
  for (const auto& [thread, numbers] : nodes) {
    for (const auto& log : logs) {
      if (log->number_in_torch() == thread) log->reach(numbers, pass.again);
    }
    all.insert(all.end(), numbers.begin(), numbers.end());
  }
  if (own != nullptr) pass.site = own->begin_backward(site, starts, leaves, ends_iteration);
  pass.leaves = walk.leaves();
  std::sort(all.begin(), all.end());
  auto& ranges = pass.ranges;
  for (const uint64_t number : all) {
    if (!ranges.empty() && number <= ranges.back().second + 1) {
      ranges.back().second = number;
    } else {
      ranges.emplace_back(number, number);
    }
  }
  return pass;
}

// Adds up the bytes of the storages that nodes of PyTorch saved, each storage once.
class SavedBytes {
 public:
  explicit SavedBytes(NodeReader& reader) : reader_(reader) {}

  void add(const c10::intrusive_ptr<Node>& node) {
    reader_.visit_saved(node, [this](const SavedVariable& variable) {
      if (variable.has_hooks()) return;
      const auto tensor = variable.get_raw_data();
      if (!tensor || !tensor->defined()) return;
      auto* storage = storage_of(tensor->unsafeGetTensorImpl());
      // A result that its own node saved looks like a leaf.
      if (storage == nullptr || LeafStorages::global().find(storage) != NO_FLOW) return;
      if (storages_.insert(storage).second) bytes_ += static_cast<int64_t>(storage->sym_nbytes().maybe_as_int().value_or(0));
    });
  }

  int64_t take() { return std::exchange(bytes_, 0); }

 private:
  NodeReader& reader_;
  std::unordered_set<const void*> storages_;
  int64_t bytes_ = 0;
};

// The graphs behind the living results of one line.
struct HeldGraphs {
  std::vector<at::Tensor> heads;
  int64_t bytes = 0;  // of the storages that the nodes saved, but for those of leaves
  int64_t number = 0, nodes = 0, old_nodes = 0, unused_nodes = 0;  // unused: no backward has reached them
  std::set<size_t> iterations;                     // that ended since nodes among them were constructed
  std::map<std::pair<PyCodeObject*, int>, int64_t> places;  // that constructed the nodes
  std::vector<uint64_t> samples;                   // some of the nodes, old ones if there are any
};

// The graphs that the program holds, by the operator and line whose results hold them, those with the most nodes first. A node
// that several tensors lead to belongs to the latest of them. `own` is the log of the calling thread.
inline std::vector<std::pair<Creation, HeldGraphs>> held_graphs(ThreadLog& own, const Logs& logs) {
  constexpr size_t MAX_HEADS = 8, MAX_GROUPS = 32;
  constexpr size_t OLD = 2;  // an iteration's loss may still be alive while the next one runs
  auto living = Creations::global().living();
  const uint32_t epoch = FlowNodes::global().epoch();
  living.erase(std::remove_if(living.begin(), living.end(),
                              [epoch](const auto& entry) {  // without what is left of earlier recordings
                                return entry.second.epoch != epoch || raw_grad_fn(entry.first) == nullptr ||
                                    entry.first.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj() == nullptr;
                              }),
               living.end());
  std::sort(living.begin(), living.end(), [](const auto& one, const auto& other) { return one.second.made > other.second.made; });
  std::map<std::tuple<PyCodeObject*, int, NameId>, std::pair<Creation, HeldGraphs>> groups;
  SavedBytes saved(own.nodes());
  GraphWalk walk([&saved](const c10::intrusive_ptr<Node>& node) { saved.add(node); });
  for (const auto& [tensor, creation] : living) {
    const bool has_own = walk.add(tensor);
    auto& [first, group] = groups.try_emplace({creation.code, creation.offset, creation.op}, creation, HeldGraphs{}).first->second;
    if (group.heads.size() < MAX_HEADS) {
      group.heads.push_back(tensor);
    } else {
      group.heads[1 + static_cast<size_t>(group.number) % (MAX_HEADS - 1)] = tensor;  // the latest one, and the oldest
    }
    ++group.number;
    if (!has_own) continue;
    group.bytes += saved.take();
    for (const auto& [thread, numbers] : walk.take_nodes()) {
      group.nodes += static_cast<int64_t>(numbers.size());
      if (group.samples.size() < MAX_HEADS) group.samples.push_back(numbers.front());
      for (const auto& log : logs) {
        if (log->number_in_torch() != thread) continue;
        log->visit_nodes(numbers, [&, &group = group](const CallSite& at, size_t age, bool is_reached) {
          group.unused_nodes += is_reached ? 0 : 1;
          ++group.places[{at.code, at.offset}];
          if (age < OLD) return;
          ++group.old_nodes;
          group.iterations.insert(age);
        });
      }
    }
  }
  std::vector<std::pair<Creation, HeldGraphs>> found;
  for (auto& [key, group] : groups) found.push_back(std::move(group));
  std::sort(found.begin(), found.end(), [](const auto& one, const auto& other) { return one.second.nodes > other.second.nodes; });
  if (found.size() > MAX_GROUPS) found.resize(MAX_GROUPS);
  return found;
}

}  // namespace gradprobe
