// Weights of classification layers, which are made of products of the decoder of kernels.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "decode/decode.hpp"
#include "decode/layout.hpp"
#include "forward/ghn.hpp"

namespace ghnfast {

// Fills the blocks of class weights, which `decode_inputs` leaves, from their rows of `hidden`: those behind all
// others.
template <typename T>
void class_weights(const GhnPointers<T>& ghn, const std::vector<DecoderCall>& calls, const T* hidden, T* blocks,
                   int threads, bool rounds = false);

// `decode`, with its check, of what `decode_inputs` gave for these calls. Class weights, which read all of the
// decoder's largest layer, are made along with the products. `largest_weight`, `rounds`: see DecodeSource.
template <typename T>
std::int64_t decode_all(const GhnPointers<T>& ghn, const std::vector<DecoderCall>& calls, const T* hidden, T* blocks,
                        std::int64_t block_elements, double largest_weight, bool rounds,
                        const std::vector<DecodeTarget>& targets, const std::vector<DecodeMemory>& memory, int threads,
                        const std::function<void()>& before_writing);

}  // namespace ghnfast
