// Bias, activation, gain and clamp in one pass over memory, with first and second derivatives.
#include "common.cuh"

#include <cmath>

namespace mate3d::bias {
namespace {

enum class Activation { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

Activation read_activation(const std::string& name) {
  static const char* const kNames[] = {"linear", "relu", "lrelu",    "tanh", "sigmoid",
                                       "elu",    "selu", "softplus", "swish"};
  for (int i = 0; i < 9; ++i) {
    if (name == kNames[i]) return static_cast<Activation>(i);
  }
  STD_TORCH_CHECK(false, "bias_act: activation is '", name,
                  "'; allowed are linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus and swish");
}

template <typename T>
__host__ __device__ inline T sigmoid(T v) {
  return T(1) / (T(1) + exp(-v));
}

// The constants of selu, and where softplus turns into the identity, as PyTorch has them.
template <typename T>
constexpr T kSeluScale = T(1.0507009873554804934193349852946);
template <typename T>
constexpr T kSeluAlpha = T(1.6732632423543772848170429916717);
template <typename T>
constexpr T kSoftplusThreshold = T(20);

// The activation, or its first or second derivative, at v.
template <Activation KIND, int ORDER, typename T>
__host__ __device__ inline T activate(T v, T alpha) {
  constexpr T zero = T(0), one = T(1);
  if constexpr (KIND == Activation::kLinear) {
    return ORDER == 0 ? v : (ORDER == 1 ? one : zero);
  } else if constexpr (KIND == Activation::kRelu) {
    if (ORDER == 0) return v < zero ? zero : v;
    return ORDER == 1 && v > zero ? one : zero;
  } else if constexpr (KIND == Activation::kLrelu) {
    if (ORDER == 0) return v > zero ? v : alpha * v;
    return ORDER == 1 ? (v > zero ? one : alpha) : zero;
  } else if constexpr (KIND == Activation::kTanh) {
    const T t = tanh(v);
    if (ORDER == 0) return t;
    return ORDER == 1 ? one - t * t : -2 * t * (one - t * t);
  } else if constexpr (KIND == Activation::kSigmoid) {
    const T s = sigmoid(v);
    if (ORDER == 0) return s;
    return ORDER == 1 ? s * (one - s) : s * (one - s) * (one - 2 * s);
  } else if constexpr (KIND == Activation::kElu) {
    if (v > zero) return ORDER == 0 ? v : (ORDER == 1 ? one : zero);
    return ORDER == 0 ? expm1(v) : exp(v);
  } else if constexpr (KIND == Activation::kSelu) {
    if (v > zero) return ORDER == 0 ? kSeluScale<T> * v : (ORDER == 1 ? kSeluScale<T> : zero);
    return kSeluScale<T> * kSeluAlpha<T> * (ORDER == 0 ? expm1(v) : exp(v));
  } else if constexpr (KIND == Activation::kSoftplus) {
    if (v > kSoftplusThreshold<T>) return ORDER == 0 ? v : (ORDER == 1 ? one : zero);
    if (ORDER == 0) return log1p(exp(v));
    const T s = sigmoid(v);
    return ORDER == 1 ? s : s * (one - s);
  } else {
    const T s = sigmoid(v);
    if (ORDER == 0) return v * s;
    return ORDER == 1 ? s + v * s * (one - s) : s * (one - s) * (2 + v * (one - 2 * s));
  }
}

// Order 0 is the operation, order 1 its gradient, order 2 the gradient's derivative.
template <typename scalar_t, int ORDER>
struct BiasAct {
  using acc_t = accumulate_t<scalar_t>;
  static constexpr int kLength = kWidth<scalar_t>;

  const scalar_t* saved;      // the input, or at order 1 the output if `saved_is_output`
  const scalar_t* bias;       // null if there is none
  const scalar_t* grad;       // from order 1
  const scalar_t* grad_grad;  // at order 2
  scalar_t* result;
  int64_t num_elements, inner, channels;  // element i has channel i / inner % channels
  acc_t alpha, gain, clamp;               // no clamping if negative
  Activation activation;
  bool saved_is_output, packed, is_small;

