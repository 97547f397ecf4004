// The kinds of traced operations that depend on context: gates, attention, embeddings that are added.
#pragma once

#include <vector>

#include "graph/graph.hpp"

namespace ghnfast {

struct ResolvedKinds {
  std::vector<Kind> kinds;             // of each operation: a primitive, or kPass where it never is a node
  std::vector<char> attention_offset;  // of each operation: whether it is an embedding that attention scores take
};

// The operations must be checked: they read earlier ones only.
ResolvedKinds resolve_kinds(const TracedOperations& traced);

}  // namespace ghnfast
