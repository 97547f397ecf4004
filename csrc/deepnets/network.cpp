#include "deepnets/network.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "deepnets/cell_operations.hpp"
#include "deepnets/recorder.hpp"

namespace ghnfast {
namespace {

// Far beyond any network, and so few that the numbers of their parameters' elements fit 64 bits.
constexpr std::int64_t kMostChannels = 1 << 20, kMostCells = 1 << 16, kMostKernel = 1 << 10;

void check_settings(const NetworkSettings& settings) {
  const auto check = [](std::int64_t value, std::int64_t most, const char* name) {
    if (value < 1 || value > most) {
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; 1 to " +
                                  std::to_string(most) + " is accepted");
    }
  };
  check(settings.cells, kMostCells, "the number of cells");
  check(settings.channels, kMostChannels, "the number of channels");
  check(settings.channel_factor, kMostChannels, "the factor of channels");
  check(settings.num_classes, kMostChannels, "the number of classes");
  check(settings.kernel, kMostKernel, "the size of the stem's kernel");
  check(settings.stem_stride, kMostKernel, "the stride of the stem");
  check(std::max(1, settings.fc_layers), kMostCells, "the number of fully connected layers");
  check(settings.fc_layers > 1 ? settings.fc_width : 1, kMostChannels, "the width of fully connected layers");
}

constexpr std::int32_t kNowhere = -1;  // a state that `none` operations cut off

// Stem, cells and head of a network, one after the other.
class Description {
 public:
  Description(const NetworkSettings& settings, bool with_names)
      : settings_(settings), record_(with_names, settings.normed) {}

  void run() {
    check_settings(settings_);
    auto [older, newer] = stem();
    auto [older_channels, newer_channels] = std::make_pair(stem_channels_, stem_channels_);
    std::int64_t channels = settings_.channels;
    bool halved = settings_.stem_type == 1;
    for (int cell = 0; cell < settings_.cells; ++cell) {
      record_.set_cell(cell);
      const bool reduces = cell > 0 && (cell == settings_.cells / 3 || cell == 2 * settings_.cells / 3);
      channels *= reduces ? settings_.channel_factor : 1;
      require(channels <= kMostChannels, "a cell has too many channels", channels);
      const auto prefix = record_.with_names() ? "cells." + std::to_string(cell) + "." : std::string();
      const auto& genotype = reduces ? settings_.reduce : settings_.normal;
      const auto output = add_cell(genotype, prefix, {older, newer}, {older_channels, newer_channels}, channels,
                                   reduces && !settings_.vit ? 2 : 1, halved && !settings_.vit);
      halved = reduces;
      older = newer, newer = output;
      older_channels = newer_channels;
      newer_channels = static_cast<std::int64_t>(genotype.concat.size()) * channels;
    }
    record_.set_prefix("");
    head(newer, newer_channels);
  }

  NetworkTrace take() { return std::move(record_.trace); }

 private:
  std::pair<std::int32_t, std::int32_t> stem() {
    const std::int64_t channels = settings_.channels, kernel = settings_.kernel;
    stem_channels_ = settings_.channels;
    if (settings_.vit) {
      const std::int64_t patch = settings_.large_images ? 16 : 3, side = settings_.large_images ? 14 : 11;
      const auto weight = record_.parameter("stem0.weight", {channels, 3, patch, patch});
      const auto encoding = record_.parameter("pos_enc.weight", {1, channels, side, side});
      const auto x = record_.convolve(0, weight);
      const auto position = record_.emit(Kind::kPosEnc, {}, encoding);
      const auto state = record_.emit(Kind::kSum, {x, position});
      return {state, state};
    }
    if (settings_.stem_type == 1) {
      auto x = record_.convolve(0, record_.parameter("stem0.0.weight", {channels / 2, 3, kernel, kernel}));
      x = record_.normalize(x, record_.norm_parameters("stem0.1.weight", "stem0.1.bias", channels / 2));
      x = record_.convolve(x, record_.parameter("stem0.3.weight", {channels, channels / 2, 3, 3}));
      const auto first = record_.normalize(x, record_.norm_parameters("stem0.4.weight", "stem0.4.bias", channels));
      x = record_.convolve(first, record_.parameter("stem1.1.weight", {channels, channels, 3, 3}));
      return {first, record_.normalize(x, record_.norm_parameters("stem1.2.weight", "stem1.2.bias", channels))};
    }
    stem_channels_ *= settings_.preprocessed && !settings_.large_images ? 3 : 1;
    auto x = record_.convolve(0, record_.parameter("stem.0.weight", {stem_channels_, 3, kernel, kernel}));
    x = record_.normalize(x, record_.norm_parameters("stem.1.weight", "stem.1.bias", stem_channels_));
    x = settings_.stem_pool ? record_.emit(Kind::kMaxPool, {x}) : x;
    return {x, x};
  }

