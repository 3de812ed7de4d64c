// Where each living tensor was created, by the address of its TensorImpl. A weak reference keeps the address from being used
// again while a record exists, so a record is never another tensor's; it keeps neither the tensor's memory nor its graph.

#pragma once

#include "callers.h"
#include "flow.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <typeinfo>
#include <vector>

namespace gradprobe {

using WeakTensor = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;

// Where the gradient of a leaf comes from, as far as no optimizer has taken it.
struct GradientOrigin {
  FlowId pending = NO_FLOW;  // the latest backward that added to it
  uint32_t pass = 0;         // the number of that backward in its thread
  FlowId again = NO_FLOW;    // the step that has taken a part of it already
  FlowId other = NO_FLOW;    // an earlier backward that gave a part of it, and whose other gradients a step has taken since
};

struct Creation {
  int64_t made = -1;          // on the recording's clock; of two operators of a thread the later one has the later time
  PyCodeObject* code = nullptr;
  int offset = 0;
  NameId op = NO_NAME;
  NameId module = NO_NAME;
  int64_t storage_made = -1;  // -1 if unknown
  uint64_t thread = 0;
  FlowId flow = NO_FLOW;      // the site that made the tensor or wrote it last
  FlowId leaf = NO_FLOW;      // its own number if it is a leaf that an operator has taken
  GradientOrigin gradient;    // of a leaf
  uint32_t epoch = 0;         // of the numbers of the flow
  uint32_t version = 0;       // of an alias: that of its counter when the alias was made or last written itself

  // Whether the tensor shares the memory of one that was there before. A parameter is made of another tensor, but stands for it.
  bool is_alias() const { return leaf == NO_FLOW && storage_made != made; }
};

inline WeakTensor weak_to(at::TensorImpl* impl) {
  c10::raw::weak_intrusive_ptr::incref(impl);
  return WeakTensor::reclaim(impl);
}

// Returns whether nothing but what PyTorch releases with the last owner belongs to a tensor. A weak reference to another
// kind, such as a sparse tensor or one of functorch, would keep the tensors alive that it consists of.
inline bool can_be_weak(const at::TensorImpl& impl) { return typeid(impl) == typeid(at::TensorImpl); }

class Creations {
 public:
  static Creations& global() {
    static Creations* creations = new Creations();  // never freed: threads may still run while the interpreter ends
    return *creations;
  }

  void lock() { shards_.lock(); }
  void unlock() { shards_.unlock(); }

  void add(at::TensorImpl* impl, const Creation& creation) {
    WeakTensor weak = weak_to(impl);
    std::vector<WeakTensor> freed;  // released after the lock
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index < shard.keys.size()) {
      shard.entries[index].creation = creation;
      return;
    }
    if (shard.keys.size() >= shard.sweep_at) shard.sweep(freed);
    shard.keys.push_back(impl);
    shard.entries.push_back({std::move(weak), creation});
  }

