#include "graph/graph.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "graph/resolve.hpp"
#include "graph/span.hpp"

namespace ghnfast {
namespace {

constexpr std::int32_t kNone = -1;

void check(const TracedOperations& traced) {
  const auto count = static_cast<std::int32_t>(traced.kinds.size());
  if (traced.input_offsets.size() != traced.kinds.size() + 1 || traced.input_offsets.front() != 0 ||
      traced.input_offsets.back() != static_cast<std::int32_t>(traced.inputs.size())) {
    throw std::invalid_argument("input_offsets must start at 0, end at len(inputs) and have one entry more than kinds");
  }
  for (std::int32_t op = 0; op < count; ++op) {
    const auto kind = static_cast<std::int8_t>(traced.kinds[op]);
    if (kind < 0 || kind >= static_cast<std::int8_t>(Kind::kCount)) {
      throw std::invalid_argument("operation " + std::to_string(op) + " has the unknown kind " + std::to_string(kind));
    }
    const auto begin = traced.input_offsets[op], end = traced.input_offsets[op + 1];
    if (begin < 0 || end < begin || end > static_cast<std::int32_t>(traced.inputs.size())) {
      throw std::invalid_argument("input_offsets must not decrease");
    }
    for (auto k = begin; k < end; ++k) {
      if (traced.inputs[k] < 0 || traced.inputs[k] >= op) {
        throw std::invalid_argument("operation " + std::to_string(op) + " reads operation " +
                                    std::to_string(traced.inputs[k]) + "; it can read earlier ones only");
      }
    }
  }
  for (const auto output : traced.outputs) {
    if (output < 0 || output >= count) {
      throw std::invalid_argument("output " + std::to_string(output) + " is not an operation");
    }
  }
}

// Nodes and their predecessors while operations are contracted away.
class Contraction {
 public:
  Contraction(const TracedOperations& traced, const ResolvedKinds& resolved)
      : traced_(traced), resolved_(resolved), kinds_(resolved.kinds) {
    const auto count = kinds_.size();
    is_node_.assign(count, 0);
    reached_.assign(count, 0);
    live_.assign(count, 0);
    predecessors_.resize(count);
    for (std::int32_t op = 0; op < static_cast<std::int32_t>(count); ++op) {
      contract(op);
    }
    mark_live();
  }

  Graph finish();

 private:
  // Puts the nodes of a graph in the order of their levels; the position of each operation, or kNone.
  std::vector<std::int32_t> order_nodes(const std::vector<std::int32_t>& level, Graph& graph) const;

  void add_edges(const std::vector<std::int32_t>& position, Graph& graph) const;

  Fate fate(std::int32_t op) const {
    return live_[op]                        ? Fate::kNode
           : resolved_.attention_offset[op] ? Fate::kAttentionOffset
           : !reached_[op]                  ? Fate::kNoInput
           : is_node_[op]                   ? Fate::kNoOutput
                                            : Fate::kContracted;
  }

  // The nodes that a reader of `op` gets its values from.
  Span sources(std::int32_t op) const {
    if (is_node_[op]) {
      return {&own_[op], &own_[op] + 1};
    }
    const auto& list = predecessors_[op];
    return {list.data(), list.data() + list.size()};
  }

  void contract(std::int32_t op) {
    own_.push_back(op);
    const auto kind = kinds_[op];
    auto& list = predecessors_[op];
    for (auto k = traced_.input_offsets[op]; k < traced_.input_offsets[op + 1]; ++k) {
      const auto input = traced_.inputs[k];
      if (reached_[input]) {
        const auto from = sources(input);
        list.insert(list.end(), from.begin(), from.end());
      }
    }
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    // An embedding that is added needs no path from the input: it joins one.
    const bool source = kind == Kind::kInput || kind == Kind::kPosEnc;
    reached_[op] = source || !list.empty();
    const bool joins = kind == Kind::kSum || kind == Kind::kConcat;
    is_node_[op] = reached_[op] && kind != Kind::kPass && (!joins || list.size() > 1);
  }

  void mark_live() {
    std::vector<std::int32_t> pending;
    for (const auto output : traced_.outputs) {
      if (reached_[output]) {
        const auto from = sources(output);
        pending.insert(pending.end(), from.begin(), from.end());
      }
    }
    while (!pending.empty()) {
      const auto node = pending.back();
      pending.pop_back();
      if (!live_[node]) {
        live_[node] = 1;
        pending.insert(pending.end(), predecessors_[node].begin(), predecessors_[node].end());
      }
    }
  }

  void count_successors() {
    successor_count_.assign(kinds_.size(), 0);
    for (std::size_t op = 0; op < kinds_.size(); ++op) {
      if (live_[op]) {
        for (const auto from : predecessors_[op]) {
          ++successor_count_[from];
        }
      }
    }
  }

  // The only node that the main output comes from, or kNone.
  std::int32_t main_output() const {
    for (const auto output : traced_.outputs) {
      if (reached_[output]) {
        const auto from = sources(output);
        return from.size() == 1 ? *from.begin() : kNone;
      }
    }
    return kNone;
  }

