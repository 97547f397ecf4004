#include "graph.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "parallel.hpp"

namespace ghnfast {
namespace {

constexpr std::int32_t kNone = -1;

bool is_squeeze(Kind kind) {
  return kind == Kind::kSqueezeGlobAvg || kind == Kind::kSqueezeAvgPool || kind == Kind::kSqueezeMaxPool ||
         kind == Kind::kSqueezePass;
}

bool is_convolution(Kind kind) {
  return kind == Kind::kConv || kind == Kind::kPointwiseConv || kind == Kind::kSepConv || kind == Kind::kDilConv;
}

// The primitive a traced operation becomes where it is a node, kPass where it never is.
Kind primitive_of(Kind kind) {
  switch (kind) {
    case Kind::kSqueezeGlobAvg:
      return Kind::kGlobAvg;
    case Kind::kSqueezeAvgPool:
      return Kind::kAvgPool;
    case Kind::kSqueezeMaxPool:
      return Kind::kMaxPool;
    case Kind::kPointwiseConv:
      return Kind::kConv;
    case Kind::kSoftmax:
    case Kind::kMatmul:
    case Kind::kGate:
    case Kind::kSqueezePass:
      return Kind::kPass;
    default:
      return kind;
  }
}

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

// A read-only run of integers.
struct Span {
  const std::int32_t* first;
  const std::int32_t* last;
  const std::int32_t* begin() const { return first; }
  const std::int32_t* end() const { return last; }
  std::int32_t size() const { return static_cast<std::int32_t>(last - first); }
};

Span inputs_of(const TracedOperations& traced, std::int32_t op) {
  const auto* data = traced.inputs.data();
  return {data + traced.input_offsets[op], data + traced.input_offsets[op + 1]};
}

// Turns the kinds that depend on context (gates, attention, embeddings that are added) into primitives or kPass.
//
// Three facts travel along with every value: the squeeze it comes from (a reduction of the image plane that nothing has
// widened again), the softmax it comes from, and whether it is a product of two activations (attention scores). A gate
// is then a product of features with something squeezed that the features themselves do not come from; an attention is
// a matrix product that reads a softmax.
class Resolver {
 public:
  explicit Resolver(const TracedOperations& traced)
      : traced_(traced),
        kinds_(traced.kinds),
        squeeze_(traced.kinds.size(), kNone),
        softmax_(traced.kinds.size(), 0),
        scores_(traced.kinds.size(), 0),
        attention_offset_(traced.kinds.size(), 0),
        group_(traced.kinds.size()) {
    std::iota(group_.begin(), group_.end(), 0);
  }

  void run() {
    for (std::int32_t op = 0; op < static_cast<std::int32_t>(kinds_.size()); ++op) {
      resolve(op);
    }
    // Only now are the groups final: a squeeze may join one after its gate.
    std::vector<char> gated(kinds_.size(), 0);
    for (const auto op : gate_squeezes_) {
      gated[root(op)] = 1;
    }
    for (std::size_t op = 0; op < kinds_.size(); ++op) {
      const auto kind = kinds_[op];
      const bool gate_pool = is_squeeze(kind) && gated[root(static_cast<std::int32_t>(op))];
      kinds_[op] = gate_pool || attention_offset_[op] ? Kind::kPass : primitive_of(kind);
    }
  }

  const std::vector<Kind>& kinds() const { return kinds_; }
  bool attention_offset(std::int32_t op) const { return attention_offset_[op]; }

 private:
  Span inputs(std::int32_t op) const { return inputs_of(traced_, op); }

  // Squeezes whose values were combined (say, an average and a maximum) belong to one gate.
  std::int32_t root(std::int32_t op) {
    while (group_[op] != op) {
      group_[op] = group_[group_[op]];
      op = group_[op];
    }
    return op;
  }

  std::int32_t common_squeeze(std::int32_t op) {
    const auto read = inputs(op);
    if (read.size() == 0) {
      return kNone;
    }
    for (const auto input : read) {
      if (squeeze_[input] == kNone) {
        return kNone;
      }
    }
    const auto first = squeeze_[*read.begin()];
    for (const auto input : read) {
      group_[root(squeeze_[input])] = root(first);
    }
    return first;
  }

  bool any(const std::vector<char>& fact, std::int32_t op) const {
    const auto read = inputs(op);
    return std::any_of(read.begin(), read.end(), [&](std::int32_t input) { return fact[input] != 0; });
  }

