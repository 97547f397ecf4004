#include "deepnets/graphs.hpp"

#include <utility>

#include "core/parallel.hpp"

namespace ghnfast {
namespace {

std::int64_t elements_of(const NetworkParameter& parameter) {
  std::int64_t elements = 1;
  for (int at = 0; at < parameter.dimensions; ++at) {
    elements *= parameter.shape[at];
  }
  return elements;
}

// One graph, its nodes numbered from zero.
SampledGraphs graph_of(const NetworkSettings& settings) {
  const auto trace = describe(settings, false);
  auto graph = build_graph(trace.operations);
  SampledGraphs made;
  std::vector<bool> counted(trace.parameters.size(), false);
  std::int64_t elements = 0;
  for (const auto operation : graph.operations) {
    const auto& shape = trace.shapes[operation];
    for (const auto size : shape) {
      made.shapes.push_back(shape[0] == 0 ? -1 : size);
    }
    for (const auto parameter : trace.weights[operation]) {
      if (parameter >= 0 && !counted[parameter]) {
        counted[parameter] = true;
        elements += elements_of(trace.parameters[parameter]);
      }
    }
  }
  for (std::size_t level = 1; level < graph.level_offsets.size(); ++level) {
    made.levels.resize(graph.level_offsets[level], static_cast<std::int32_t>(level - 1));
  }
  made.elements = {elements};
  made.primitives = std::move(graph.primitives);
  made.edges = std::move(graph.edges);
  return made;
}

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

SampledGraphs sample_graphs(Split split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                            const TrainingRanges& ranges, int num_classes, bool large_images, int threads) {
  std::vector<SampledGraphs> parts(end - begin);
  parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t part) {
    auto network = sample(split, seed, begin + static_cast<std::uint64_t>(part), ranges, large_images);
    network.settings.num_classes = num_classes;
    parts[part] = graph_of(network.settings);
  });
  SampledGraphs all;
  all.offsets = {0};
  for (const auto& part : parts) {
    const auto first = static_cast<std::int32_t>(all.primitives.size());
    for (const auto node : part.edges) {
      all.edges.push_back(first + node);
    }
    append(all.primitives, part.primitives);
    append(all.levels, part.levels);
    append(all.shapes, part.shapes);
    append(all.elements, part.elements);
    all.offsets.push_back(static_cast<std::int64_t>(all.primitives.size()));
  }
  return all;
}

}  // namespace ghnfast
