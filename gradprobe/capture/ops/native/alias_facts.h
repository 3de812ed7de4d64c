// Several arguments of an operator over one memory: the leaf that it belongs to, and what is known of each alias.

#pragma once

#include "call.h"

#include <utility>
#include <vector>

namespace gradprobe {

// The creation of each alias, and how often others wrote its memory since then. What was written through the alias itself is no
// loss: `x[0] += 1` makes a view, writes it, and copies it onto another view of the same elements.
struct AliasFacts {
  FlowId leaf = NO_FLOW;
  std::vector<std::pair<Creation, int64_t>> known;
};

inline AliasFacts find_aliases(const Call& call) {
  FlowId leaf = NO_FLOW;
  std::vector<std::pair<Creation, int64_t>> known, owners;
  for (const auto& argument : call.arguments) {
    if (leaf == NO_FLOW) leaf = LeafStorages::global().find(const_cast<c10::StorageImpl*>(argument.storage));
    const auto found = Creations::global().find(argument.impl);
    if (!found || found->code == nullptr) continue;
    const auto& counter = argument.impl->version_counter();
    int64_t version = counter.enabled() ? counter.current_version() : 0;
    for (const auto& write : call.writes) {
      if (write.counter != nullptr && write.counter == counter_of(argument.impl)) version = write.version;
    }
    (found->is_alias() ? known : owners).emplace_back(*found, std::max<int64_t>(version - found->version, 0));
  }
  if (known.empty()) {
    known.swap(owners);
    for (auto& [creation, writes] : known) creation.code = nullptr;  // that place made the memory, not the alias
  }
  return {leaf, std::move(known)};
}

}  // namespace gradprobe
