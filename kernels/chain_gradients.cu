// The gradients of the sweep's weights: products of gradients and what they are gradients of, summed over all nodes and
// both sweeps. kernels/chain_backward.py compiles this for HID, WIDTH and HEADS; chain_backward.cu leaves what it
// reads.
//
// A block has kRows rows of one weight's gradient, and the biases that belong to them; a lane has a column. Its warps
// have each kWarps-th node, and in the end they are summed in their order: results are the same in every run.
constexpr int kLanes = 32, kWarps = 32, kRows = 4;
constexpr int kTogether = 8;                                     // nodes that are loaded at once
constexpr bool kFours = HID % kRows == 0 && WIDTH % kRows == 0;  // a block's rows of a gradient are loaded together
static_assert(HID <= kLanes && WIDTH <= kLanes, "a lane has one column");

struct Arguments {
  const float *states, *middle, *final, *gates, *hidden;           // as chain.cu has them
  const float *grad_gates, *grad_hidden, *grad_messages;           // as chain_backward.cu has them
  float *weight_1[2], *bias_1[2], *weight_2[2], *bias_2[2];        // written, of each MLP
  float *weight_input, *weight_hidden, *bias_input, *bias_hidden;  // written
  long long nodes;
};

// Rows of two sweeps, which may lie apart.
struct Rows {
  const float *first, *second;
  int stride;
};

// A product: the gradients of `rows` numbers times `columns` others.
struct Product {
  Rows gradients, others;
  float *weight, *bias;  // where the first row goes
  int rows, columns;
};

constexpr int kMlpProducts = 2;

__device__ __forceinline__ Rows rows_of(const float* first, int stride, int offset, long long nodes) {
  return {first + offset, first + nodes * stride + offset, stride};
}

__device__ Product product_of(const Arguments& a, int which) {
  if (which < HEADS * kMlpProducts) {
    const int head = which / kMlpProducts;
    const Rows hidden = rows_of(a.grad_hidden, HEADS * WIDTH, head * WIDTH, a.nodes);
    if (which % kMlpProducts == 0) {
      return {hidden, {a.middle, a.final, HID}, a.weight_1[head], a.bias_1[head], WIDTH, HID};
    }
    return {rows_of(a.grad_messages, HEADS * HID, head * HID, a.nodes),
            rows_of(a.hidden, HEADS * WIDTH, head * WIDTH, a.nodes),
            a.weight_2[head],
            a.bias_2[head],
            HID,
            WIDTH};
  }
  const Rows before = {a.states, a.middle, HID};
  const Rows gates = rows_of(a.grad_gates, 4 * HID, 0, a.nodes);
  switch (which - HEADS * kMlpProducts) {
    case 0:
      return {gates, rows_of(a.gates, 5 * HID, 0, a.nodes), a.weight_input, a.bias_input, 3 * HID, HID};
    case 1:  // reset and update have one gradient for both halves
      return {gates, before, a.weight_hidden, a.bias_hidden, 2 * HID, HID};
    default:
      return {rows_of(a.grad_gates, 4 * HID, 3 * HID, a.nodes),
              before,
              a.weight_hidden + 2 * HID * HID,
              a.bias_hidden + 2 * HID,
              HID,
              HID};
  }
}

__device__ constexpr int blocks_of(int rows) { return (rows + kRows - 1) / kRows; }

struct __align__(kFours ? 16 : 4) Partial {
  float of[kRows];
};

// Sums of a warp: of products, and of gradients alone.
struct Sums {
  Partial products, gradients;
};

// Rows from `row` on; what is there beyond the last one is not stored.
__device__ __forceinline__ Partial gradients_of(const float* node, int row, int rows) {
  if (kFours) {
    return *reinterpret_cast<const Partial*>(node + row);
  }
  Partial gradients;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    gradients.of[i] = node[min(row + i, rows - 1)];
  }
  return gradients;
}

// Adds kTogether nodes, each kWarps behind the one before it: those that are `left`, if not `all` are.
template <bool all>
__device__ __forceinline__ void add_some(Sums& sums, const float* gradients, const float* others,
                                         const Product& product, int row, int left) {
  Partial gradient[kTogether] = {};
  float other[kTogether] = {};
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    if (all || k < left) {
      gradient[k] = gradients_of(gradients + k * kWarps * product.gradients.stride, row, product.rows);
      other[k] = others[k * kWarps * product.others.stride];
    }
  }
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      sums.products.of[i] = fmaf(gradient[k].of[i], other[k], sums.products.of[i]);
      sums.gradients.of[i] += gradient[k].of[i];
    }
  }
}

__device__ __forceinline__ Sums sums_of(const Product& product, int row, long long nodes, int warp, int lane) {
  Sums sums = {};
  const int column = lane < product.columns ? lane : 0;
#pragma unroll 1
  for (int sweep = 0; sweep < 2; ++sweep) {
    const float* gradients = sweep == 0 ? product.gradients.first : product.gradients.second;
    const float* others = (sweep == 0 ? product.others.first : product.others.second) + column;
    gradients += static_cast<long long>(warp) * product.gradients.stride;
    others += static_cast<long long>(warp) * product.others.stride;
    long long left = (nodes - warp + kWarps - 1) / kWarps;  // nodes of this warp
#pragma unroll 1
    for (; left >= kTogether; left -= kTogether) {
      add_some<true>(sums, gradients, others, product, row, kTogether);
      gradients += kTogether * kWarps * product.gradients.stride;
      others += kTogether * kWarps * product.others.stride;
    }
    add_some<false>(sums, gradients, others, product, row, static_cast<int>(left));
  }
  return sums;
}

extern "C" __global__ void __launch_bounds__(kWarps* kLanes, 1) chain_gradients(const Arguments a) {
  extern __shared__ float4 dynamic[];
  Sums* partial = reinterpret_cast<Sums*>(dynamic);  // of warps, and their lanes
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  int block = blockIdx.x, which = 0;
  Product product = product_of(a, 0);
  while (block >= blocks_of(product.rows)) {
    block -= blocks_of(product.rows);
    product = product_of(a, ++which);
  }
  const int first = block * kRows;
  partial[threadIdx.x] = sums_of(product, first, a.nodes, warp, lane);
  __syncthreads();
  const int row = first + warp;  // the first warps have one each
  if (warp >= kRows || row >= product.rows) {
    return;
  }
  float weight = 0.0f, bias = 0.0f;
  for (int other = 0; other < kWarps; ++other) {
    const Sums& sums = partial[other * kLanes + lane];
    weight += sums.products.of[warp], bias += sums.gradients.of[warp];
  }
  if (lane < product.columns) {
    product.weight[row * product.columns + lane] = weight;
  }
  if (lane == 0) {
    product.bias[row] = bias;
  }
}
