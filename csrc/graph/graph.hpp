// Architecture graphs from traced operations: contraction, pruning, order, levels.
#pragma once

#include <cstdint>
#include <vector>

namespace ghnfast {

// What a traced operation is. The first fifteen are the primitives of DeepNets-1M in the order of the embedding table;
// the others exist between tracing and graph only.
enum class Kind : std::int8_t {
  kMaxPool,
  kAvgPool,
  kSepConv,
  kDilConv,
  kConv,
  kMsa,
  kCse,
  kSum,
  kConcat,
  kInput,
  kBias,
  kBn,
  kLn,
  kPosEnc,
  kGlobAvg,
  kPass,            // contracted: its inputs connect to its outputs
  kSoftmax,         // contracted, but makes the matrix product that reads it an attention
  kMatmul,          // product of two activations: attention scores, an attention, or contracted
  kGate,            // product of two activations, one of which is constant over the image plane
  kSqueezeGlobAvg,  // an average over the whole image plane: contracted inside a gate
  kSqueezeAvgPool,  // likewise, by an average pool whose window is the image plane
  kSqueezeMaxPool,  // likewise, by a maximum
  kSqueezePass,     // any other reduction of the image plane: always contracted
  kPointwiseConv,   // a linear layer or 1x1 convolution: may be the classification layer
  kCount
};

// Why a traced operation is or is not a node of the graph.
enum class Fate : std::int8_t {
  kNode,
  kContracted,
  kNoInput,          // no path from the network's input
  kNoOutput,         // no path to one of the network's outputs
  kAttentionOffset,  // an embedding that is added to attention scores rather than to features
  kCount
};

struct TracedOperations {
  std::vector<Kind> kinds;
  std::vector<std::int32_t> input_offsets;  // kinds.size() + 1
  std::vector<std::int32_t> inputs;         // operations read by each operation; always earlier ones
  std::vector<std::int32_t> outputs;        // operations that produce the network's outputs, the main one first
};

struct Graph {
  std::vector<std::int32_t> operations;     // traced operation of each node, in topological order
  std::vector<std::int8_t> primitives;      // index of each node's primitive
  std::vector<std::int32_t> edges;          // from, to, from, to, ...: sorted by target, then source
  std::vector<std::int32_t> level_offsets;  // level l holds the nodes [level_offsets[l], level_offsets[l + 1])
  std::vector<Fate> fates;                  // of each traced operation
  std::int32_t classifier_weight = -1;      // node, or -1
  std::int32_t classifier_bias = -1;        // node, or -1
};

// Contracts, prunes and orders traced operations; throws std::invalid_argument for malformed arrays.
Graph build_graph(const TracedOperations& traced);

}  // namespace ghnfast
