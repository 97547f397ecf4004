#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "decode/decode.hpp"
#include "decode/layout.hpp"
#include "deepnets/network.hpp"
#include "deepnets/sampling.hpp"
#include "graph/graph.hpp"
#include "python/bindings.hpp"

namespace py = pybind11;

namespace ghnfast::python {
namespace {

template <typename Enum, std::size_t count>
py::dict numbers(const std::pair<const char*, Enum> (&names)[count]) {
  static_assert(count == static_cast<std::size_t>(Enum::kCount), "every value has a name");
  py::dict found;
  for (const auto& [name, value] : names) {
    found[name] = static_cast<std::int64_t>(value);
  }
  return found;
}

py::dict kinds() {
  return numbers<Kind>({{"MAX_POOL", Kind::kMaxPool},
                        {"AVG_POOL", Kind::kAvgPool},
                        {"SEP_CONV", Kind::kSepConv},
                        {"DIL_CONV", Kind::kDilConv},
                        {"CONV", Kind::kConv},
                        {"MSA", Kind::kMsa},
                        {"CSE", Kind::kCse},
                        {"SUM", Kind::kSum},
                        {"CONCAT", Kind::kConcat},
                        {"INPUT", Kind::kInput},
                        {"BIAS", Kind::kBias},
                        {"BN", Kind::kBn},
                        {"LN", Kind::kLn},
                        {"POS_ENC", Kind::kPosEnc},
                        {"GLOB_AVG", Kind::kGlobAvg},
                        {"PASS", Kind::kPass},
                        {"SOFTMAX", Kind::kSoftmax},
                        {"MATMUL", Kind::kMatmul},
                        {"GATE", Kind::kGate},
                        {"SQUEEZE_GLOB_AVG", Kind::kSqueezeGlobAvg},
                        {"SQUEEZE_AVG_POOL", Kind::kSqueezeAvgPool},
                        {"SQUEEZE_MAX_POOL", Kind::kSqueezeMaxPool},
                        {"SQUEEZE_PASS", Kind::kSqueezePass},
                        {"POINTWISE_CONV", Kind::kPointwiseConv}});
}

py::dict fates() {
  return numbers<Fate>({{"NODE", Fate::kNode},
                        {"CONTRACTED", Fate::kContracted},
                        {"NO_INPUT", Fate::kNoInput},
                        {"NO_OUTPUT", Fate::kNoOutput},
                        {"ATTENTION_OFFSET", Fate::kAttentionOffset}});
}

py::dict decoders() {
  return numbers<DecoderKind>({{"KERNEL", DecoderKind::kKernel},
                               {"VECTOR_WEIGHT", DecoderKind::kVectorWeight},
                               {"VECTOR_BIAS", DecoderKind::kVectorBias},
                               {"CLASS_WEIGHT", DecoderKind::kClassWeight},
                               {"CLASS_BIAS", DecoderKind::kClassBias},
                               {"WHOLE", DecoderKind::kWhole}});
}

py::dict target_kinds() {
  return numbers<TargetKind>({{"PRODUCT", TargetKind::kProduct},
                              {"SCALED", TargetKind::kScaled},
                              {"NORM_WEIGHT", TargetKind::kNormWeight},
                              {"BIAS", TargetKind::kBias}});
}

py::dict elements() {
  return numbers<Element>({{"float32", Element::kFloat32},
                           {"float64", Element::kFloat64},
                           {"float16", Element::kFloat16},
                           {"bfloat16", Element::kBFloat16}});
}

py::dict operations() {
  return numbers<Operation>({{"none", Operation::kNone},
                             {"max_pool_3x3", Operation::kMaxPool},
                             {"avg_pool_3x3", Operation::kAvgPool},
                             {"skip_connect", Operation::kSkip},
                             {"sep_conv_3x3", Operation::kSepConv3},
                             {"sep_conv_5x5", Operation::kSepConv5},
                             {"dil_conv_3x3", Operation::kDilConv3},
                             {"dil_conv_5x5", Operation::kDilConv5},
                             {"conv_1x1", Operation::kConv1},
                             {"conv_7x1_1x7", Operation::kConv7x1},
                             {"conv_3x3", Operation::kConv3},
                             {"conv_5x5", Operation::kConv5},
                             {"conv_7x7", Operation::kConv7},
                             {"msa", Operation::kMsa},
                             {"cse", Operation::kCse}});
}

py::dict splits() {
  return numbers<Split>({{"train", Split::kTrain},
                         {"val", Split::kVal},
                         {"test", Split::kTest},
                         {"search", Split::kSearch},
                         {"wide", Split::kWide},
                         {"deep", Split::kDeep},
                         {"dense", Split::kDense},
                         {"bnfree", Split::kBnFree}});
}

// {enum: {name: number}}
py::dict enums() {
  py::dict found;
  found["Kind"] = kinds();
  found["Fate"] = fates();
  found["DecoderKind"] = decoders();
  found["TargetKind"] = target_kinds();
  found["Element"] = elements();
  found["Operation"] = operations();
  found["Split"] = splits();
  return found;
}

}  // namespace

void bind_enums(py::module_& module) {
  module.def("enums", &enums,
             "{enum: {name: number}} of the numbers that Python has names of its own for; a test compares them.");
}

}  // namespace ghnfast::python
