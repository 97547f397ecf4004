#include "search_space.hpp"

#include <algorithm>
#include <bitset>
#include <limits>
#include <stdexcept>
#include <utility>

#include "parallel.hpp"
#include "random.hpp"

namespace ghnfast {
namespace {

// From settings to operations -----------------------------------------------------------------------------------------

void require(bool condition, const char* what, std::int64_t channels) {
  if (!condition) {
    throw std::invalid_argument(std::string(what) + ", given " + std::to_string(channels));
  }
}

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
  check(std::max(1, settings.fc_layers), kMostCells, "the number of fully connected layers");
  check(settings.fc_layers > 1 ? settings.fc_width : 1, kMostChannels, "the width of fully connected layers");
}

constexpr std::int32_t kNowhere = -1;  // a state that `none` operations cut off

class Recorder {
 public:
  Recorder(const NetworkSettings& settings, bool with_names) : settings_(settings), with_names_(with_names) {
    trace.operations.input_offsets.push_back(0);
    emit(Kind::kInput, {});
  }

  NetworkTrace trace;

  void run() {
    check_settings(settings_);
    auto [older, newer] = stem();
    auto [older_channels, newer_channels] = std::make_pair(stem_channels_, stem_channels_);
    std::int64_t channels = settings_.channels;
    bool halved = settings_.stem_type == 1;
    for (int cell = 0; cell < settings_.cells; ++cell) {
      cell_ = cell;
      const bool reduces = cell > 0 && (cell == settings_.cells / 3 || cell == 2 * settings_.cells / 3);
      channels *= reduces ? settings_.channel_factor : 1;
      require(channels <= kMostChannels, "a cell has too many channels", channels);
      prefix_ = with_names_ ? "cells." + std::to_string(cell) + "." : "";
      const auto& genotype = reduces ? settings_.reduce : settings_.normal;
      const auto output = add_cell(genotype, {older, newer}, {older_channels, newer_channels}, channels,
                                   reduces && !settings_.vit ? 2 : 1, halved && !settings_.vit);
      halved = reduces;
      older = newer, newer = output;
      older_channels = newer_channels;
      newer_channels = static_cast<std::int64_t>(genotype.concat.size()) * channels;
    }
    prefix_.clear();
    head(newer, newer_channels);
  }

 private:
  // Parameters and operations.

  std::int32_t parameter(const char* name, std::initializer_list<std::int64_t> sizes) {
    NetworkParameter made;
    if (with_names_) {
      made.name = prefix_ + name;
    }
    std::int64_t elements = 1;
    for (const auto size : sizes) {
      made.shape[made.dimensions++] = size;
      elements *= size;
    }
    trace.elements += elements;
    require(trace.elements < std::int64_t{1} << 60, "a network has too many elements", trace.elements);
    trace.parameters.push_back(std::move(made));
    return static_cast<std::int32_t>(trace.parameters.size()) - 1;
  }

  std::int32_t emit(Kind kind, std::initializer_list<std::int32_t> inputs, std::int32_t weight = -1,
                    std::int32_t norm_bias = -1) {
    auto& operations = trace.operations;
    operations.kinds.push_back(kind);
    operations.inputs.insert(operations.inputs.end(), inputs);
    operations.input_offsets.push_back(static_cast<std::int32_t>(operations.inputs.size()));
    trace.weights.push_back({weight, norm_bias});
    Shape shape{};
    if (weight >= 0) {
      shape = trace.parameters[weight].shape;
      for (int at = trace.parameters[weight].dimensions; at < 4; ++at) {
        shape[at] = 1;
      }
    } else if (kind == Kind::kMaxPool || kind == Kind::kAvgPool) {
      shape = {1, 1, 3, 3};
    }
    trace.shapes.push_back(shape);
    trace.cells.push_back(cell_);
    return static_cast<std::int32_t>(operations.kinds.size()) - 1;
  }

  std::int32_t sum(std::int32_t a, std::int32_t b) { return a == b ? a : emit(Kind::kSum, {a, b}); }

