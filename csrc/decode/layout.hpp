// How the parameters of a batch are decoded: which share a call of a decoder, and where their blocks lie.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/decode.hpp"

namespace ghnfast {

// Which decoder gives a slot's block; the numbers are those of `DecoderKind` in ghnfast/prediction/layout.py.
enum class DecoderKind : std::int64_t { kKernel, kVectorWeight, kVectorBias, kClassWeight, kClassBias, kWhole, kCount };

// Blocks that are decoded alike from nodes[begin, begin + count).
struct DecoderCall {
  DecoderKind decoder = DecoderKind::kKernel;
  std::int64_t begin = 0, count = 0;
  std::int64_t height = 0, width = 0, columns = 0, rows = 0, cells = 0;
  std::int64_t first = 0;  // the first row of `hidden` for kernels, else the first element of `blocks`
};

// A parameter that is predicted: the node that it is decoded from; the decoder and what it is asked for; the parameter
// as a target; and how many of its elements, in front, are left alone. The row of a table.
struct Slot {
  std::int64_t node = 0;
  DecoderKind decoder = DecoderKind::kKernel;
  std::int64_t height = 0, width = 0, columns = 0, rows = 0, cells = 0, out = 0, in = 0;
  TargetKind kind = TargetKind::kProduct;
  std::int64_t kept = 0;
  double scale = 1;
};

// The lengths of what decoders give whatever is asked for.
struct BlockSizes {
  std::int64_t vector = 0, classes = 0;
};

struct Layout {
  std::vector<std::int64_t> order;    // the slots, sorted by what they share
  std::vector<DecodeTarget> targets;  // of the slots in that order
  std::vector<std::int64_t> nodes;    // likewise
  std::vector<DecoderCall> calls;     // of all slots in that order; their nodes are those of the slots
  std::int64_t hidden_rows = 0, elements = 0;
};

// Throws std::invalid_argument where the elements of all blocks would be more than memory can have.
Layout lay_out(const std::vector<Slot>& slots, const BlockSizes& sizes);

}  // namespace ghnfast