  // The side of the last cell's output.
  std::int64_t side() const {
    if (settings_.vit) {
      return settings_.large_images ? 14 : 11;
    }
    const int reductions = (settings_.cells / 3 > 0) + (2 * settings_.cells / 3 > settings_.cells / 3);
    const bool halved = settings_.stem_type == 1 || settings_.stem_pool;
    const int stride = settings_.stem_type == 1 ? 4 : settings_.stem_stride;
    return (settings_.large_images ? 224 / stride : 32) / (halved ? 2 : 1) >> reductions;
  }

  void head(std::int32_t x, std::int64_t features) {
    const int layers = std::max(1, settings_.fc_layers);
    if (!settings_.global_average) {
      features *= side() * side();
    }
    if (x != kNowhere && settings_.global_average) {
      x = record_.emit(Kind::kSqueezeGlobAvg, {x});
    }
    for (int layer = 0; layer < layers; ++layer) {
      const std::int64_t outputs = layer + 1 < layers ? settings_.fc_width : settings_.num_classes;
      const auto name = record_.with_names() ? "classifier." + std::to_string(3 * layer) : std::string();
      const auto weight = record_.parameter((name + ".weight").c_str(), {outputs, features});
      const auto bias = record_.parameter((name + ".bias").c_str(), {outputs});
      features = outputs;
      if (x != kNowhere) {
        x = record_.linear(x, weight, bias);
      }
    }
    record_.trace.has_output = x != kNowhere;
    if (record_.trace.has_output) {
      record_.trace.operations.outputs.push_back(x);
    }
  }

  std::int32_t add_cell(const CellGenotype& genotype, const std::string& prefix,
                        std::pair<std::int32_t, std::int32_t> inputs,
                        std::pair<std::int64_t, std::int64_t> input_channels, std::int64_t channels, int stride,
                        bool halve_older) {
    // All parameters first: modules are registered before they run.
    const auto under = [&](const std::string& name) { record_.set_prefix(prefix + name); };
    std::int32_t first_old = -1, first_new = -1;
    if (settings_.preprocessed) {
      under("preprocess0.");
      first_old = halve_older ? halving_parameters(record_, input_channels.first, channels)
                              : plain_parameters(record_, input_channels.first, channels, 1);
      under("preprocess1.");
      first_new = plain_parameters(record_, input_channels.second, channels, 1);
    }
    std::vector<std::int32_t> first(genotype.edges.size(), -1);
    for (std::size_t edge = 0; edge < genotype.edges.size(); ++edge) {
      under(record_.with_names() ? "_ops." + std::to_string(edge) + "." : "");
      const auto [operation, state] = genotype.edges[edge];
      if (state < 0 || state >= 2 + static_cast<int>(edge / 2)) {
        throw std::invalid_argument("an edge reads a state that is not there");
      }
      first[edge] = operation_parameters(record_, operation, channels, state < 2 ? stride : 1);
    }

    std::vector<std::int32_t> states{inputs.first, inputs.second};
    if (settings_.preprocessed) {
      if (states[0] != kNowhere) {
        states[0] = halve_older ? halve(record_, states[0], first_old) : plain(record_, states[0], first_old);
      }
      states[1] = states[1] == kNowhere ? kNowhere : plain(record_, states[1], first_new);
    }
    for (std::size_t edge = 0; edge < genotype.edges.size(); edge += 2) {
      std::int32_t results[2];
      for (std::size_t side = 0; side < 2; ++side) {
        const auto [operation, state] = genotype.edges[edge + side];
        results[side] =
            states[state] == kNowhere || operation == Operation::kNone
                ? kNowhere
                : apply(record_, operation, states[state], channels, state < 2 ? stride : 1, first[edge + side]);
      }
      const bool both = results[0] != kNowhere && results[1] != kNowhere;
      states.push_back(both ? record_.sum(results[0], results[1]) : std::max(results[0], results[1]));
    }
    return concatenate(genotype, states);
  }

  std::int32_t concatenate(const CellGenotype& genotype, const std::vector<std::int32_t>& states) {
    // Zero times another state takes the place of one that is cut off.
    std::vector<std::int32_t> inputs;
    for (const int state : genotype.concat) {
      if (state < 2 || state >= static_cast<int>(states.size())) {
        throw std::invalid_argument("a cell concatenates a state that is not there");
      }
      if (states[state] != kNowhere && std::find(inputs.begin(), inputs.end(), states[state]) == inputs.end()) {
        inputs.push_back(states[state]);
      }
    }
    if (inputs.empty()) {
      return kNowhere;
    }
    const auto result = record_.emit(Kind::kConcat, {});
    auto& operations = record_.trace.operations;
    operations.inputs.insert(operations.inputs.end(), inputs.begin(), inputs.end());
    operations.input_offsets.back() = static_cast<std::int32_t>(operations.inputs.size());
    return result;
  }

  const NetworkSettings& settings_;
  Recorder record_;
  std::int64_t stem_channels_ = 0;
};

}  // namespace

NetworkTrace describe(const NetworkSettings& settings, bool with_names) {
  Description description(settings, with_names);
  description.run();
  return description.take();
}

}  // namespace ghnfast
