#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/random.hpp"
#include "deepnets/graphs.hpp"
#include "deepnets/network.hpp"
#include "deepnets/sampling.hpp"
#include "deepnets/statistics.hpp"
#include "graph/graph.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"

namespace ghnfast::python {
namespace {

using Edges = std::vector<std::pair<int, int>>;

Edges edges_of(const CellGenotype& cell) {
  Edges edges;
  for (const auto& edge : cell.edges) {
    edges.emplace_back(static_cast<int>(edge.operation), edge.state);
  }
  return edges;
}

CellGenotype cell_of(const Edges& edges, const std::vector<int>& concat) {
  CellGenotype cell;
  for (const auto& [operation, state] : edges) {
    cell.edges.push_back({to_enum<Operation>(operation, "there is no operation "), state});
  }
  constexpr std::size_t kMostEdges = 1024;
  if (edges.size() % 2 != 0 || edges.size() > kMostEdges || concat.size() > kMostEdges / 2) {
    throw std::invalid_argument("a cell has two edges for each step, up to " + std::to_string(kMostEdges));
  }
  cell.concat = concat;
  return cell;
}

Split split_of(int split) { return to_enum<Split>(split, "there is no split "); }

constexpr int kMostClasses = 1 << 24;  // as ghnfast/deepnets/checks.py has it

py::object shape_tuple(const std::int64_t* shape, int dimensions) {
  py::tuple made(dimensions);
  for (int at = 0; at < dimensions; ++at) {
    made[at] = shape[at];
  }
  return std::move(made);
}

// The names of a network's parameters as Python strings, each made once, and only where a node has it.
class ParameterNames {
 public:
  explicit ParameterNames(const std::vector<NetworkParameter>& parameters)
      : parameters_(parameters), names_(parameters.size()) {}

  py::dict shapes;  // of those that have been asked for

  // None for -1.
  py::object name_of(std::int32_t parameter) {
    if (parameter < 0) {
      return py::none();
    }
    if (!names_[parameter]) {
      const auto& made = parameters_[parameter];
      names_[parameter] = py::str(made.name);
      shapes[names_[parameter]] = shape_tuple(made.shape.data(), made.dimensions);
    }
    return names_[parameter];
  }

  // Why each parameter that nobody has asked for has no node: {name: fate of its operation, or -1 where none uses it}.
  py::dict skipped(const NetworkTrace& trace, const Graph& graph) const {
    std::vector<int> fates(parameters_.size(), -1);
    for (std::size_t operation = 0; operation < trace.weights.size(); ++operation) {
      for (const auto parameter : trace.weights[operation]) {
        if (parameter >= 0) {
          fates[parameter] = static_cast<int>(graph.fates[operation]);
        }
      }
    }
    py::dict found;
    for (std::size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
      if (!names_[parameter]) {
        found[py::str(parameters_[parameter].name)] = fates[parameter];
      }
    }
    return found;
  }

