// Shared by the operations: types, vector loads, and running a functor once per index.
//
// An operation is a functor whose call does the work of one thread. It runs as a CUDA kernel for
// CUDA tensors and as a plain loop for CPU tensors, so that the kernels' arithmetic can be tested
// without a GPU.
#pragma once

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 9
#error -- unsupported GNU version! gcc versions earlier than 9 are not supported!
#endif

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

namespace mate3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Half types are summed in float.
template <typename scalar_t>
using accumulate_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// Elements per 16-byte access, the widest possible for a thread.
template <typename scalar_t>
constexpr int kWidth = 16 / sizeof(scalar_t);

// Convert a stored value to the accumulation type.
template <typename scalar_t>
__host__ __device__ inline accumulate_t<scalar_t> widen(scalar_t value) {
#if !defined(__CUDA_ARCH__)
  // PyTorch's host conversion violates strict aliasing, which compilers may miscompile.
  if constexpr (std::is_same_v<scalar_t, torch::headeronly::BFloat16>) {
    return torch::headeronly::detail::f32_from_bits(value.x);
  }
#endif
  return static_cast<accumulate_t<scalar_t>>(value);
}

template <typename scalar_t, int N>
struct alignas(sizeof(scalar_t) * N) Packed {
  scalar_t element[N];
};

// Read N values, of which the first `count` exist; `packed` promises alignment for one access.
template <int N, typename scalar_t, typename acc_t>
__host__ __device__ inline void load(const scalar_t* source, int count, bool packed, acc_t (&target)[N]) {
  if (packed && count >= N) {
    const auto values = *reinterpret_cast<const Packed<scalar_t, N>*>(source);
#pragma unroll
    for (int i = 0; i < N; ++i) target[i] = widen(values.element[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) target[i] = i < count ? widen(source[i]) : acc_t(0);
  }
}

// Write the first `count` of N values; the counterpart of `load`.
template <int N, typename scalar_t, typename acc_t>
__host__ __device__ inline void store(scalar_t* target, int count, bool packed, const acc_t (&source)[N]) {
  if (packed && count >= N) {
    Packed<scalar_t, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values.element[i] = static_cast<scalar_t>(source[i]);
    *reinterpret_cast<Packed<scalar_t, N>*>(target) = values;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) target[i] = static_cast<scalar_t>(source[i]);
    }
  }
}

inline bool is_aligned(const void* pointer, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether indices up to `count`, with some margin, fit in 32 bits, whose divisions are much cheaper.
inline bool fits_32_bits(int64_t count) {
  return count < std::numeric_limits<int32_t>::max() - 65536;
}

// Call `body` with a value of the C++ type of a floating-point dtype.
template <typename Body>
void dispatch_floating(ScalarType type, const char* name, Body body) {
  switch (type) {
    case ScalarType::Double: return body(double{});
    case ScalarType::Float: return body(float{});
    case ScalarType::Half: return body(torch::headeronly::Half{});
    case ScalarType::BFloat16: return body(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, name, ": dtype is ", torch::headeronly::toString(type),
                      "; allowed are float64, float32, float16 and bfloat16");
  }
}

// Call `body` with a value of the cheapest integer type that can hold `count`.
template <typename Body>
void dispatch_index(int64_t count, Body body) {
  if (fits_32_bits(count)) return body(uint32_t{});
  return body(int64_t{});
}

// A compile-time number as an argument.
template <int N>
using Number = std::integral_constant<int, N>;

inline void check_same(const Tensor& a, const Tensor& b, const char* name, const char* what) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), name, ": dtype of ", what, " is ",
                  torch::headeronly::toString(b.scalar_type()), " but must be ",
                  torch::headeronly::toString(a.scalar_type()));
  STD_TORCH_CHECK(a.device() == b.device(), name, ": ", what, " is on another device");
}

// Raise if a dtype is not the accumulation type of the dtype of `like`.
inline void check_sum_type(const Tensor& like, const Tensor& a, const char* name, const char* what) {
  const auto expected = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(a.scalar_type() == expected, name, ": dtype of ", what, " is ",
                  torch::headeronly::toString(a.scalar_type()), " but must be ",
                  torch::headeronly::toString(expected));
  STD_TORCH_CHECK(like.device() == a.device(), name, ": ", what, " is on another device");
}

// Whether two tensors of equal shape have the same memory layout.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// Whether the elements fill one contiguous block of memory, in any order of dimensions.
inline bool is_dense(const Tensor& x) {
  std::vector<bool> placed(x.dim(), false);
  int64_t expected = 1;
  for (int64_t step = 0; step < x.dim(); ++step) {
    for (int64_t i = 0; i < x.dim(); ++i) {
      if (!placed[i] && (x.size(i) == 1 || x.stride(i) == expected)) {
        placed[i] = true;
        expected *= x.size(i);
        break;
      }
    }
  }
  return x.numel() == expected;
}

constexpr int kThreads = 256;

template <typename index_t, typename Work>
__global__ void __launch_bounds__(kThreads) run_kernel(const Work work, const index_t count) {
  const index_t index = static_cast<index_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < count) work(index);
}

// Like `run_kernel`, for work shared by GROUP neighbouring threads, each computing part of a sum.
// Two blocks per multiprocessor leave enough registers.
template <int GROUP, typename Work>
__global__ void __launch_bounds__(kThreads, 2) run_group_kernel(const Work work, const int64_t count) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / GROUP;
  const int lane = threadIdx.x % GROUP;
  typename Work::Sum sum;
  if (index < count) sum = work.part(index, lane);
#pragma unroll
  for (int distance = GROUP / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < Work::Sum::kSize; ++i) {
      sum.value[i] += __shfl_xor_sync(0xffffffffu, sum.value[i], distance);
    }
  }
  if (index < count && lane == 0) work.finish(index, sum);
}

inline cudaStream_t current_stream(const Tensor& like) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline unsigned num_blocks(int64_t num_threads) {
  const int64_t blocks = (num_threads + kThreads - 1) / kThreads;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "mate3d: ", num_threads,
                  " threads exceed the limit of a kernel launch");
  return static_cast<unsigned>(blocks);
}

// Call `work` for each index below `count`, on the device of `like`.
template <typename index_t, typename Work>
void run(const Tensor& like, int64_t count, const Work& work) {
  if (count == 0) return;
  if (!like.is_cuda()) {
    for (int64_t index = 0; index < count; ++index) work(static_cast<index_t>(index));
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  run_kernel<index_t><<<num_blocks(count), kThreads, 0, current_stream(like)>>>(work, static_cast<index_t>(count));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Sum the parts of GROUP lanes for each index below `count`, and pass the sum to `work`.
template <int GROUP, typename Work>
void run_groups(const Tensor& like, int64_t count, const Work& work) {
  static_assert(GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
  if (count == 0) return;
  if (!like.is_cuda()) {
    for (int64_t index = 0; index < count; ++index) {
      typename Work::Sum sum;
      for (int lane = 0; lane < GROUP; ++lane) {
        const auto part = work.part(index, lane);
        for (int i = 0; i < Work::Sum::kSize; ++i) sum.value[i] += part.value[i];
      }
      work.finish(index, sum);
    }
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  run_group_kernel<GROUP><<<num_blocks(count * GROUP), kThreads, 0, current_stream(like)>>>(work, count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace mate3d