  std::int32_t convolve(std::int32_t x, std::int32_t weight, bool grouped = false, bool dilated = false) {
    const auto& shape = trace.parameters[weight].shape;
    auto kind = shape[2] == 1 && shape[3] == 1 ? Kind::kPointwiseConv : Kind::kConv;
    if (grouped) {
      kind = dilated ? Kind::kDilConv : Kind::kSepConv;
    }
    return emit(kind, {x}, weight);
  }

  std::int32_t linear(std::int32_t x, std::int32_t weight, std::int32_t bias = -1) {
    x = emit(Kind::kPointwiseConv, {x}, weight);
    return bias < 0 ? x : emit(Kind::kBias, {x}, bias);
  }

  // A layer whose parameters are named NAME.weight and NAME.bias; it is left out where there is no normalization.
  struct Norm {
    std::int32_t weight = -1, bias = -1;
  };

  Norm norm_parameters(const char* weight, const char* bias, std::int64_t channels) {
    if (!settings_.normed) {
      return {};
    }
    const auto first = parameter(weight, {channels});
    return {first, parameter(bias, {channels})};
  }

  std::int32_t normalize(std::int32_t x, Norm norm) {
    return norm.weight < 0 ? x : emit(Kind::kBn, {x}, norm.weight, norm.bias);
  }

  // Stem and head.

  std::pair<std::int32_t, std::int32_t> stem() {
    const std::int64_t channels = settings_.channels, kernel = settings_.kernel;
    stem_channels_ = settings_.channels;
    if (settings_.vit) {
      const std::int64_t patch = settings_.large_images ? 16 : 3, side = settings_.large_images ? 14 : 11;
      const auto weight = parameter("stem0.weight", {channels, 3, patch, patch});
      const auto encoding = parameter("pos_enc.weight", {1, channels, side, side});
      const auto x = convolve(0, weight);
      const auto position = emit(Kind::kPosEnc, {}, encoding);
      const auto state = emit(Kind::kSum, {x, position});
      return {state, state};
    }
    if (settings_.stem_type == 1) {
      auto x = convolve(0, parameter("stem0.0.weight", {channels / 2, 3, kernel, kernel}));
      x = normalize(x, norm_parameters("stem0.1.weight", "stem0.1.bias", channels / 2));
      x = convolve(x, parameter("stem0.3.weight", {channels, channels / 2, 3, 3}));
      const auto first = normalize(x, norm_parameters("stem0.4.weight", "stem0.4.bias", channels));
      x = convolve(first, parameter("stem1.1.weight", {channels, channels, 3, 3}));
      return {first, normalize(x, norm_parameters("stem1.2.weight", "stem1.2.bias", channels))};
    }
    stem_channels_ *= settings_.preprocessed && !settings_.large_images ? 3 : 1;
    auto x = convolve(0, parameter("stem.0.weight", {stem_channels_, 3, kernel, kernel}));
    x = normalize(x, norm_parameters("stem.1.weight", "stem.1.bias", stem_channels_));
    x = settings_.stem_pool ? emit(Kind::kMaxPool, {x}) : x;
    return {x, x};
  }

  // The side of the last cell's output.
  std::int64_t side() const {
    if (settings_.vit) {
      return settings_.large_images ? 14 : 11;
    }
    const int reductions = (settings_.cells / 3 > 0) + (2 * settings_.cells / 3 > settings_.cells / 3);
    const bool halved = settings_.stem_type == 1 || settings_.stem_pool;
    return (settings_.large_images ? 56 : 32) / (halved ? 2 : 1) >> reductions;
  }

  void head(std::int32_t x, std::int64_t features) {
    const int layers = std::max(1, settings_.fc_layers);
    if (!settings_.global_average) {
      features *= side() * side();
    }
    if (x != kNowhere && settings_.global_average) {
      x = emit(Kind::kSqueezeGlobAvg, {x});
    }
    for (int layer = 0; layer < layers; ++layer) {
      const std::int64_t outputs = layer + 1 < layers ? settings_.fc_width : settings_.num_classes;
      const auto name = with_names_ ? "classifier." + std::to_string(3 * layer) : std::string();
      const auto weight = parameter((name + ".weight").c_str(), {outputs, features});
      const auto bias = parameter((name + ".bias").c_str(), {outputs});
      features = outputs;
      if (x != kNowhere) {
        x = linear(x, weight, bias);
      }
    }
    trace.has_output = x != kNowhere;
    if (trace.has_output) {
      trace.operations.outputs.push_back(x);
    }
  }

