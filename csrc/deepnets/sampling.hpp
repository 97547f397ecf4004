// Sampling the settings of DeepNets-1M's networks: any network of any split, without those before it.
//
// Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3 and appendix A; the wider ones,
// Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models? (ICML 2023).
#pragma once

#include <cstdint>

#include "deepnets/network.hpp"

namespace ghnfast {

// The splits that are sampled; the numbers are positions in `SPLITS` of ghnfast/deepnets/dataset.py.
enum class Split : int { kTrain, kVal, kTest, kSearch, kWide, kDeep, kDense, kBnFree, kCount };

// From where channels and the widths of hidden layers are drawn for training: first, last. `wider`: by the rules of
// GHN-3, by which fewer networks get few channels, and the small ones for large images a stem of stride 4 or 2.
struct TrainingRanges {
  int channels_first = 16, channels_last = 128, fc_first = 64, fc_last = 512;
  bool wider = false;
};

struct SampledNetwork {
  NetworkSettings settings;
  std::int64_t small_elements = 0, large_elements = 0;  // of parameters: 32 channels, 10 classes, either image size
};

// Network number `index` of a split: the same on every machine, in any order of calls.
SampledNetwork sample(Split split, std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges,
                      bool large_images);

// Draws channels, the width of hidden layers, and with `wider` the stem's stride, for a training network whose other
// settings are known.
void draw_widths(std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges, bool large_images,
                 SampledNetwork& network);

}  // namespace ghnfast
