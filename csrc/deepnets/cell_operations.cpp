#include "deepnets/cell_operations.hpp"

namespace ghnfast {
namespace {

constexpr std::int64_t kHeads = 8;

void attention_parameters(Recorder& to, std::int64_t channels) {
  require(channels >= kHeads, "the operation msa needs 8 channels (C) or more", channels);
  const auto width = channels / kHeads * kHeads;
  to.parameter("to_qkv.weight", {3 * width, channels});
  to.parameter("to_out.0.weight", {channels, width});
  to.parameter("to_out.0.bias", {channels});
  to.parameter("ln1.weight", {channels});
  to.parameter("ln1.bias", {channels});
  to.parameter("ln2.weight", {channels});
  to.parameter("ln2.bias", {channels});
  to.parameter("ff.net.0.weight", {channels, channels});
  to.parameter("ff.net.0.bias", {channels});
  to.parameter("ff.net.3.weight", {channels, channels});
  to.parameter("ff.net.3.bias", {channels});
}

void gate_parameters(Recorder& to, std::int64_t channels) {
  require(channels >= 2, "the operation cse needs 2 channels (C) or more", channels);
  to.parameter("fc1.weight", {channels / 2, channels});
  to.parameter("fc1.bias", {channels / 2});
  to.parameter("fc2.weight", {channels, channels / 2});
  to.parameter("fc2.bias", {channels});
}

std::int32_t attend(Recorder& to, std::int32_t x, std::int32_t first) {
  const auto projected = to.linear(to.emit(Kind::kLn, {x}, first + 3, first + 4), first);
  const auto attended = to.linear(to.emit(Kind::kMsa, {projected}), first + 1, first + 2);
  const auto middle = to.emit(Kind::kSum, {x, attended});
  const auto fed = to.linear(to.emit(Kind::kLn, {middle}, first + 5, first + 6), first + 7, first + 8);
  return to.emit(Kind::kSum, {middle, to.linear(fed, first + 9, first + 10)});
}

}  // namespace

std::int32_t plain_parameters(Recorder& to, std::int64_t inputs, std::int64_t outputs, std::int64_t kernel) {
  const auto first = to.parameter("op.1.weight", {outputs, inputs, kernel, kernel});
  to.norm_parameters("op.2.weight", "op.2.bias", outputs);
  return first;
}

std::int32_t plain(Recorder& to, std::int32_t x, std::int32_t first) {
  return to.normalize(to.convolve(x, first), to.norm_at(first + 1));
}

std::int32_t halving_parameters(Recorder& to, std::int64_t inputs, std::int64_t outputs) {
  require(outputs % 2 == 0, "a factorized reduction needs an even number of channels (C)", outputs);
  const auto first = to.parameter("conv_1.weight", {outputs / 2, inputs, 1, 1});
  to.parameter("conv_2.weight", {outputs / 2, inputs, 1, 1});
  to.norm_parameters("bn.weight", "bn.bias", outputs);
  return first;
}

std::int32_t halve(Recorder& to, std::int32_t x, std::int32_t first) {
  const auto even = to.convolve(x, first), odd = to.convolve(x, first + 1);
  return to.normalize(to.emit(Kind::kConcat, {even, odd}), to.norm_at(first + 2));
}

std::int32_t operation_parameters(Recorder& to, Operation operation, std::int64_t channels, int stride) {
  const auto first = to.next();
  switch (operation) {
    case Operation::kSkip:
      return stride == 1 ? first : halving_parameters(to, channels, channels);
    case Operation::kSepConv3:
    case Operation::kSepConv5: {
      const std::int64_t kernel = operation == Operation::kSepConv3 ? 3 : 5;
      to.parameter("op.1.weight", {channels, 1, kernel, kernel});
      to.parameter("op.2.weight", {channels, channels, 1, 1});
      to.norm_parameters("op.3.weight", "op.3.bias", channels);
      to.parameter("op.5.weight", {channels, 1, kernel, kernel});
      to.parameter("op.6.weight", {channels, channels, 1, 1});
      to.norm_parameters("op.7.weight", "op.7.bias", channels);
      return first;
    }
    case Operation::kDilConv3:
    case Operation::kDilConv5: {
      const std::int64_t kernel = operation == Operation::kDilConv3 ? 3 : 5;
      to.parameter("op.1.weight", {channels, 1, kernel, kernel});
      to.parameter("op.2.weight", {channels, channels, 1, 1});
      to.norm_parameters("op.3.weight", "op.3.bias", channels);
      return first;
    }
    case Operation::kConv1:
      return plain_parameters(to, channels, channels, 1);
    case Operation::kConv3:
      return plain_parameters(to, channels, channels, 3);
    case Operation::kConv5:
      return plain_parameters(to, channels, channels, 5);
    case Operation::kConv7:
      return plain_parameters(to, channels, channels, 7);
    case Operation::kConv7x1:
      to.parameter("op.1.weight", {channels, channels, 1, 7});
      to.parameter("op.2.weight", {channels, channels, 7, 1});
      to.norm_parameters("op.3.weight", "op.3.bias", channels);
      return first;
    case Operation::kMsa:
      attention_parameters(to, channels);
      return first;
    case Operation::kCse:
      gate_parameters(to, channels);
      return first;
    default:
      return first;
  }
}

std::int32_t apply(Recorder& to, Operation operation, std::int32_t x, std::int64_t channels, int stride,
                   std::int32_t first) {
  const int norms = to.normed() ? 2 : 0;
  switch (operation) {
    case Operation::kMaxPool:
      return to.emit(Kind::kMaxPool, {x});
    case Operation::kAvgPool:
      return to.emit(Kind::kAvgPool, {x});
    case Operation::kSkip:
      return stride == 1 ? x : halve(to, x, first);
    case Operation::kSepConv3:
    case Operation::kSepConv5:
      for (int half = 0; half < 2; ++half, first += 2 + norms) {
        x = to.convolve(to.convolve(x, first, channels > 1), first + 1);
        x = to.normalize(x, to.norm_at(first + 2));
      }
      return x;
    case Operation::kDilConv3:
    case Operation::kDilConv5:
      x = to.convolve(to.convolve(x, first, channels > 1, true), first + 1);
      return to.normalize(x, to.norm_at(first + 2));
    case Operation::kConv7x1:
      return to.normalize(to.convolve(to.convolve(x, first), first + 1), to.norm_at(first + 2));
    case Operation::kMsa:
      return attend(to, x, first);
    case Operation::kCse: {
      const auto squeezed = to.linear(to.emit(Kind::kSqueezeGlobAvg, {x}), first, first + 1);
      return to.emit(Kind::kGate, {x, to.linear(squeezed, first + 2, first + 3)});
    }
    default:
      return plain(to, x, first);
  }
}

}  // namespace ghnfast
