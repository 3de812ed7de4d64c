// The flow of tensors through the program: which line took what another line had made, and whether gradient could follow. A
// program has as many sites and edges as it has operators, however long it runs.

#pragma once

#include "names.h"
#include "shards.h"

#include <Python.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/SmallVector.h>

#include <array>
#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace gradprobe {

using FlowId = uint32_t;
constexpr FlowId NO_FLOW = 0;

// What became of gradient between two sites: a mirror of recording/flow.py, compared with it when the library is loaded.
enum Passage : uint8_t { CARRIED, WITHOUT_GRAD, CUT_BY_NO_GRAD, CUT_BY_INFERENCE, CUT_BY_DETACH, CUT_BY_DATA, NOT_DIFFERENTIABLE,
                         WRITTEN, NUMBER_OF_PASSAGES };

// An operator at a line, or a leaf: a parameter or another tensor that requires grad and that no operator computed.
struct FlowNode {
  PyCodeObject* code = nullptr;
  int offset = 0;
  NameId op = NO_NAME, module = NO_NAME;
  bool is_leaf = false;
  FlowId made_at = NO_FLOW;  // of a leaf: the site that created it

  bool operator==(const FlowNode& other) const {
    return code == other.code && offset == other.offset && op == other.op && module == other.module;
  }

  size_t hash() const {
    uint64_t mixed = (reinterpret_cast<uintptr_t>(code) >> 4 ^ uint64_t(uint32_t(offset)) << 40) * 0x9E3779B97F4A7C15ull;
    mixed = (mixed ^ mixed >> 29 ^ (uint64_t(op) << 32 | module)) * 0x9E3779B97F4A7C15ull;
    return mixed ^ mixed >> 32;
  }
};

// The sites and leaves of the process, by number. They refer to code that the recordings keep alive, so all are forgotten with
// the last recording; a number is valid in its epoch.
class FlowNodes {
 public:
  static FlowNodes& global() {
    static FlowNodes* nodes = new FlowNodes();  // never freed: threads may still run while the interpreter ends
    return *nodes;
  }

  uint32_t epoch() const { return epoch_.load(std::memory_order_acquire); }

  FlowId add_site(const FlowNode& site) {
    const std::lock_guard<std::mutex> guard(lock_);
    auto& known = sites_[site];
    if (known == NO_FLOW) known = push(site);
    return known;
  }

  // A line that makes leaves again and again gets a number for each of the first ones only.
  FlowId add_leaf(FlowId made_at) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (++leaves_made_at_[made_at] > MAX_LEAVES_PER_SITE) return made_at;
    FlowNode leaf;
    leaf.is_leaf = true;
    leaf.made_at = made_at;
    return push(leaf);
  }

  FlowNode get(FlowId number) {
    const std::lock_guard<std::mutex> guard(lock_);
    return number < nodes_.size() ? nodes_[number] : FlowNode{};
  }

  // The nodes from this number on.
  std::vector<FlowNode> since(FlowId first) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (first >= nodes_.size()) return {};
    return {nodes_.begin() + first, nodes_.end()};
  }

  void clear() {
    const std::lock_guard<std::mutex> guard(lock_);
    ++epoch_;
    nodes_.resize(1);
    sites_.clear();
    leaves_made_at_.clear();
  }

  // For a fork: see observer.cpp.
  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }

 private:
  static constexpr size_t MAX_LEAVES_PER_SITE = 4096;

  struct Hash {
    size_t operator()(const FlowNode& node) const { return node.hash(); }
  };

  FlowNodes() : nodes_(1) {}

  FlowId push(const FlowNode& node) {
    nodes_.push_back(node);
    return static_cast<FlowId>(nodes_.size() - 1);
  }

  std::mutex lock_;
  std::atomic<uint32_t> epoch_ = 1;
  std::deque<FlowNode> nodes_;
  std::unordered_map<FlowNode, FlowId, Hash> sites_;
  std::unordered_map<FlowId, size_t> leaves_made_at_;
};

// The storages of leaves: a tensor over one of them that does not require grad was taken out of the graph by `.data`. A weak
// reference to each keeps its address from being used again.
class LeafStorages {
 public:
  static LeafStorages& global() {
    static LeafStorages* storages = new LeafStorages();
    return *storages;
  }

