#include "deepnets/recorder.hpp"

#include <stdexcept>
#include <utility>

namespace ghnfast {

void require(bool condition, const char* what, std::int64_t channels) {
  if (!condition) {
    throw std::invalid_argument(std::string(what) + ", given " + std::to_string(channels));
  }
}

Recorder::Recorder(bool with_names, bool normed) : with_names_(with_names), normed_(normed) {
  trace.operations.input_offsets.push_back(0);
  emit(Kind::kInput, {});
}

std::int32_t Recorder::parameter(const char* name, std::initializer_list<std::int64_t> sizes) {
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

std::int32_t Recorder::emit(Kind kind, std::initializer_list<std::int32_t> inputs, std::int32_t weight,
                            std::int32_t norm_bias) {
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

std::int32_t Recorder::convolve(std::int32_t x, std::int32_t weight, bool grouped, bool dilated) {
  const auto& shape = trace.parameters[weight].shape;
  auto kind = shape[2] == 1 && shape[3] == 1 ? Kind::kPointwiseConv : Kind::kConv;
  if (grouped) {
    kind = dilated ? Kind::kDilConv : Kind::kSepConv;
  }
  return emit(kind, {x}, weight);
}

std::int32_t Recorder::linear(std::int32_t x, std::int32_t weight, std::int32_t bias) {
  x = emit(Kind::kPointwiseConv, {x}, weight);
  return bias < 0 ? x : emit(Kind::kBias, {x}, bias);
}

Recorder::Norm Recorder::norm_parameters(const char* weight, const char* bias, std::int64_t channels) {
  if (!normed_) {
    return {};
  }
  const auto first = parameter(weight, {channels});
  return {first, parameter(bias, {channels})};
}

}  // namespace ghnfast