  void resolve(std::int32_t op) {
    const auto kind = kinds_[op];
    if (is_squeeze(kind)) {
      squeeze_[op] = op;
    } else if (kind == Kind::kSoftmax) {
      softmax_[op] = 1;
      squeeze_[op] = common_squeeze(op);
    } else if (kind == Kind::kMatmul) {
      resolve_matmul(op);
    } else if (kind == Kind::kGate) {
      resolve_gate(op);
    } else if (kind == Kind::kPass || kind == Kind::kSum) {
      squeeze_[op] = common_squeeze(op);
      softmax_[op] = (kind == Kind::kSum || inputs(op).size() == 1) && any(softmax_, op);
      scores_[op] = any(scores_, op);
      if (kind == Kind::kSum && scores_[op]) {
        mark_attention_offsets(op);
      }
    } else if (kind != Kind::kInput && kind != Kind::kMsa && kind != Kind::kPosEnc) {
      squeeze_[op] = common_squeeze(op);
      // A mix of attention heads between softmax and values (talking heads) is still the same attention.
      softmax_[op] = (is_convolution(kind) || kind == Kind::kBias) && any(softmax_, op);
    }
  }

  void resolve_matmul(std::int32_t op) {
    if (any(softmax_, op)) {
      kinds_[op] = Kind::kMsa;
      return;
    }
    squeeze_[op] = common_squeeze(op);
    scores_[op] = 1;
  }

  void resolve_gate(std::int32_t op) {
    const auto read = inputs(op);
    if (read.size() != 2) {
      throw std::invalid_argument("gate " + std::to_string(op) + " has " + std::to_string(read.size()) +
                                  " inputs; it takes two");
    }
    auto features = read.first[0], gate = read.first[1];
    if (squeeze_[gate] == kNone || (squeeze_[features] != kNone && squeeze_[features] > squeeze_[gate])) {
      std::swap(features, gate);
    }
    const auto features_squeeze = squeeze_[features], gate_squeeze = squeeze_[gate];
    scores_[op] = any(scores_, op);
    if (gate_squeeze == kNone || (features_squeeze != kNone && root(features_squeeze) == root(gate_squeeze))) {
      squeeze_[op] = common_squeeze(op);
      return;
    }
    kinds_[op] = Kind::kCse;
    squeeze_[op] = features_squeeze;
    gate_squeezes_.push_back(gate_squeeze);
  }

  void mark_attention_offsets(std::int32_t op) {
    for (const auto input : inputs(op)) {
      if (kinds_[input] == Kind::kPosEnc) {
        attention_offset_[input] = 1;
      }
    }
  }

