// Memory that graphs have saved, and writes to it that no version counter of theirs sees: through a tensor with a counter of its
// own, as `.data` is one, or by code beyond PyTorch that has the memory too, such as NumPy.

#pragma once

#include "graph_paths.h"
#include "memory_ranges.h"
#include "shards.h"

#include <ATen/MapAllocator.h>
#include <c10/core/StorageImpl.h>

#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

namespace gradprobe {

// A moment in the life of a thread: PyTorch's number for it, and the number of nodes that it had constructed.
struct ThreadMoment {
  uint64_t thread = 0, nodes = 0;
};

// What a storage that others can write contained at a moment.
struct MemoryMark {
  ThreadMoment at;
  uint64_t contents = 0;
  const void* counter = nullptr;
  uint32_t version = 0;
};

// A write by an operator, and the counter that it incremented. It is unseen if the graph that saved the memory has another one; then
// what the range contained before is known, if it could be read.
struct MemoryWrite {
  ThreadMoment at;
  CallSite place;
  const void* counter = nullptr;
  bool is_unseen = false;
  MemoryRange range;
  std::optional<uint64_t> before;
};

struct WatchedMemory {
  bool is_shared = false;
  CallSite shared_at;  // unknown for what was made of an array
  uint64_t saves = 0;  // by nodes
  std::vector<MemoryMark> marks;
  std::vector<MemoryWrite> writes;
};

// PyTorch did not allocate it: `from_numpy`, `frombuffer` and DLPack wrap the memory of others. What is mapped from a file or shared
// between processes is meant to be written elsewhere, or never.
inline bool is_foreign(const c10::StorageImpl& storage) {
  if (storage.allocator() != nullptr) return false;
  const auto& data = storage.data_ptr();
  return at::MapAllocator::fromDataPtr(data) == nullptr && at::RefcountedMapAllocator::fromDataPtr(data) == nullptr;
}

// The storages that are worth a look before a backward pass, by address; weak references keep the addresses from being used again.
class UnseenWrites {
 public:
  static UnseenWrites& global() {
    static UnseenWrites* writes = new UnseenWrites();  // never freed: threads may still run while the interpreter ends
    return *writes;
  }

  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }

  bool is_empty() const { return size_.load(std::memory_order_relaxed) == 0; }

  // Notes that code beyond PyTorch gets the memory at a line of the program.
  void share(c10::StorageImpl* storage, const CallSite& place, const MemoryMark& mark) {
    change(storage, [&](WatchedMemory& memory) {
      memory.is_shared = true;
      memory.shared_at = place;
      push(memory.marks, mark);
    });
  }

  // Notes what the memory contains as a graph saves it, if others have it too.
  void on_saved(c10::StorageImpl* storage, const MemoryMark& mark_without_contents) {
    const bool is_theirs = is_foreign(*storage);
    if ((!is_theirs && is_empty()) || !can_be_read(*storage) || (!is_theirs && !is_shared(storage))) return;
    // Frozen weights that are mapped from a file are saved in each iteration: of many times, some are enough.
    bool is_looked_at = true;
    change(storage, [&](WatchedMemory& memory) { is_looked_at = ++memory.saves <= MAX_SAVES || memory.saves % MAX_KEPT == 0; });
    if (!is_looked_at) return;
    MemoryMark mark = mark_without_contents;
    mark.contents = hash_contents(*storage);
    change(storage, [&](WatchedMemory& memory) {
      memory.is_shared = true;
      push(memory.marks, mark);
    });
  }

  // Notes a write to memory that a graph has saved: one that the graph sees only where others have the memory too.
  void on_write(c10::StorageImpl* storage, const MemoryWrite& write) {
    if (!write.is_unseen && (is_empty() || !is_shared(storage))) return;
    change(storage, [&](WatchedMemory& memory) { push(memory.writes, write); });
  }

  std::optional<WatchedMemory> find(c10::StorageImpl* storage) {
    const std::lock_guard<SpinLock> guard(lock_);
    const auto found = entries_.find(storage);
    return found == entries_.end() ? std::nullopt : std::make_optional(found->second.memory);
  }

  void clear() {
    std::unordered_map<c10::StorageImpl*, Entry> entries;
    const std::lock_guard<SpinLock> guard(lock_);
    entries.swap(entries_);
    size_ = 0;
    sweep_at_ = SPARE;
  }