  std::optional<Creation> find(const at::TensorImpl* impl) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index == shard.keys.size()) return std::nullopt;
    return shard.entries[index].creation;
  }

  // Only the numbers of the flow, both NO_FLOW if the tensor has no record.
  std::pair<FlowId, FlowId> find_flow(const at::TensorImpl* impl, uint32_t epoch) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index == shard.keys.size() || shard.entries[index].creation.epoch != epoch) return {NO_FLOW, NO_FLOW};
    return {shard.entries[index].creation.flow, shard.entries[index].creation.leaf};
  }

  // Notes that a site has written the tensor, if it has a record; NO_FLOW stands for a site that is not followed.
  void note_write(const at::TensorImpl* impl, FlowId flow, uint32_t epoch) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index == shard.keys.size()) return;
    auto& creation = shard.entries[index].creation;
    if (creation.is_alias() && impl->version_counter().enabled()) creation.version = impl->version_counter().current_version();
    if (flow == NO_FLOW) return;
    if (creation.epoch != epoch) forget_leaf(creation);
    creation.flow = flow;
    creation.epoch = epoch;
  }

  // Notes the number of a leaf. One that no operator has made gets a record of its own.
  void set_leaf(at::TensorImpl* impl, FlowId leaf, uint32_t epoch) {
    {
      Shard& shard = shards_.of(impl);
      const std::lock_guard<SpinLock> guard(shard.lock);
      const size_t index = shard.find(impl);
      if (index < shard.keys.size()) {
        auto& creation = shard.entries[index].creation;
        if (creation.epoch != epoch) {
          forget_leaf(creation);
          creation.flow = NO_FLOW;
        }
        creation.leaf = leaf;
        creation.epoch = epoch;
        return;
      }
    }
    if (!can_be_weak(*impl)) return;
    Creation creation;
    creation.leaf = leaf;
    creation.epoch = epoch;
    add(impl, creation);
  }

  // Notes that a site stands for what a tensor is from now on, if it has a record: for a gradient, the step that has taken it.
  void set_flow(const at::TensorImpl* impl, FlowId flow, uint32_t epoch) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index == shard.keys.size()) return;
    auto& creation = shard.entries[index].creation;
    if (creation.epoch != epoch) forget_leaf(creation);
    creation.flow = flow;
    creation.epoch = epoch;
  }

  // Notes where the gradient of a leaf comes from, nowhere as an optimizer takes it. Returns what was known before.
  GradientOrigin exchange_gradient(const at::TensorImpl* impl, const GradientOrigin& origin, uint32_t epoch) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index == shard.keys.size() || shard.entries[index].creation.epoch != epoch) return {};
    return std::exchange(shard.entries[index].creation.gradient, origin);
  }

  int64_t storage_made(const at::TensorImpl* impl) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    return index == shard.keys.size() ? -1 : shard.entries[index].creation.storage_made;
  }

  // The tensor at this address with its record, if it exists and was made at this time.
  std::optional<std::pair<at::Tensor, Creation>> lock(const at::TensorImpl* impl, int64_t made) {
    std::optional<Entry> found;
    {
      Shard& shard = shards_.of(impl);
      const std::lock_guard<SpinLock> guard(shard.lock);
      const size_t index = shard.find(impl);
      if (index == shard.keys.size() || shard.entries[index].creation.made != made) return std::nullopt;
      found = shard.entries[index];
    }
    return revive(*found);
  }

  // Whether the tensor with this record exists.
  bool exists(const at::TensorImpl* impl, int64_t made) {
    Shard& shard = shards_.of(impl);
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    return index < shard.keys.size() && shard.entries[index].creation.made == made && !shard.entries[index].weak.expired();
  }

  void forget(const at::TensorImpl* impl) {
    Shard& shard = shards_.of(impl);
    std::vector<WeakTensor> freed;
    const std::lock_guard<SpinLock> guard(shard.lock);
    const size_t index = shard.find(impl);
    if (index < shard.keys.size()) shard.remove(index, freed);
  }

  // Drops the records that `is_chosen` chooses by their tensor, of those that exist.
  template <typename Choose>
  void forget_if(const Choose& is_chosen) {
    for (const auto& known : living()) {
      if (is_chosen(known.first)) forget(known.first.unsafeGetTensorImpl());
    }
  }

  // The tensors that exist, with their records.
  std::vector<std::pair<at::Tensor, Creation>> living() {
    std::vector<Entry> all;
    for (Shard& shard : shards_) {
      const std::lock_guard<SpinLock> guard(shard.lock);
      all.insert(all.end(), shard.entries.begin(), shard.entries.end());
    }
    std::vector<std::pair<at::Tensor, Creation>> found;
    for (const Entry& entry : all) {
      if (auto living = revive(entry)) found.push_back(std::move(*living));
    }
    return found;
  }

 private:
  struct Entry {
    WeakTensor weak;
    Creation creation;
  };

  static void forget_leaf(Creation& creation) {
    creation.leaf = NO_FLOW;
    creation.gradient = {};
  }

  // Takes the GIL if the tensor has a Python object: no lock of ours may be held, since its holder might wait for it.
  static std::optional<std::pair<at::Tensor, Creation>> revive(const Entry& entry) {
    auto strong = entry.weak.lock();
    if (!strong) return std::nullopt;
    return std::make_pair(at::Tensor(std::move(strong)), entry.creation);
  }

  // A few records in no order: to look through their addresses takes less time than to keep them in a tree or a table.
  struct Shard {
    static constexpr size_t SPARE = 2;

    SpinLock lock;
    std::vector<const at::TensorImpl*> keys;
    std::vector<Entry> entries;
    size_t sweep_at = SPARE;

    size_t find(const at::TensorImpl* impl) const {
      size_t index = 0;
      while (index < keys.size() && keys[index] != impl) ++index;
      return index;
    }

    void remove(size_t index, std::vector<WeakTensor>& freed) {
      freed.push_back(std::move(entries[index].weak));
      if (index + 1 < keys.size()) {
        keys[index] = keys.back();
        entries[index] = std::move(entries.back());
      }
      keys.pop_back();
      entries.pop_back();
    }

    // Removes the records of freed tensors. Half of the records may be of those before it happens again.
    void sweep(std::vector<WeakTensor>& freed) {
      for (size_t index = 0; index < keys.size();) {
        if (entries[index].weak.expired()) {
          remove(index, freed);
        } else {
          ++index;
        }
      }
      sweep_at = 2 * keys.size() + SPARE;
    }
  };

  Shards<Shard> shards_;
};

}  // namespace gradprobe