  void find_classifier() {
    auto node = main_output();
    // Several heads that are averaged: the last one stands for the classification layer.
    if (node != kNone && kinds_[node] == Kind::kSum) {
      node = predecessors_[node].back();
    }
    if (node == kNone) {
      return;
    }
    auto pool = kNone;
    if (kinds_[node] == Kind::kGlobAvg && predecessors_[node].size() == 1) {
      pool = node;
      node = predecessors_[pool].front();
    }
    auto bias = kNone;
    if (kinds_[node] == Kind::kBias && predecessors_[node].size() == 1) {
      bias = node;
      node = predecessors_[bias].front();
    }
    if (traced_.kinds[node] != Kind::kPointwiseConv) {
      return;
    }
    weight_ = node;
    bias_ = bias;
    const auto tail = bias == kNone ? node : bias;
    const bool alone = bias == kNone || successor_count_[node] == 1;
    at_end_ = alone && successor_count_[tail] == (pool == kNone ? 0 : 1);
    if (at_end_ && pool != kNone && successor_count_[pool] == 0) {
      // A pool behind the classification layer (SqueezeNet) moves in front of it: the two commute.
      predecessors_[pool] = predecessors_[node];
      predecessors_[node] = {pool};
    } else if (pool != kNone) {
      at_end_ = false;
      weight_ = bias_ = kNone;
    }
  }

  // Longest path from a source; the classification layer goes behind everything else.
  std::vector<std::int32_t> compute_levels() const {
    std::vector<std::int32_t> level(kinds_.size(), kNone);
    std::int32_t deepest = 0;
    std::vector<std::int32_t> pending;
    for (std::int32_t op = 0; op < static_cast<std::int32_t>(kinds_.size()); ++op) {
      if (!live_[op] || (at_end_ && (op == weight_ || op == bias_))) {
        continue;
      }
      // Only a pool that was moved can precede an operation with a smaller number, and its readers are placed last.
      auto longest = kNone;
      for (const auto from : predecessors_[op]) {
        longest = std::max(longest, level[from]);
      }
      level[op] = longest + 1;
      deepest = std::max(deepest, level[op]);
    }
    if (at_end_) {
      level[weight_] = deepest + 1;
      if (bias_ != kNone) {
        level[bias_] = deepest + 2;
      }
    }
    return level;
  }

  const TracedOperations& traced_;
  const ResolvedKinds& resolved_;
  const std::vector<Kind>& kinds_;
  std::vector<std::int32_t> own_;
  std::vector<std::vector<std::int32_t>> predecessors_;
  std::vector<char> is_node_;
  std::vector<char> reached_;
  std::vector<char> live_;
  std::vector<std::int32_t> successor_count_;
  std::int32_t weight_ = kNone;
  std::int32_t bias_ = kNone;
  bool at_end_ = false;
};

std::vector<std::int32_t> Contraction::order_nodes(const std::vector<std::int32_t>& level, Graph& graph) const {
  const auto count = static_cast<std::int32_t>(kinds_.size());
  std::int32_t level_count = 0;
  for (std::int32_t op = 0; op < count; ++op) {
    level_count = std::max(level_count, level[op] + 1);
  }
  graph.level_offsets.assign(level_count + 1, 0);
  for (std::int32_t op = 0; op < count; ++op) {
    if (live_[op]) {
      ++graph.level_offsets[level[op] + 1];
    }
  }
  std::partial_sum(graph.level_offsets.begin(), graph.level_offsets.end(), graph.level_offsets.begin());

  auto next = graph.level_offsets;
  std::vector<std::int32_t> position(count, kNone);
  graph.operations.resize(graph.level_offsets.back());
  graph.primitives.resize(graph.level_offsets.back());
  for (std::int32_t op = 0; op < count; ++op) {
    if (live_[op]) {
      position[op] = next[level[op]]++;
      graph.operations[position[op]] = op;
      graph.primitives[position[op]] = static_cast<std::int8_t>(kinds_[op]);
    }
  }
  return position;
}

void Contraction::add_edges(const std::vector<std::int32_t>& position, Graph& graph) const {
  for (const auto op : graph.operations) {
    std::vector<std::int32_t> from;
    for (const auto predecessor : predecessors_[op]) {
      from.push_back(position[predecessor]);
    }
    std::sort(from.begin(), from.end());
    for (const auto node : from) {
      graph.edges.push_back(node);
      graph.edges.push_back(position[op]);
    }
  }
}

Graph Contraction::finish() {
  count_successors();
  find_classifier();
  Graph graph;
  const auto position = order_nodes(compute_levels(), graph);
  add_edges(position, graph);
  for (std::int32_t op = 0; op < static_cast<std::int32_t>(kinds_.size()); ++op) {
    graph.fates.push_back(fate(op));
  }
  graph.classifier_weight = weight_ == kNone ? kNone : position[weight_];
  graph.classifier_bias = bias_ == kNone ? kNone : position[bias_];
  return graph;
}

}  // namespace

Graph build_graph(const TracedOperations& traced) {
  check(traced);
  const auto resolved = resolve_kinds(traced);
  return Contraction(traced, resolved).finish();
}

}  // namespace ghnfast
