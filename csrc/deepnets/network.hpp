// The networks of DeepNets-1M: their settings, and what a trace of one would record, without making a network.
//
// Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3 and appendix A.
// ghnfast/deepnets/network.py has the same networks as modules; what a trace of one records, `describe` records, but
// for activations, reshapes and slices, which no graph has.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.hpp"

namespace ghnfast {

// The numbers are positions in `OPERATIONS` of ghnfast/deepnets/genotype.py.
enum class Operation : std::int8_t {
  kNone,
  kMaxPool,
  kAvgPool,
  kSkip,
  kSepConv3,
  kSepConv5,
  kDilConv3,
  kDilConv5,
  kConv1,
  kConv7x1,
  kConv3,
  kConv5,
  kConv7,
  kMsa,
  kCse,
  kCount
};

struct CellEdge {
  Operation operation = Operation::kNone;
  int state = 0;
};

struct CellGenotype {
  std::vector<CellEdge> edges;  // two for each step
  std::vector<int> concat;
};

// The arguments of `Network`.
struct NetworkSettings {
  CellGenotype normal, reduce;
  int num_classes = 10, channels = 32, cells = 4, kernel = 3, channel_factor = 2, fc_layers = 1, fc_width = 256;
  int stem_type = 0;
  int stem_stride = 4;  // of the simple stem's convolution, for large images
  bool large_images = false, stem_pool = false, normed = true, preprocessed = true, global_average = true, vit = false;
};

using Shape = std::array<std::int64_t, 4>;

struct NetworkParameter {
  std::string name;
  Shape shape{};
  int dimensions = 0;
};

// A network as a trace of it in evaluation mode records it, see above.
struct NetworkTrace {
  TracedOperations operations;
  std::vector<std::array<std::int32_t, 2>> weights;  // of each operation: the weight and a normalization's bias, or -1
  std::vector<Shape> shapes;                         // of each operation: for the shape embedding; zeros for none
  std::vector<int> cells;                    // of each operation; the stem is in the first, the head in the last
  std::vector<NetworkParameter> parameters;  // in the order of the module's; names where asked for
  std::int64_t elements = 0;                 // of all parameters
  bool has_output = false;
};

// Throws std::invalid_argument where a genotype names states that are not there, or an operation gets too few channels.
NetworkTrace describe(const NetworkSettings& settings, bool with_names);

}  // namespace ghnfast