 private:
  const std::vector<NetworkParameter>& parameters_;
  std::vector<py::object> names_;
};

// The graph of a network, or None where it has no output; see NetworkGraph in _C.pyi.
py::object network_graph(const NetworkSettings& settings) {
  NetworkTrace trace;
  Graph graph;
  {
    py::gil_scoped_release released;
    trace = describe(settings, true);
    if (trace.has_output) {
      graph = build_graph(trace.operations);
    }
  }
  if (!trace.has_output) {
    return py::none();
  }
  const auto nodes = static_cast<py::ssize_t>(graph.operations.size());
  ParameterNames names(trace.parameters);
  py::list shapes(nodes), weights(nodes), norm_biases(nodes);
  for (py::ssize_t node = 0; node < nodes; ++node) {
    const auto operation = graph.operations[node];
    const auto& shape = trace.shapes[operation];
    shapes[node] = shape[0] == 0 ? py::object(py::none()) : shape_tuple(shape.data(), 4);
    weights[node] = names.name_of(trace.weights[operation][0]);
    norm_biases[node] = names.name_of(trace.weights[operation][1]);
  }
  const auto edge_count = static_cast<py::ssize_t>(graph.edges.size() / 2);
  return py::make_tuple(to_array(graph.primitives), to_array(graph.edges).reshape({edge_count, py::ssize_t{2}}),
                        to_array(graph.level_offsets), shapes, weights, norm_biases, names.shapes,
                        names.skipped(trace, graph), graph.classifier_weight, graph.classifier_bias);
}

// The cell of each node.
py::array_t<std::int32_t> node_cells(const NetworkSettings& settings) {
  const auto trace = describe(settings, false);
  std::vector<std::int32_t> cells;
  if (trace.has_output) {
    for (const auto operation : build_graph(trace.operations).operations) {
      cells.push_back(trace.cells[operation]);
    }
  }
  return to_array(cells);
}

py::tuple sample_network(int split, std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges,
                         bool large_images) {
  SampledNetwork network;
  const auto chosen = split_of(split);
  {
    py::gil_scoped_release released;
    network = sample(chosen, seed, index, ranges, large_images);
  }
  return py::make_tuple(network.settings, network.small_elements, network.large_elements);
}

void draw_widths(NetworkSettings& settings, std::int64_t small_elements, std::int64_t large_elements,
                 std::uint64_t seed, std::uint64_t index, const TrainingRanges& ranges, bool large_images) {
  SampledNetwork network{settings, small_elements, large_elements};
  ghnfast::draw_widths(seed, index, ranges, large_images, network);
  settings = network.settings;
}

TrainingRanges training_ranges(int channels_first, int channels_last, int fc_first, int fc_last, bool wider) {
  constexpr int kMost = 1 << 20;
  if (channels_first < 1 || channels_last < channels_first || channels_last > kMost || fc_first < 1 ||
      fc_last < fc_first || fc_last > kMost) {
    throw std::invalid_argument("a range of widths is empty, or not within 1 to " + std::to_string(kMost));
  }
  return {channels_first, channels_last, fc_first, fc_last, wider};
}

py::list network_parameters(const NetworkSettings& settings) {
  py::list parameters;
  for (const auto& parameter : describe(settings, true).parameters) {
    parameters.append(py::make_tuple(parameter.name, shape_tuple(parameter.shape.data(), parameter.dimensions)));
  }
  return parameters;
}

py::dict statistics(int split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end, const TrainingRanges& ranges,
                    int threads) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 20;
  if (begin >= end || end - begin > kMost) {
    throw std::invalid_argument("the range of networks is empty, or longer than 2^20");
  }
  const auto chosen = split_of(split);
  GraphStatistics found;
  {
    py::gil_scoped_release released;
    found = ghnfast::statistics(chosen, seed, begin, end, ranges, threads);
  }
  using namespace py::literals;
  return py::dict("graphs"_a = found.graphs, "without_norm"_a = found.without_norm,
                  "nodes"_a = py::make_tuple(found.nodes_least, found.nodes_most),
                  "cells"_a = py::make_tuple(found.cells_least, found.cells_most),
                  "channels"_a = py::make_tuple(found.channels_least, found.channels_most),
                  "parameters"_a = py::make_tuple(found.parameters_least, found.parameters_most),
                  "primitives"_a = found.primitives, "degree"_a = py::make_tuple(found.degree, found.degree_squares),
                  "path"_a = py::make_tuple(found.path, found.path_squares));
}

// See SampledGraphs.
py::tuple sample_graphs(int split, std::uint64_t seed, std::uint64_t begin, std::uint64_t end,
                        const TrainingRanges& ranges, int num_classes, bool large_images, int threads) {
  constexpr std::uint64_t kMost = 10000;
  if (begin >= end || end - begin > kMost || num_classes < 1 || num_classes > kMostClasses) {
    throw std::invalid_argument("the range of networks is empty or longer than 10000, or num_classes is none");
  }
  const auto chosen = split_of(split);
  SampledGraphs found;
  {
    py::gil_scoped_release released;
    found = ghnfast::sample_graphs(chosen, seed, begin, end, ranges, num_classes, large_images, threads);
  }
  const auto nodes = static_cast<py::ssize_t>(found.primitives.size());
  const auto edges = static_cast<py::ssize_t>(found.edges.size() / 2);
  return py::make_tuple(to_array(found.offsets), to_array(found.primitives), to_array(found.levels),
                        to_array(found.shapes).reshape({nodes, py::ssize_t{4}}),
                        to_array(found.edges).reshape({edges, py::ssize_t{2}}), to_array(found.elements));
}

double mean_path(std::int64_t nodes, const Int32Array& edges) {
  constexpr std::int64_t kMostNodes = 1 << 16;
  const auto inside = [&](std::int32_t node) { return node >= 0 && node < nodes; };
  if (nodes < 1 || nodes > kMostNodes || edges.ndim() != 2 || edges.shape(1) != 2 ||
      !std::all_of(edges.data(), edges.data() + edges.size(), inside)) {
    throw std::invalid_argument("edges must be (edges, 2), of nodes that are there, up to 65536");
  }
  const std::vector<std::int32_t> pairs(edges.data(), edges.data() + edges.size());
  py::gil_scoped_release released;
  return ghnfast::mean_path(static_cast<std::size_t>(nodes), pairs);
}

void bind_settings(py::module_& module) {
  auto settings = py::class_<NetworkSettings>(module, "NetworkSettings", py::module_local(),
                                              "The arguments of a DeepNets-1M network.");
  settings.def(py::init<>())
      .def(
          "set_cells",
          [](NetworkSettings& self, const Edges& normal, const std::vector<int>& normal_concat, const Edges& reduce,
             const std::vector<int>& reduce_concat) {
            self.normal = cell_of(normal, normal_concat);
            self.reduce = cell_of(reduce, reduce_concat);
          },
          py::arg("normal"), py::arg("normal_concat"), py::arg("reduce"), py::arg("reduce_concat"))
      .def("cells_as_lists",
           [](const NetworkSettings& self) {
             return py::make_tuple(edges_of(self.normal), self.normal.concat, edges_of(self.reduce),
                                   self.reduce.concat);
           })
      .def_readwrite("num_classes", &NetworkSettings::num_classes)
      .def_readwrite("channels", &NetworkSettings::channels)
      .def_readwrite("cells", &NetworkSettings::cells)
      .def_readwrite("kernel", &NetworkSettings::kernel)
      .def_readwrite("channel_factor", &NetworkSettings::channel_factor)
      .def_readwrite("fc_layers", &NetworkSettings::fc_layers)
      .def_readwrite("fc_width", &NetworkSettings::fc_width)
      .def_readwrite("stem_type", &NetworkSettings::stem_type)
      .def_readwrite("stem_stride", &NetworkSettings::stem_stride)
      .def("graph", &network_graph)
      .def("parameters", &network_parameters)
      .def("elements", [](const NetworkSettings& self) { return describe(self, false).elements; })
      .def("node_cells", &node_cells);
  const std::pair<const char*, bool NetworkSettings::*> flags[] = {{"large_images", &NetworkSettings::large_images},
                                                                   {"stem_pool", &NetworkSettings::stem_pool},
                                                                   {"normed", &NetworkSettings::normed},
                                                                   {"preprocessed", &NetworkSettings::preprocessed},
                                                                   {"global_average", &NetworkSettings::global_average},
                                                                   {"vit", &NetworkSettings::vit}};
  for (const auto& [name, flag] : flags) {
    const auto set = [member = flag](NetworkSettings& self, bool value) { self.*member = value; };
    settings.def_property(
        name, [member = flag](const NetworkSettings& self) { return self.*member; },
        py::cpp_function(set, py::is_method(settings), py::arg("value").noconvert()));
  }
}

}  // namespace

