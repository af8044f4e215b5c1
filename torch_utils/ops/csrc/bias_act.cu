// Bias, leaky ReLU, gain and clamp in one pass over memory, and the gradient.
#include "common.cuh"

namespace mate3d::bias {
namespace {

// The operation, or its gradient: `source` is the input or the output, whose sign determines the
// slope.
template <typename scalar_t, bool IS_GRADIENT>
struct BiasAct {
  using acc_t = accumulate_t<scalar_t>;
  static constexpr int kLength = kWidth<scalar_t>;

  const scalar_t* source;
  const scalar_t* bias;  // null if there is none
  const scalar_t* grad;  // of the output
  scalar_t* result;
  int64_t num_elements, inner, channels;  // element i has channel i / inner % channels
  acc_t slope, gain, clamp;               // no clamping if negative
  bool packed, is_small;

  __host__ __device__ void operator()(int64_t thread) const {
    const int64_t first = thread * kLength;
    const int64_t left = num_elements - first;
    const int count = left < kLength ? static_cast<int>(left) : kLength;
    acc_t value[kLength];
    load(source + first, count, packed, value);
    if constexpr (IS_GRADIENT) {
      acc_t factor[kLength];
      load(grad + first, count, packed, factor);
#pragma unroll
      for (int i = 0; i < kLength; ++i) value[i] = factor[i] * derivative(value[i]);
    } else {
      if (bias != nullptr) {
        // 32-bit divisions are much cheaper.
        if (is_small) {
          add_bias<uint32_t>(first, inner, channels, value);
        } else {
          add_bias<int64_t>(first, inner, channels, value);
        }
      }
#pragma unroll
      for (int i = 0; i < kLength; ++i) value[i] = activate(value[i]);
    }
    store(result + first, count, packed, value);
  }

  template <typename index_t>
  __host__ __device__ void add_bias(index_t first, index_t inner, index_t channels,
                                    acc_t (&value)[kLength]) const {
    const index_t row = first / inner;
    index_t within = first - row * inner, channel = row % channels;
    if (inner - within >= kLength) {
      const acc_t b = widen(bias[channel]);
#pragma unroll
      for (int i = 0; i < kLength; ++i) value[i] += b;
    } else if (inner == 1 && channels % kLength == 0) {
      acc_t b[kLength];
      load(bias + channel, kLength, packed, b);
#pragma unroll
      for (int i = 0; i < kLength; ++i) value[i] += b[i];
    } else {
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        value[i] += widen(bias[channel]);
        if (++within == inner) {
          within = 0;
          if (++channel == channels) channel = 0;
        }
      }
    }
  }

  __host__ __device__ acc_t activate(acc_t v) const {
    const acc_t y = gain * (v > 0 ? v : slope * v);
    if (clamp < 0) return y;
    return y < -clamp ? -clamp : (y > clamp ? clamp : y);
  }

  __host__ __device__ acc_t derivative(acc_t y) const {
    // Clamped outputs equal the stored limit, so the limit itself counts as clamped.
    const acc_t limit = widen(static_cast<scalar_t>(clamp));
    if (clamp >= 0 && (y <= -limit || y >= limit)) return acc_t(0);
    return y > 0 ? gain : gain * slope;
  }
};

// Convert a tensor to the layout of another of the same shape.
Tensor in_layout_of(const Tensor& like, const Tensor& x) {
  check_same(like, x, "bias_act", "gradient");
  bool same_shape = like.dim() == x.dim();
  for (int64_t i = 0; same_shape && i < x.dim(); ++i) same_shape = like.size(i) == x.size(i);
  STD_TORCH_CHECK(same_shape, "bias_act: shape of the gradient differs from the output's");
  if (same_layout(like, x)) return x;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, x);
  return copy;
}

template <bool IS_GRADIENT>
Tensor compute(const Tensor& source_any, const Tensor* grad_any, const std::optional<Tensor>& bias,
               int64_t dim, double slope, double gain, std::optional<double> clamp) {
  const Tensor source = is_dense(source_any) ? source_any : torch::stable::clone(source_any);
  const Tensor grad = IS_GRADIENT ? in_layout_of(source, *grad_any) : source;
  Tensor result = torch::stable::empty_like(source);
  dispatch_floating(source.scalar_type(), "bias_act", [&](auto zero) {
    using scalar_t = decltype(zero);
    BiasAct<scalar_t, IS_GRADIENT> work{};
    work.source = source.const_data_ptr<scalar_t>();
    work.grad = grad.const_data_ptr<scalar_t>();
    work.result = result.mutable_data_ptr<scalar_t>();
    work.num_elements = source.numel();
    if (bias.has_value()) {
      work.bias = bias->const_data_ptr<scalar_t>();
      work.channels = source.size(dim);
      work.inner = work.channels == 1 ? work.num_elements : source.stride(dim);
    }
    work.slope = slope;
    work.gain = gain;
    work.clamp = clamp.value_or(-1);
    work.is_small = fits_32_bits(work.num_elements);
    work.packed = is_aligned(work.source) && is_aligned(work.bias) && is_aligned(work.grad) &&
                  is_aligned(work.result);
    run<int64_t>(source, (source.numel() + work.kLength - 1) / work.kLength, work);
  });
  return result;
}

Tensor bias_act(const Tensor& x, const std::optional<Tensor>& bias, int64_t dim, double slope,
                double gain, std::optional<double> clamp) {
  if (!bias.has_value()) return compute<false>(x, nullptr, bias, dim, slope, gain, clamp);
  STD_TORCH_CHECK(dim >= 0 && dim < x.dim(), "bias_act: dim is ", dim, " for a tensor of ",
                  x.dim(), " dimensions");
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(dim),
                  "bias_act: the bias must have one value for each of ", x.size(dim), " channels");
  check_same(x, *bias, "bias_act", "bias");
  return compute<false>(x, nullptr, torch::stable::contiguous(*bias), dim, slope, gain, clamp);
}

Tensor bias_act_grad(const Tensor& grad, const Tensor& y, double slope, double gain,
                     std::optional<double> clamp) {
  return compute<true>(y, &grad, std::nullopt, 0, slope, gain, clamp);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mate3d, CUDA, m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
}

STABLE_TORCH_LIBRARY_FRAGMENT(mate3d_host, m) {
  m.def("bias_act(Tensor x, Tensor? bias, int dim, float slope, float gain, float? clamp)"
        " -> Tensor");
  m.def("bias_act_grad(Tensor grad, Tensor y, float slope, float gain, float? clamp) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mate3d_host, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
}

}  // namespace mate3d::bias