  __host__ __device__ void operator()(int64_t thread) const {
    const int64_t first = thread * kLength;
    const int64_t left = num_elements - first;
    const int count = left < kLength ? static_cast<int>(left) : kLength;
    acc_t value[kLength], factor[kLength];
    load(saved + first, count, packed, value);
    if constexpr (ORDER >= 1) load(grad + first, count, packed, factor);
    if constexpr (ORDER == 2) {
      acc_t second[kLength];
      load(grad_grad + first, count, packed, second);
#pragma unroll
      for (int i = 0; i < kLength; ++i) factor[i] *= second[i];
    }
    if (bias != nullptr) {
      // Divisions of 32-bit numbers are far cheaper.
      if (is_small) {
        add_bias<uint32_t>(first, inner, channels, value);
      } else {
        add_bias<int64_t>(first, inner, channels, value);
      }
    }
    switch (activation) {
      case Activation::kLinear: apply<Activation::kLinear>(value, factor); break;
      case Activation::kRelu: apply<Activation::kRelu>(value, factor); break;
      case Activation::kLrelu: apply<Activation::kLrelu>(value, factor); break;
      case Activation::kTanh: apply<Activation::kTanh>(value, factor); break;
      case Activation::kSigmoid: apply<Activation::kSigmoid>(value, factor); break;
      case Activation::kElu: apply<Activation::kElu>(value, factor); break;
      case Activation::kSelu: apply<Activation::kSelu>(value, factor); break;
      case Activation::kSoftplus: apply<Activation::kSoftplus>(value, factor); break;
      case Activation::kSwish: apply<Activation::kSwish>(value, factor); break;
    }
    store(result + first, count, packed, value);
  }

  // Replace values by the results; `factor` is what multiplies derivatives.
  template <Activation KIND>
  __host__ __device__ void apply(acc_t (&value)[kLength], const acc_t (&factor)[kLength]) const {
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
      if constexpr (ORDER == 0) {
        value[i] = forward<KIND>(value[i]);
      } else {
        value[i] = factor[i] * slope<KIND>(value[i]);
      }
    }
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

  template <Activation KIND>
  __host__ __device__ acc_t forward(acc_t v) const {
    const acc_t y = gain * activate<KIND, 0>(v, alpha);
    if (clamp < 0) return y;
    return y < -clamp ? -clamp : (y > clamp ? clamp : y);
  }

