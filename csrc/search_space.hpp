// The networks of DeepNets-1M: sampling their settings, and their architecture graphs without making a network.
//
// Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3 and appendix A.
// ghnfast/deepnets/network.py has the same networks as modules; what a trace of one records, `describe` records, but
// for activations, reshapes and slices, which no graph has.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "graph.hpp"

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

// The splits that are sampled; the numbers are positions in `SPLITS` of ghnfast/deepnets/dataset.py.
enum class Split : int { kTrain, kVal, kTest, kSearch, kWide, kDeep, kDense, kBnFree, kCount };

// From where channels and the widths of hidden layers are drawn for training: first, last.
struct TrainingRanges {
  int channels_first = 16, channels_last = 128, fc_first = 64, fc_last = 512;
};

struct SampledNetwork {
  NetworkSettings settings;
  std::int64_t small_elements = 0, large_elements = 0;  // of parameters: 32 channels, 10 classes, either image size
};

// Network number `index` of a split: the same on every machine, in any order of calls.
SampledNetwork sample(Split split, std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges,
                      bool large_images);

// Draws channels and the width of hidden layers for a training network whose other settings are known.
void draw_widths(std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges, bool large_images,
                 SampledNetwork& network);

// Sums over the graphs of networks [begin, end) of a split.
struct GraphStatistics {
  std::int64_t graphs = 0, without_norm = 0;
  std::int64_t nodes_least = 0, nodes_most = 0, cells_least = 0, cells_most = 0, channels_least = 0, channels_most = 0;
  std::int64_t parameters_least = 0, parameters_most = 0;
  std::array<std::int64_t, 15> primitives{};
  double degree = 0, degree_squares = 0, path = 0, path_squares = 0;
};

GraphStatistics statistics(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                           const TrainingRanges& ranges, int threads);

}  // namespace ghnfast
