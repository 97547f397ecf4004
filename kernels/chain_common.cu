// What the warps that walk chains have in common: chain.cu, and chain_backward.cu, whose macros these are.
#ifndef EMULATED  // tests/support/helpers/emulator.hpp runs the same code on a CPU
#define SHARED_ADDRESS(pointer) static_cast<unsigned>(__cvta_generic_to_shared(pointer))

// What another warp has announced, and all that it has written before.
__device__ __forceinline__ int announced(const int* flag) {
  int value;
  asm volatile("ld.acquire.cta.shared.b32 %0, [%1];" : "=r"(value) : "r"(SHARED_ADDRESS(flag)) : "memory");
  return value;
}

__device__ __forceinline__ void announce(int* flag, int value) {
  asm volatile("st.release.cta.shared.b32 [%0], %1;" : : "r"(SHARED_ADDRESS(flag)), "r"(value) : "memory");
}
#endif

constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kLast = 2;             // senders right before a node, which the walking warp adds itself
constexpr int kRing = 8;             // slots
constexpr int kGroups = 4;           // times kLanes senders, whose closeness is loaded at once
constexpr int kGatherers = 5;        // warps 2, 3, 5, 6, 7: warp 4 shares the scheduler of warp 0
constexpr float kAlmostOne = 0.75f;  // more than the weight of any path that is no edge
constexpr int kColumns = (HID + 3) / 4 * 4;
constexpr int kInner = (WIDTH + 3) / 4 * 4;  // of one MLP
static_assert(HID <= kLanes && HEADS * kInner <= kLanes, "a lane has one row of each matrix");

struct Mlp {
  const float *weight_1, *bias_1, *weight_2, *bias_2;
};

struct Weights {
  Mlp mlps[2];  // of edges, and of virtual edges
  const float *weight_input, *weight_hidden, *bias_input, *bias_hidden;
};

// Who sends to whom.
struct Bands {
  const long long* graph_offsets;  // (graphs + 1,)
  const int* band_starts;          // (2 * nodes,): by target, then by source
  const long long* band_offsets;   // (2 * nodes + 1,)
  const unsigned char* closeness;  // at most `cutoff`
  long long nodes;
  int cutoff;
};

// Weights, before the first step: they come from memory by rows and go into lanes.
constexpr int kMatrices = 8, kStride = kLanes + 1;
struct Staged {
  float matrix[kMatrices][kLanes * kStride];
};

// A graph, as a lane of its block has it.
struct Place {
  long long begin;  // its first node
  int count;        // of nodes
  int lane;
};

__device__ __forceinline__ long long node_at(const Place& graph, int sweep, int position) {
  return graph.begin + (sweep == 0 ? position : graph.count - 1 - position);
}

__device__ __forceinline__ void wait_for(const int* flag, int value) {
  while (announced(flag) < value) {
  }
}

// Row `lane` of a matrix that lies in shared memory.
template <int columns>
__device__ __forceinline__ void load_row(float (&row)[columns], const Staged& staged, int matrix, int lane) {
#pragma unroll
  for (int k = 0; k < columns; ++k) {
    row[k] = staged.matrix[matrix][lane * kStride + k];
  }
}

template <int columns>
__device__ __forceinline__ void load_vector(float (&x)[columns], const float* shared) {
#pragma unroll
  for (int k = 0; k < columns; k += 4) {
    const float4 four = *reinterpret_cast<const float4*>(shared + k);
    x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
  }
}

// initial + the product of a row and x, in four sums: additions wait for the ones before them.
template <int columns>
__device__ __forceinline__ float dot(const float* row, const float* x, float initial) {
  float sums[4] = {initial, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int k = 0; k < columns; ++k) {
    sums[k % 4] = fmaf(row[k], x[k], sums[k % 4]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// All threads: rows of a matrix (rows, columns) to rows from `first` and columns from `left` on.
__device__ void stage(Staged& staged, int matrix, const float* from, int rows, int columns, int first, int left) {
  for (int index = threadIdx.x; index < rows * columns; index += kWarps * kLanes) {
    const int row = index / columns, column = index - row * columns;
    staged.matrix[matrix][(first + row) * kStride + left + column] = from[index];
  }
}

__device__ void stage_weights(Staged& staged, const Weights& weights) {
  float* all = &staged.matrix[0][0];
  for (int index = threadIdx.x; index < kMatrices * kLanes * kStride; index += kWarps * kLanes) {
    all[index] = 0.0f;
  }
  __syncthreads();
  for (int gate = 0; gate < 3; ++gate) {
    stage(staged, gate, weights.weight_input + gate * HID * HID, HID, HID, 0, 0);
    stage(staged, 3 + gate, weights.weight_hidden + gate * HID * HID, HID, HID, 0, 0);
  }
  for (int head = 0; head < HEADS; ++head) {
    stage(staged, 6, weights.mlps[head].weight_1, WIDTH, HID, head * kInner, 0);
    stage(staged, 7, weights.mlps[head].weight_2, HID, WIDTH, 0, head * kInner);
  }
  __syncthreads();
}

__device__ __forceinline__ float weight_of(int closeness, int cutoff) {
  return closeness == 0 ? 0.0f : __fdividef(1.0f, static_cast<float>(cutoff + 1 - closeness));
}

// The senders of a node in the order in which they are updated: sender q is at position first + q of the sweep.
struct Band {
  const unsigned char* closeness;  // of sender 0
  int direction;                   // in which the closeness of the next one lies
  int first, size;
};

__device__ __forceinline__ Band band_of(const Place& graph, const Bands& bands, int step) {
  const int sweep = step >= graph.count;
  const long long row = sweep * bands.nodes + node_at(graph, sweep, step - sweep * graph.count);
  const long long offset = bands.band_offsets[row];
  const int size = static_cast<int>(bands.band_offsets[row + 1] - offset);
  const int start = static_cast<int>(bands.band_starts[row] - graph.begin);
  if (sweep == 0) {
    return {bands.closeness + offset, 1, start, size};
  }
  return {bands.closeness + offset + size - 1, -1, graph.count - start - size, size};
}

__device__ __forceinline__ int closeness_of(const Band& band, int sender, int end) {
  return sender >= 0 && sender < end ? band.closeness[sender * band.direction] : 0;
}