void bind_deepnets(py::module_& module) {
  bind_settings(module);
  py::class_<TrainingRanges>(module, "TrainingRanges", py::module_local())
      .def(py::init(&training_ranges), py::arg("channels_first"), py::arg("channels_last"), py::arg("fc_first"),
           py::arg("fc_last"), py::arg("wider").noconvert());
  module.def("philox", &philox, py::arg("counter"), py::arg("key"), "One block of the random stream.");
  module.def("sample_network", &sample_network, py::arg("split"), py::arg("seed"), py::arg("index"), py::arg("ranges"),
             py::arg("large_images").noconvert(),
             "(settings, elements of parameters for small images, and for large ones).");
  module.def("draw_widths", &draw_widths, py::arg("settings"), py::arg("small_elements"), py::arg("large_elements"),
             py::arg("seed"), py::arg("index"), py::arg("ranges"), py::arg("large_images").noconvert(),
             "Set channels, fc_width and stem_stride of a training network.");
  module.def("sample_graphs", &sample_graphs, py::arg("split"), py::arg("seed"), py::arg("begin"), py::arg("end"),
             py::arg("ranges"), py::arg("num_classes"), py::arg("large_images").noconvert(), py::arg("threads"),
             "(offsets, primitives, levels, shapes, edges, elements) of the graphs of networks begin to end.");
  module.def("mean_path", &mean_path, py::arg("nodes"), py::arg("edges"),
             "The mean distance of two connected nodes, where edges are walked in both directions.");
  module.def("statistics", &statistics, py::arg("split"), py::arg("seed"), py::arg("begin"), py::arg("end"),
             py::arg("ranges"), py::arg("threads"), "Sums over the graphs of networks begin to end of a split.");
}

}  // namespace ghnfast::python