 private:
  using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;
  static constexpr size_t SPARE = 64, MAX_KEPT = 16, MAX_SAVES = 256;

  struct Entry {
    WeakStorage weak{c10::intrusive_ptr<c10::StorageImpl>{}};
    WatchedMemory memory;
  };

  template <typename Item>
  static void push(std::vector<Item>& items, const Item& item) {
    if (items.size() >= MAX_KEPT) items.erase(items.begin());
    items.push_back(item);
  }

  bool is_shared(c10::StorageImpl* storage) {
    const std::lock_guard<SpinLock> guard(lock_);
    const auto found = entries_.find(storage);
    return found != entries_.end() && found->second.memory.is_shared;
  }

  template <typename Change>
  void change(c10::StorageImpl* storage, const Change& change) {
    std::vector<WeakStorage> freed;  // released after the lock
    const std::lock_guard<SpinLock> guard(lock_);
    if (entries_.size() >= sweep_at_) sweep(freed);
    auto [found, is_new] = entries_.try_emplace(storage);
    if (is_new) {
      c10::raw::weak_intrusive_ptr::incref(storage);
      found->second.weak = WeakStorage::reclaim(storage);
    }
    change(found->second.memory);
    size_ = entries_.size();
  }

  void sweep(std::vector<WeakStorage>& freed) {
    for (auto it = entries_.begin(); it != entries_.end();) {
      if (it->second.weak.expired()) {
        freed.push_back(std::move(it->second.weak));
        it = entries_.erase(it);
      } else {
        ++it;
      }
    }
    sweep_at_ = 2 * entries_.size() + SPARE;
  }

  SpinLock lock_;
  std::unordered_map<c10::StorageImpl*, Entry> entries_;
  std::atomic<size_t> size_ = 0;
  size_t sweep_at_ = SPARE;
};

// A write to what a node has saved, found as a backward pass is about to use it.
struct UnseenWrite {
  CallSite place;          // of the operator that wrote, or the line that gave the memory away; unknown for an array
  bool by_operator = false;
  uint64_t thread = 0, node = 0;
};

// Returns whether the memory contains again what it did before these writes.
inline bool is_restored(const c10::StorageImpl& storage, const std::vector<const MemoryWrite*>& writes) {
  std::vector<MemoryRange> looked_at;
  for (const MemoryWrite* write : writes) {
    if (std::find(looked_at.begin(), looked_at.end(), write->range) != looked_at.end()) continue;
    looked_at.push_back(write->range);
    if (!write->before || !can_be_read(storage) || *write->before != hash_contents(storage, write->range)) return false;
  }
  return true;
}

// Returns the latest write to a saved tensor since its node was constructed that its counter missed, unless it has been undone.
inline std::optional<UnseenWrite> find_unseen_write(const at::TensorImpl& saved, c10::StorageImpl* storage, const void* counter,
                                                    uint64_t thread, uint64_t node) {
  const auto memory = UnseenWrites::global().find(storage);
  if (!memory) return std::nullopt;
  const MemoryRange range = range_of(saved);
  std::vector<const MemoryWrite*> unseen;
  bool is_written = false;
  for (const MemoryWrite& write : memory->writes) {
    if (write.at.thread != thread || write.at.nodes <= node || !range.overlaps(write.range)) continue;
    is_written = true;
    if (write.is_unseen && write.counter != counter) unseen.push_back(&write);
  }
  if (!unseen.empty() && !is_restored(*storage, unseen)) return UnseenWrite{unseen.back()->place, true, thread, node};
  if (!memory->is_shared || is_written || !can_be_read(*storage)) return std::nullopt;
  const uint32_t version = counter == nullptr ? 0 : saved.version_counter().current_version();
  for (const MemoryMark& mark : memory->marks) {
    if (mark.at.thread != thread || mark.at.nodes < node) continue;
    if (mark.counter == counter && mark.version != version) return std::nullopt;  // PyTorch sees it and raises
    if (mark.contents == hash_contents(*storage)) return std::nullopt;
    return UnseenWrite{memory->shared_at, false, thread, node};
  }
  return std::nullopt;
}

}  // namespace gradprobe