  template <Activation KIND>
  __host__ __device__ acc_t slope(acc_t v) const {
    if (saved_is_output) {
      // Every clamped output equals the limit as stored, which thereby counts as clamped.
      const acc_t limit = widen(static_cast<scalar_t>(clamp));
      if (clamp >= 0 && (v <= -limit || v >= limit)) return acc_t(0);
      return gain * activate<KIND, ORDER>(v, alpha);
    }
    if (clamp >= 0) {
      const acc_t y = gain * activate<KIND, 0>(v, alpha);
      if (y < -clamp || y > clamp) return acc_t(0);
    }
    return gain * activate<KIND, ORDER>(v, alpha);
  }
};

struct Options {
  int64_t dim;
  Activation activation;
  double alpha, gain, clamp;
  bool saved_is_output;
};

template <int ORDER, typename scalar_t>
void launch(const Tensor& saved, const std::optional<Tensor>& bias, const Tensor* grad,
            const Tensor* grad_grad, Tensor& result, const Options& options) {
  BiasAct<scalar_t, ORDER> work{};
  work.saved = saved.const_data_ptr<scalar_t>();
  work.bias = bias.has_value() ? bias->const_data_ptr<scalar_t>() : nullptr;
  work.grad = grad != nullptr ? grad->const_data_ptr<scalar_t>() : nullptr;
  work.grad_grad = grad_grad != nullptr ? grad_grad->const_data_ptr<scalar_t>() : nullptr;
  work.result = result.mutable_data_ptr<scalar_t>();
  work.num_elements = saved.numel();
  work.inner = bias.has_value() ? saved.stride(options.dim) : 1;
  work.channels = bias.has_value() ? saved.size(options.dim) : 1;
  if (bias.has_value() && work.channels == 1) work.inner = work.num_elements;
  work.alpha = options.alpha;
  work.gain = options.gain;
  work.clamp = options.clamp;
  work.activation = options.activation;
  work.saved_is_output = options.saved_is_output;
  work.is_small = fits_32_bits(work.num_elements);
  work.packed = is_aligned(work.saved) && is_aligned(work.bias) && is_aligned(work.grad) &&
                is_aligned(work.grad_grad) && is_aligned(work.result);
  run<int64_t>(saved, (saved.numel() + work.kLength - 1) / work.kLength, work);
}

// Bring a tensor into the layout of another of the same shape.
Tensor in_layout_of(const Tensor& like, const Tensor& x, const char* what) {
  check_same(like, x, "bias_act", what);
  bool same_shape = like.dim() == x.dim();
  for (int64_t i = 0; same_shape && i < x.dim(); ++i) same_shape = like.size(i) == x.size(i);
  STD_TORCH_CHECK(same_shape, "bias_act: shape of ", what, " differs from the input's");
  if (same_layout(like, x)) return x;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, x);
  return copy;
}

template <int ORDER>
Tensor compute(const Tensor& saved_any, std::optional<Tensor> bias, const Tensor* grad_any,
               const Tensor* grad_grad_any, Options options) {
  const Tensor saved = is_dense(saved_any) ? saved_any : torch::stable::clone(saved_any);
  if (bias.has_value()) {
    const int64_t dim = options.dim;
    STD_TORCH_CHECK(dim >= 0 && dim < saved.dim(), "bias_act: dim is ", dim, " for a tensor of ",
                    saved.dim(), " dimensions");
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == saved.size(dim),
                    "bias_act: the bias must have one value for each of ", saved.size(dim),
                    " channels");
    check_same(saved, *bias, "bias_act", "bias");
    bias = torch::stable::contiguous(*bias);
  }
  Tensor grad, grad_grad;
  if (ORDER >= 1) grad = in_layout_of(saved, *grad_any, "gradient");
  if (ORDER == 2) grad_grad = in_layout_of(saved, *grad_grad_any, "gradient of the gradient");
  Tensor result = torch::stable::empty_like(saved);
  const Tensor* first = ORDER >= 1 ? &grad : nullptr;
  const Tensor* second = ORDER == 2 ? &grad_grad : nullptr;
  dispatch_floating(saved.scalar_type(), "bias_act", [&](auto zero) {
    using scalar_t = decltype(zero);
    launch<ORDER, scalar_t>(saved, bias, first, second, result, options);
  });
  return result;
}

Options read_options(int64_t dim, const std::string& activation, double alpha, double gain,
                     std::optional<double> clamp, bool saved_is_output) {
  return {dim, read_activation(activation), alpha, gain, clamp.value_or(-1), saved_is_output};
}

Tensor bias_act(const Tensor& x, const std::optional<Tensor>& bias, int64_t dim,
                const std::string& activation, double alpha, double gain,
                std::optional<double> clamp) {
  return compute<0>(x, bias, nullptr, nullptr,
                    read_options(dim, activation, alpha, gain, clamp, false));
}

Tensor bias_act_grad(const Tensor& grad, const Tensor& saved, const std::optional<Tensor>& bias,
                     int64_t dim, const std::string& activation, double alpha, double gain,
                     std::optional<double> clamp, bool saved_is_output) {
  return compute<1>(saved, bias, &grad, nullptr,
                    read_options(dim, activation, alpha, gain, clamp, saved_is_output));
}

Tensor bias_act_grad_grad(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                          const std::optional<Tensor>& bias, int64_t dim,
                          const std::string& activation, double alpha, double gain,
                          std::optional<double> clamp) {
  return compute<2>(x, bias, &grad, &grad_grad,
                    read_options(dim, activation, alpha, gain, clamp, false));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mate3d, CUDA, m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
  m.impl("bias_act_grad_grad", TORCH_BOX(&bias_act_grad_grad));
}

STABLE_TORCH_LIBRARY_FRAGMENT(mate3d_host, m) {
  m.def("bias_act(Tensor x, Tensor? bias, int dim, str activation, float alpha, float gain, "
        "float? clamp) -> Tensor");
  m.def("bias_act_grad(Tensor grad, Tensor saved, Tensor? bias, int dim, str activation, "
        "float alpha, float gain, float? clamp, bool saved_is_output) -> Tensor");
  m.def("bias_act_grad_grad(Tensor grad_grad, Tensor grad, Tensor x, Tensor? bias, int dim, "
        "str activation, float alpha, float gain, float? clamp) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mate3d_host, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
  m.impl("bias_act_grad_grad", TORCH_BOX(&bias_act_grad_grad));
}

}  // namespace mate3d::bias
