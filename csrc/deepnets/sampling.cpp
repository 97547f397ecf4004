#include "deepnets/sampling.hpp"

#include <algorithm>
#include <limits>

#include "core/random.hpp"

namespace ghnfast {
namespace {

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
  const auto elements = large_images && !ranges.wider ? network.large_elements : network.small_elements;
  const double millions = static_cast<double>(elements) / 1e6;
  const bool heavy = count(settings.normal, is_large_convolution) + count(settings.reduce, is_large_convolution) > 0;
  int most_channels = channels;
  if (millions > (ranges.wider ? 2.0 : 0.8) || !settings.global_average || heavy ||
      settings.cells > (ranges.wider ? 14 : 12)) {
    most_channels = 1;
  } else if (millions > 0.4 || settings.cells > 10) {
    most_channels = ranges.wider ? 4 : 2;
  } else if (millions > 0.2 || settings.cells > 8) {
    most_channels = ranges.wider ? 5 : 3;
  } else if (ranges.wider && large_images && settings.stem_type == 0 && settings.stem_pool) {
    settings.stem_stride = random.coin() ? 2 : 4;
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

}  // namespace

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

}  // namespace ghnfast