  // Cells.

  std::int32_t add_cell(const CellGenotype& genotype, std::pair<std::int32_t, std::int32_t> inputs,
                        std::pair<std::int64_t, std::int64_t> input_channels, std::int64_t channels, int stride,
                        bool halve_older) {
    // All parameters first: modules are registered before they run.
    const auto cell_prefix = prefix_;
    const auto under = [&](const std::string& name) { prefix_ = with_names_ ? cell_prefix + name : ""; };
    std::int32_t first_old = -1, first_new = -1;
    if (settings_.preprocessed) {
      under("preprocess0.");
      first_old = halve_older ? halving_parameters(input_channels.first, channels)
                              : plain_parameters(input_channels.first, channels, 1);
      under("preprocess1.");
      first_new = plain_parameters(input_channels.second, channels, 1);
    }
    std::vector<std::int32_t> first(genotype.edges.size(), -1);
    for (std::size_t edge = 0; edge < genotype.edges.size(); ++edge) {
      under(with_names_ ? "_ops." + std::to_string(edge) + "." : "");
      const auto [operation, state] = genotype.edges[edge];
      if (state < 0 || state >= 2 + static_cast<int>(edge / 2)) {
        throw std::invalid_argument("an edge reads a state that is not there");
      }
      first[edge] = operation_parameters(operation, channels, state < 2 ? stride : 1);
    }
    prefix_ = cell_prefix;

    std::vector<std::int32_t> states{inputs.first, inputs.second};
    if (settings_.preprocessed) {
      if (states[0] != kNowhere) {
        states[0] = halve_older ? halve(states[0], first_old) : plain(states[0], first_old);
      }
      states[1] = states[1] == kNowhere ? kNowhere : plain(states[1], first_new);
    }
    for (std::size_t edge = 0; edge < genotype.edges.size(); edge += 2) {
      std::int32_t results[2];
      for (std::size_t side = 0; side < 2; ++side) {
        const auto [operation, state] = genotype.edges[edge + side];
        results[side] = states[state] == kNowhere || operation == Operation::kNone
                            ? kNowhere
                            : apply(operation, states[state], channels, state < 2 ? stride : 1, first[edge + side]);
      }
      const bool both = results[0] != kNowhere && results[1] != kNowhere;
      states.push_back(both ? sum(results[0], results[1]) : std::max(results[0], results[1]));
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
    const auto result = emit(Kind::kConcat, {});
    trace.operations.inputs.insert(trace.operations.inputs.end(), inputs.begin(), inputs.end());
    trace.operations.input_offsets.back() = static_cast<std::int32_t>(trace.operations.inputs.size());
    return result;
  }

  // Operations: the parameters of each, and what it does with them. `first` is the first of its parameters.

  std::int32_t next() const { return static_cast<std::int32_t>(trace.parameters.size()); }

  Norm norm_at(std::int32_t first) const { return settings_.normed ? Norm{first, first + 1} : Norm{}; }

  std::int32_t plain_parameters(std::int64_t inputs, std::int64_t outputs, std::int64_t kernel) {
    const auto first = parameter("op.1.weight", {outputs, inputs, kernel, kernel});
    norm_parameters("op.2.weight", "op.2.bias", outputs);
    return first;
  }

  std::int32_t plain(std::int32_t x, std::int32_t first) { return normalize(convolve(x, first), norm_at(first + 1)); }

  std::int32_t halving_parameters(std::int64_t inputs, std::int64_t outputs) {
    require(outputs % 2 == 0, "a factorized reduction needs an even number of channels (C)", outputs);
    const auto first = parameter("conv_1.weight", {outputs / 2, inputs, 1, 1});
    parameter("conv_2.weight", {outputs / 2, inputs, 1, 1});
    norm_parameters("bn.weight", "bn.bias", outputs);
    return first;
  }

  std::int32_t halve(std::int32_t x, std::int32_t first) {
    const auto even = convolve(x, first), odd = convolve(x, first + 1);
    return normalize(emit(Kind::kConcat, {even, odd}), norm_at(first + 2));
  }

  std::int32_t operation_parameters(Operation operation, std::int64_t channels, int stride) {
    const auto first = next();
    switch (operation) {
      case Operation::kSkip:
        return stride == 1 ? first : halving_parameters(channels, channels);
      case Operation::kSepConv3:
      case Operation::kSepConv5: {
        const std::int64_t kernel = operation == Operation::kSepConv3 ? 3 : 5;
        parameter("op.1.weight", {channels, 1, kernel, kernel});
        parameter("op.2.weight", {channels, channels, 1, 1});
        norm_parameters("op.3.weight", "op.3.bias", channels);
        parameter("op.5.weight", {channels, 1, kernel, kernel});
        parameter("op.6.weight", {channels, channels, 1, 1});
        norm_parameters("op.7.weight", "op.7.bias", channels);
        return first;
      }
      case Operation::kDilConv3:
      case Operation::kDilConv5: {
        const std::int64_t kernel = operation == Operation::kDilConv3 ? 3 : 5;
        parameter("op.1.weight", {channels, 1, kernel, kernel});
        parameter("op.2.weight", {channels, channels, 1, 1});
        norm_parameters("op.3.weight", "op.3.bias", channels);
        return first;
      }
      case Operation::kConv1:
        return plain_parameters(channels, channels, 1);
      case Operation::kConv3:
        return plain_parameters(channels, channels, 3);
      case Operation::kConv5:
        return plain_parameters(channels, channels, 5);
      case Operation::kConv7:
        return plain_parameters(channels, channels, 7);
      case Operation::kConv7x1:
        parameter("op.1.weight", {channels, channels, 1, 7});
        parameter("op.2.weight", {channels, channels, 7, 1});
        norm_parameters("op.3.weight", "op.3.bias", channels);
        return first;
      case Operation::kMsa: {
        require(channels >= kHeads, "the operation msa needs 8 channels (C) or more", channels);
        const auto width = channels / kHeads * kHeads;
        parameter("to_qkv.weight", {3 * width, channels});
        parameter("to_out.0.weight", {channels, width});
        parameter("to_out.0.bias", {channels});
        parameter("ln1.weight", {channels});
        parameter("ln1.bias", {channels});
        parameter("ln2.weight", {channels});
        parameter("ln2.bias", {channels});
        parameter("ff.net.0.weight", {channels, channels});
        parameter("ff.net.0.bias", {channels});
        parameter("ff.net.3.weight", {channels, channels});
        parameter("ff.net.3.bias", {channels});
        return first;
      }
      case Operation::kCse:
        require(channels >= 2, "the operation cse needs 2 channels (C) or more", channels);
        parameter("fc1.weight", {channels / 2, channels});
        parameter("fc1.bias", {channels / 2});
        parameter("fc2.weight", {channels, channels / 2});
        parameter("fc2.bias", {channels});
        return first;
      default:
        return first;
    }
  }

  std::int32_t apply(Operation operation, std::int32_t x, std::int64_t channels, int stride, std::int32_t first) {
    const int norms = settings_.normed ? 2 : 0;
    switch (operation) {
      case Operation::kMaxPool:
        return emit(Kind::kMaxPool, {x});
      case Operation::kAvgPool:
        return emit(Kind::kAvgPool, {x});
      case Operation::kSkip:
        return stride == 1 ? x : halve(x, first);
      case Operation::kSepConv3:
      case Operation::kSepConv5:
        for (int half = 0; half < 2; ++half, first += 2 + norms) {
          x = convolve(convolve(x, first, channels > 1), first + 1);
          x = normalize(x, norm_at(first + 2));
        }
        return x;
      case Operation::kDilConv3:
      case Operation::kDilConv5:
        x = convolve(convolve(x, first, channels > 1, true), first + 1);
        return normalize(x, norm_at(first + 2));
      case Operation::kConv7x1:
        return normalize(convolve(convolve(x, first), first + 1), norm_at(first + 2));
      case Operation::kMsa:
        return attend(x, first);
      case Operation::kCse: {
        const auto squeezed = linear(emit(Kind::kSqueezeGlobAvg, {x}), first, first + 1);
        return emit(Kind::kGate, {x, linear(squeezed, first + 2, first + 3)});
      }
      default:
        return plain(x, first);
    }
  }

  std::int32_t attend(std::int32_t x, std::int32_t first) {
    const auto projected = linear(emit(Kind::kLn, {x}, first + 3, first + 4), first);
    const auto attended = linear(emit(Kind::kMsa, {projected}), first + 1, first + 2);
    const auto middle = emit(Kind::kSum, {x, attended});
    const auto fed = linear(emit(Kind::kLn, {middle}, first + 5, first + 6), first + 7, first + 8);
    return emit(Kind::kSum, {middle, linear(fed, first + 9, first + 10)});
  }

  static constexpr std::int64_t kHeads = 8;

  const NetworkSettings& settings_;
  bool with_names_;
  std::string prefix_;
  int cell_ = 0;
  std::int64_t stem_channels_ = 0;
};

// Sampling ------------------------------------------------------------------------------------------------------------

// What a split's networks are sampled with. Parameters are counted for small images and ten classes.
struct SplitRules {
  int min_steps = 1, medium_steps = 2, max_steps = 4;
  int min_cells = 4, max_cells = 18;
  int deep_first = 7, deep_last = 10;  // from where the threshold of deep networks is drawn
  std::int64_t max_elements = 10000000;
  // What evaluation networks are held to; channels of zero are drawn by other rules.
  int channels_first = 0, channels_last = 0;
  std::int64_t elements_least = 0, elements_most = 0;
  std::size_t nodes_least = 21, nodes_most = 827;  // as published
};

SplitRules rules_of(Split split) {
  SplitRules rules;
  const auto hold_to = [&](int channels, double least, double most, std::size_t nodes_least, std::size_t nodes_most) {
    rules.channels_first = 32;
    rules.channels_last = channels;
    rules.elements_least = static_cast<std::int64_t>(least * 1e6);
    rules.elements_most = static_cast<std::int64_t>(most * 1e6);
    rules.nodes_least = nodes_least;
    rules.nodes_most = nodes_most;
  };
  switch (split) {
    case Split::kVal:
    case Split::kTest:
      hold_to(128, 2.5, 35, 33, 579);
      break;
    case Split::kWide:
      hold_to(304, 39, 101, 33, 579);
      break;
    case Split::kDeep:
      rules.min_cells = 10;
      rules.deep_first = rules.deep_last = 18;
      rules.max_cells = 36;
      rules.max_elements = 100000000;
      hold_to(208, 2.5, 15.3, 74, 1017);
      break;
    case Split::kDense:
      rules.min_steps = 2;
      rules.medium_steps = 6;
      rules.max_steps = 10;
      rules.max_elements = 100000000;
      hold_to(240, 2.5, 8.8, 57, 993);
      break;
    case Split::kBnFree:
      hold_to(336, 2.5, 7.7, 33, 503);
      break;
    case Split::kSearch:
      rules.nodes_least = 0;
      rules.nodes_most = std::numeric_limits<std::size_t>::max();
      rules.medium_steps = 3;
      rules.max_steps = 6;
      rules.min_cells = 6;
      rules.deep_first = rules.deep_last = 10;
      rules.max_cells = 20;
      break;
    default:
      break;
  }
  return rules;
}

// `wide` networks are test networks of more channels: four times those of the data set's files for small images, and
// twice for large ones.
int wide_factor(Split split, bool large_images) { return split != Split::kWide ? 1 : large_images ? 2 : 4; }

// The published sampler takes the best of random scores, which draws operations and pairs of states uniformly.
std::vector<CellEdge> sample_edges(RandomStream& random, int steps, int first_operation, int operations) {
  std::vector<CellEdge> edges;
  for (int step = 0; step < steps; ++step) {
    const int one = random.below(step + 2);
    const int other = random.below(step + 1);
    for (const int state : {one, other < one ? other : other + 1}) {
      edges.push_back({static_cast<Operation>(first_operation + random.below(operations)), state});
    }
  }
  return edges;
}

template <typename Predicate>
int count(const CellGenotype& cell, Predicate predicate) {
  return static_cast<int>(std::count_if(cell.edges.begin(), cell.edges.end(),
                                        [&](const CellEdge& edge) { return predicate(edge.operation); }));
}

bool is_convolution(Operation operation) { return operation >= Operation::kSepConv3 && operation <= Operation::kConv7; }

bool is_large_convolution(Operation operation) {
  return operation == Operation::kConv5 || operation == Operation::kConv7;
}

// One attempt, in the order of the published generator; false where it rejects the network.
bool sample_settings(RandomStream& random, Split split, const SplitRules& rules, NetworkSettings& settings) {
  constexpr int kOperations = static_cast<int>(Operation::kCount), kWithoutWeights = 4;
  settings = {};
  settings.cells = rules.min_cells + random.below(rules.max_cells - rules.min_cells + 1);
  const int deep = rules.deep_first + random.below(rules.deep_last - rules.deep_first + 1);
  const int most_steps = settings.cells <= deep ? rules.max_steps : rules.medium_steps;
  const int steps = rules.min_steps + random.below(most_steps - rules.min_steps + 1);
  const bool pools_only = random.coin(), drops_states = steps > 1 && random.coin();
  const int first = steps > 1 ? 0 : 1;  // `none` needs other paths
  settings.normal.edges = sample_edges(random, steps, first, kOperations - first);
  settings.reduce.edges = sample_edges(random, steps, first, (pools_only ? kWithoutWeights : kOperations) - first);
  for (int state = 2; state < steps + 2; ++state) {
    if (state == steps + 1 || !drops_states || random.coin()) {
      settings.normal.concat.push_back(state);
    }
  }
  settings.reduce.concat = settings.normal.concat;
  settings.kernel = 3 + 2 * random.below(3);
  const auto both = [&](auto predicate) {
    return count(settings.normal, predicate) + count(settings.reduce, predicate);
  };
  const auto repeats = [&](auto predicate) {
    return count(settings.normal, predicate) > 1 || count(settings.reduce, predicate) > 1;
  };
  const auto is_cse = [](Operation operation) { return operation == Operation::kCse; };
  settings.vit = both([](Operation operation) { return operation == Operation::kMsa; }) > 0;
  const bool convolves = both(is_convolution) > 0, gates = both(is_cse) > 0;
  if ((gates && !convolves) || repeats(is_cse) || repeats(is_large_convolution) ||
      !(gates || settings.vit || convolves)) {
    return false;
  }
  settings.channel_factor = 1 + random.below(2);
  settings.preprocessed = steps > 1 || settings.channel_factor > 1;
  if (!settings.preprocessed) {
    const double kept_without = split == Split::kSearch && !settings.vit ? 0.2 : settings.vit ? 0.8 : 0.0;
    settings.preprocessed = random.uniform() > kept_without;
  }
  settings.global_average = settings.vit || settings.cells > deep || random.uniform() > 0.1;
  settings.normed = split != Split::kBnFree;
  if (settings.normed && split != Split::kSearch && settings.cells <= rules.min_cells + 1 &&
      steps <= rules.medium_steps) {
    settings.normed = random.coin();
  }
  settings.stem_type = random.below(2);
  settings.stem_pool = settings.stem_type == 0 && random.coin();
  settings.fc_layers = 1 + random.below(2);
  return true;
}

std::int64_t elements_of(NetworkSettings settings, bool large_images) {
  settings.large_images = large_images;
  return describe(settings, false).elements;
}

bool has_as_many_nodes(const NetworkTrace& trace, const SplitRules& rules) {
  const auto nodes = build_graph(trace.operations).operations.size();
  return nodes >= rules.nodes_least && nodes <= rules.nodes_most;
}

// For training, large networks get few channels.
void draw_from(RandomStream& random, const TrainingRanges& ranges, bool large_images, SampledNetwork& network) {
  auto& settings = network.settings;
  constexpr int kChannelStep = 16, kFcStep = 64;
  const int channels = 1 + (ranges.channels_last - ranges.channels_first) / kChannelStep;
  const int widths = 1 + (ranges.fc_last - ranges.fc_first) / kFcStep;
  const double millions = static_cast<double>(large_images ? network.large_elements : network.small_elements) / 1e6;
  const bool heavy = count(settings.normal, is_large_convolution) + count(settings.reduce, is_large_convolution) > 0;
  int most_channels = channels;
  if (millions > 0.8 || !settings.global_average || heavy || settings.cells > 12) {
    most_channels = 1;
  } else if (millions > 0.4 || settings.cells > 10) {
    most_channels = 2;
  } else if (millions > 0.2 || settings.cells > 8) {
    most_channels = 3;
  }
  settings.fc_width = ranges.fc_first + kFcStep * random.below(std::min(widths, 4));
  settings.channels = ranges.channels_first + kChannelStep * random.below(std::min(channels, most_channels));
  if (most_channels == channels && settings.channels <= 64) {
    settings.fc_width = ranges.fc_first + kFcStep * random.below(widths);
  }
}

// For evaluation, the fewest channels that give the published numbers of parameters; false where none do.
bool choose_channels(RandomStream& random, Split split, const SplitRules& rules, NetworkSettings& settings) {
  settings.fc_width = 64 * (1 + random.below(4));
  const int factor = wide_factor(split, false);
  for (int channels = rules.channels_first; channels <= rules.channels_last; channels += 16) {
    settings.channels = channels * factor;
    const auto elements = elements_of(settings, false);
    if (elements >= rules.elements_least) {
      return elements <= rules.elements_most;
    }
  }
  return false;
}

// Statistics ----------------------------------------------------------------------------------------------------------

// The mean distance of two nodes where edges are walked in both directions: all pairs at once, one bit each.
double mean_path(const Graph& graph) {
  const auto nodes = graph.operations.size();
  const auto words = (nodes + 63) / 64;
  std::vector<std::uint64_t> near(nodes * words), next;  // per node: the nodes within so many steps
  for (std::size_t node = 0; node < nodes; ++node) {
    near[node * words + node / 64] |= std::uint64_t{1} << (node % 64);
  }
  std::int64_t hops = 0, pairs = 0;
  for (std::int64_t step = 1, found = 1; found > 0; ++step) {
    next = near;
    for (std::size_t edge = 0; edge < graph.edges.size(); edge += 2) {
      const auto from = graph.edges[edge] * words, to = graph.edges[edge + 1] * words;
      for (std::size_t word = 0; word < words; ++word) {
        next[from + word] |= near[to + word];
        next[to + word] |= near[from + word];
      }
    }
    found = 0;
    for (std::size_t word = 0; word < next.size(); ++word) {
      found += static_cast<std::int64_t>(std::bitset<64>(next[word] ^ near[word]).count());
    }
    hops += step * found;
    pairs += found;
    near.swap(next);
  }
  return pairs == 0 ? 0.0 : static_cast<double>(hops) / static_cast<double>(pairs);
}

void widen(std::int64_t& least, std::int64_t& most, std::int64_t value) {
  least = std::min(least, value);
  most = std::max(most, value);
}

GraphStatistics of_nothing() {
  GraphStatistics found;
  found.nodes_least = found.cells_least = found.channels_least = found.parameters_least =
      std::numeric_limits<std::int64_t>::max();
  return found;
}

void add(GraphStatistics& to, const NetworkSettings& settings) {
  const auto trace = describe(settings, false);
  const auto graph = build_graph(trace.operations);
  const auto nodes = static_cast<std::int64_t>(graph.operations.size());
  ++to.graphs;
  widen(to.nodes_least, to.nodes_most, nodes);
  widen(to.cells_least, to.cells_most, settings.cells);
  widen(to.channels_least, to.channels_most, settings.channels);
  widen(to.parameters_least, to.parameters_most, trace.elements);
  for (const auto primitive : graph.primitives) {
    ++to.primitives[primitive];
  }
  const auto normed = static_cast<std::int8_t>(Kind::kBn);
  to.without_norm += std::count(graph.primitives.begin(), graph.primitives.end(), normed) == 0;
  const double degree = static_cast<double>(graph.edges.size()) / static_cast<double>(nodes);  // edges are pairs
  const double path = mean_path(graph);
  to.degree += degree;
  to.degree_squares += degree * degree;
  to.path += path;
  to.path_squares += path * path;
}

void merge(GraphStatistics& to, const GraphStatistics& from) {
  to.graphs += from.graphs;
  to.without_norm += from.without_norm;
  widen(to.nodes_least, to.nodes_most, from.nodes_least);
  widen(to.nodes_least, to.nodes_most, from.nodes_most);
  widen(to.cells_least, to.cells_most, from.cells_least);
  widen(to.cells_least, to.cells_most, from.cells_most);
  widen(to.channels_least, to.channels_most, from.channels_least);
  widen(to.channels_least, to.channels_most, from.channels_most);
  widen(to.parameters_least, to.parameters_most, from.parameters_least);
  widen(to.parameters_least, to.parameters_most, from.parameters_most);
  for (std::size_t primitive = 0; primitive < to.primitives.size(); ++primitive) {
    to.primitives[primitive] += from.primitives[primitive];
  }
  to.degree += from.degree;
  to.degree_squares += from.degree_squares;
  to.path += from.path;
  to.path_squares += from.path_squares;
}

}  // namespace

NetworkTrace describe(const NetworkSettings& settings, bool with_names) {
  Recorder recorder(settings, with_names);
  recorder.run();
  return std::move(recorder.trace);
}

void draw_widths(std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges, bool large_images,
                 SampledNetwork& network) {
  RandomStream random(seed, static_cast<std::uint32_t>(Split::kCount), index);  // no split's own stream
  draw_from(random, ranges, large_images, network);
}

SampledNetwork sample(Split split, std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges,
                      bool large_images) {
  const auto rules = rules_of(split);
  RandomStream random(seed, static_cast<std::uint32_t>(split), index);
  for (;;) {
    SampledNetwork network;
    auto& settings = network.settings;
    if (!sample_settings(random, split, rules, settings)) {
      continue;
    }
    const auto trace = describe(settings, false);
    network.small_elements = trace.elements;
    network.large_elements = elements_of(settings, true);
    if (!trace.has_output || network.small_elements > rules.max_elements ||
        network.large_elements > rules.max_elements) {
      continue;
    }
    if (!has_as_many_nodes(trace, rules)) {
      continue;
    }
    if (split == Split::kTrain) {
      draw_from(random, ranges, large_images, network);
    } else if (split == Split::kSearch) {
      settings.fc_width = 64;
    } else if (choose_channels(random, split, rules, settings)) {
      settings.channels = settings.channels / wide_factor(split, false) * wide_factor(split, large_images);
    } else {
      continue;
    }
    settings.large_images = large_images;
    return network;
  }
}

GraphStatistics statistics(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                           const TrainingRanges& ranges, int threads) {
  constexpr std::uint64_t kChunk = 64;
  auto found = of_nothing();
  std::vector<GraphStatistics> parts((end - begin + kChunk - 1) / kChunk, of_nothing());
  parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t part) {
    const auto first = begin + static_cast<std::uint64_t>(part) * kChunk;
    for (auto index = first; index < std::min(end, first + kChunk); ++index) {
      add(parts[part], sample(split, seed, index, ranges, false).settings);
    }
  });
  for (const auto& part : parts) {  // in order, so that the sums do not depend on the number of threads
    merge(found, part);
  }
  return found;
}

}  // namespace ghnfast