  void add(c10::StorageImpl* storage, FlowId leaf) {
    std::vector<WeakStorage> freed;  // released after the lock
    Shard& shard = shards_.of(storage);
    const std::lock_guard<SpinLock> guard(shard.lock);
    if (shard.leaves.size() >= shard.sweep_at) shard.sweep(freed);
    const auto [found, is_new] = shard.leaves.try_emplace(storage);
    if (is_new) {
      c10::raw::weak_intrusive_ptr::incref(storage);
      found->second.weak = WeakStorage::reclaim(storage);
    }
    found->second.leaf = leaf;
  }

  FlowId find(c10::StorageImpl* storage) {
    Shard& shard = shards_.of(storage);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const auto found = shard.leaves.find(storage);
    return found == shard.leaves.end() ? NO_FLOW : found->second.leaf;
  }

  void clear() {
    for (Shard& shard : shards_) {
      std::unordered_map<c10::StorageImpl*, Entry> leaves;
      const std::lock_guard<SpinLock> guard(shard.lock);
      leaves.swap(shard.leaves);
    }
  }

  void lock() { shards_.lock(); }
  void unlock() { shards_.unlock(); }

 private:
  using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

  struct Entry {
    WeakStorage weak{c10::intrusive_ptr<c10::StorageImpl>{}};
    FlowId leaf = NO_FLOW;
  };

  struct Shard {
    static constexpr size_t SPARE = 8;

    SpinLock lock;
    std::unordered_map<c10::StorageImpl*, Entry> leaves;
    size_t sweep_at = SPARE;

    void sweep(std::vector<WeakStorage>& freed) {
      for (auto it = leaves.begin(); it != leaves.end();) {
        if (it->second.weak.expired()) {
          freed.push_back(std::move(it->second.weak));
          it = leaves.erase(it);
        } else {
          ++it;
        }
      }
      sweep_at = 2 * leaves.size() + SPARE;
    }
  };

  Shards<Shard> shards_;
};

// The edges that one thread has used since they were last taken.
class FlowEdges {
 public:
  using Counts = std::array<uint32_t, NUMBER_OF_PASSAGES>;

  struct Edge {
    FlowId from;
    Counts counts{};
  };

  struct Target {
    FlowNode site;
    FlowId id = NO_FLOW;
    c10::SmallVector<Edge, 3> edges;
  };

  // The site as a target of edges. Valid until the next call.
  Target& at(const FlowNode& site) {
    const uint32_t epoch = FlowNodes::global().epoch();
    if (epoch != epoch_) {
      targets_.clear();
      slots_.clear();
      epoch_ = epoch;
    }
    if (2 * (targets_.size() + 1) > slots_.size()) grow();
    size_t slot = site.hash() & (slots_.size() - 1);
    for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
      if (targets_[slots_[slot] - 1].site == site) return targets_[slots_[slot] - 1];
    }
    targets_.push_back({site, FlowNodes::global().add_site(site), {}});
    slots_[slot] = static_cast<uint32_t>(targets_.size());
    return targets_.back();
  }

  static void count(Target& target, FlowId from, Passage passage) {
    for (Edge& edge : target.edges) {
      if (edge.from == from) {
        ++edge.counts[passage];
        return;
      }
    }
    target.edges.push_back({from, {}});
    ++target.edges.back().counts[passage];
  }

  // Calls `see(from, to, counts)` with each edge that was used since the last time.
  template <typename See>
  void take(const See& see) {
    for (Target& target : targets_) {
      for (Edge& edge : target.edges) {
        if (edge.counts == Counts{}) continue;
        see(edge.from, target.id, edge.counts);
        edge.counts = {};
      }
    }
  }

 private:
  void grow() {
    slots_.assign(std::max<size_t>(64, 2 * slots_.size()), 0);
    for (size_t i = 0; i < targets_.size(); ++i) {
      size_t slot = targets_[i].site.hash() & (slots_.size() - 1);
      while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(i + 1);
    }
  }

  uint32_t epoch_ = 0;
  std::deque<Target> targets_;
  std::vector<uint32_t> slots_;  // the index of a target plus one, 0 for none
};

}  // namespace gradprobe