  const TracedOperations& traced_;
  std::vector<Kind> kinds_;
  std::vector<std::int32_t> squeeze_;
  std::vector<char> softmax_;
  std::vector<char> scores_;
  std::vector<char> attention_offset_;
  std::vector<std::int32_t> group_;
  std::vector<std::int32_t> gate_squeezes_;
};

// Nodes and their predecessors while operations are contracted away.
class Contraction {
 public:
  Contraction(const TracedOperations& traced, const Resolver& resolver)
      : traced_(traced), resolver_(resolver), kinds_(resolver.kinds()) {
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
  const Resolver& resolver_;
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

Graph Contraction::finish() {
  count_successors();
  find_classifier();
  const auto level = compute_levels();
  const auto count = static_cast<std::int32_t>(kinds_.size());

  Graph graph;
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
  graph.fates.resize(count);
  for (std::int32_t op = 0; op < count; ++op) {
    graph.fates[op] = live_[op]                        ? Fate::kNode
                      : resolver_.attention_offset(op) ? Fate::kAttentionOffset
                      : !reached_[op]                  ? Fate::kNoInput
                      : is_node_[op]                   ? Fate::kNoOutput
                                                       : Fate::kContracted;
  }
  graph.classifier_weight = weight_ == kNone ? kNone : position[weight_];
  graph.classifier_bias = bias_ == kNone ? kNone : position[bias_];
  return graph;
}

}  // namespace

Graph build_graph(const TracedOperations& traced) {
  check(traced);
  Resolver resolver(traced);
  resolver.run();
  return Contraction(traced, resolver).finish();
}

namespace {

// The bands of one graph, its nodes numbered from zero; `first` is the number of its first node in the arrays.
HopBands bands_of_graph(std::int64_t first, std::int64_t node_count, const std::vector<std::int64_t>& edge_offsets,
                        const std::vector<std::int32_t>& edge_sources, std::int32_t cutoff) {
  HopBands bands;
  bands.starts.resize(node_count);
  bands.offsets.assign(node_count + 1, 0);
  std::vector<std::uint8_t> row;
  for (std::int64_t node = 0; node < node_count; ++node) {
    const auto edges_from = edge_offsets[first + node], edges_to = edge_offsets[first + node + 1];
    auto start = node;
    for (auto edge = edges_from; edge < edges_to; ++edge) {
      const auto source = edge_sources[edge] - first;
      if (source < 0 || source >= node) {
        throw std::invalid_argument("edge (" + std::to_string(source) + ", " + std::to_string(node) +
                                    ") does not come from an earlier node; edges must follow the nodes' order");
      }
      start = std::min<std::int64_t>({start, source, bands.starts[source]});
    }
    row.assign(node - start, 0);
    for (auto edge = edges_from; edge < edges_to; ++edge) {
      const auto source = edge_sources[edge] - first;
      const auto* of_source = bands.closeness.data() + bands.offsets[source];
      auto* to = row.data() + (bands.starts[source] - start);
      const auto size = source - bands.starts[source];
      for (std::int64_t index = 0; index < size; ++index) {
        // One hop farther than from the source; the nearest of all ways counts.
        const auto farther = static_cast<std::uint8_t>(of_source[index] - (of_source[index] != 0));
        to[index] = std::max(to[index], farther);
      }
      row[source - start] = static_cast<std::uint8_t>(cutoff);
    }
    const auto reached = std::find_if(row.begin(), row.end(), [](std::uint8_t value) { return value != 0; });
    bands.starts[node] = static_cast<std::int32_t>(start + (reached - row.begin()));
    bands.closeness.insert(bands.closeness.end(), reached, row.end());
    bands.offsets[node + 1] = static_cast<std::int64_t>(bands.closeness.size());
  }
  return bands;
}

}  // namespace

HopBands hop_bands(const std::vector<std::int64_t>& graph_offsets, const std::vector<std::int64_t>& edge_offsets,
                   const std::vector<std::int32_t>& edge_sources, std::int32_t cutoff, int threads) {
  if (cutoff < 1 || cutoff > 255) {
    throw std::invalid_argument("the cutoff is " + std::to_string(cutoff) + " hops; it must be 1 to 255");
  }
  const auto graphs = static_cast<std::int64_t>(graph_offsets.size()) - 1;
  std::vector<HopBands> of_graphs(graphs);
  parallel_for(graphs, threads, [&](std::int64_t graph) {
    const auto first = graph_offsets[graph];
    of_graphs[graph] = bands_of_graph(first, graph_offsets[graph + 1] - first, edge_offsets, edge_sources, cutoff);
  });
  HopBands bands;
  bands.offsets.push_back(0);
  for (std::int64_t graph = 0; graph < graphs; ++graph) {
    const auto& part = of_graphs[graph];
    const auto size = bands.offsets.back();
    for (const auto start : part.starts) {
      bands.starts.push_back(static_cast<std::int32_t>(start + graph_offsets[graph]));
    }
    for (std::size_t node = 1; node < part.offsets.size(); ++node) {
      bands.offsets.push_back(size + part.offsets[node]);
    }
    bands.closeness.insert(bands.closeness.end(), part.closeness.begin(), part.closeness.end());
  }
  return bands;
}

HopBands reversed_bands(const HopBands& bands) {
  const auto nodes = static_cast<std::int64_t>(bands.starts.size());
  std::vector<std::int64_t> last(nodes, -1);
  const auto for_each_path = [&](auto&& visit) {
    for (std::int64_t target = 0; target < nodes; ++target) {
      const auto begin = bands.offsets[target], size = bands.offsets[target + 1] - begin;
      const std::int64_t first = bands.starts[target];
      if (first < 0 || first + size > nodes || (size > 0 && first > target)) {
        throw std::invalid_argument("the band of node " + std::to_string(target) + " is out of range");
      }
      for (std::int64_t index = 0; index < size; ++index) {
        if (bands.closeness[begin + index] != 0) {
          visit(first + index, target, bands.closeness[begin + index]);
        }
      }
    }
  };
  for_each_path([&](std::int64_t source, std::int64_t target, std::uint8_t) { last[source] = target; });
  HopBands reversed;
  reversed.offsets.push_back(0);
  for (std::int64_t source = 0; source < nodes; ++source) {
    reversed.starts.push_back(static_cast<std::int32_t>(source + 1));
    reversed.offsets.push_back(reversed.offsets.back() + std::max<std::int64_t>(last[source] - source, 0));
  }
  reversed.closeness.resize(reversed.offsets.back());
  for_each_path([&](std::int64_t source, std::int64_t target, std::uint8_t closeness) {
    if (target <= source) {
      throw std::invalid_argument("a path leads from node " + std::to_string(source) + " to " + std::to_string(target));
    }
    reversed.closeness[reversed.offsets[source] + target - source - 1] = closeness;
  });
  return reversed;
}

}  // namespace ghnfast
