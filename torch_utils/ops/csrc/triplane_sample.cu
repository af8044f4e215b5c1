// Bilinear look-up in three feature planes with its derivatives, as operations on tensors.
#include "triplane_sample.cuh"

namespace mate3d::triplane {
namespace {

PointLayout layout_of_points(const Tensor& x) {
  return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

struct Shape {
  int64_t batch, height, width, channels, num_points;
};

void check_points(const Tensor& like, const Tensor& points, const char* what) {
  check_sum_type(like, points, "triplane_sample", what);
  STD_TORCH_CHECK(points.dim() == 4 && points.size(1) == 3 && points.size(3) == 2,
                  "triplane_sample: shape of ", what, " must be [batch, 3, points, 2]");
}

// Check the inputs common to all operations, and describe them.
template <typename scalar_t>
Lookup<scalar_t> make_lookup(const Tensor& like, const Tensor& points,
                             const std::optional<Tensor>& direction, const Shape& shape) {
  using acc_t = accumulate_t<scalar_t>;
  check_points(like, points, "points");
  STD_TORCH_CHECK(points.size(0) == shape.batch, "triplane_sample: points for ", points.size(0),
                  " images but planes of ", shape.batch);
  Lookup<scalar_t> lookup{};
  lookup.points = points.const_data_ptr<acc_t>();
  lookup.points_layout = layout_of_points(points);
  if (direction.has_value()) {
    check_points(like, *direction, "direction");
    STD_TORCH_CHECK(direction->size(0) == shape.batch && direction->size(2) == shape.num_points,
                    "triplane_sample: the direction's shape differs from the points'");
    lookup.direction = direction->const_data_ptr<acc_t>();
    lookup.direction_layout = layout_of_points(*direction);
  }
  lookup.height = shape.height;
  lookup.width = shape.width;
  lookup.channels = shape.channels;
  lookup.num_points = shape.num_points;
  return lookup;
}

TableLayout layout_of_table(const Tensor& x) {
  return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

FeatureLayout layout_of_features(const Tensor& x) { return {x.stride(0), x.stride(1)}; }

// Return a tensor, copied if its last dimension is not contiguous.
Tensor with_whole_rows(const Tensor& x) {
  return x.size(x.dim() - 1) <= 1 || x.stride(x.dim() - 1) == 1 ? x : torch::stable::contiguous(x);
}

// Whether rows of a tensor can be accessed `width` elements at once.
bool can_pack(const Tensor& x, int width) {
  if (x.size(x.dim() - 1) % width != 0) return false;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) {
    if (x.size(i) > 1 && x.stride(i) % width != 0) return false;
  }
  return is_aligned(x.const_data_ptr(), width * x.element_size());
}

Shape checked(const Shape& s) {
  STD_TORCH_CHECK(fits_32_bits(s.batch * s.num_points) && fits_32_bits(s.height) &&
                      fits_32_bits(s.width),
                  "triplane_sample: ", s.num_points, " points on each plane of ", s.batch,
                  " images are too many; look up fewer than 2^31 at once");
  return s;
}

Shape read_table(const Tensor& table, const Tensor& points) {
  STD_TORCH_CHECK(table.dim() == 5 && table.size(1) == 3,
                  "triplane_sample: shape of the table must be [batch, 3, height, width, channels]");
  STD_TORCH_CHECK(points.dim() == 4, "triplane_sample: points must have four dimensions");
  return checked({table.size(0), table.size(2), table.size(3), table.size(4), points.size(2)});
}

void check_features(const Tensor& grad, const Shape& s) {
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == s.batch && grad.size(1) == s.num_points &&
                      grad.size(2) == s.channels,
                  "triplane_sample: the gradient's shape differs from the features'");
}

Tensor triplane_sample(const Tensor& table_any, const Tensor& points,
                       const std::optional<Tensor>& direction) {
  const Shape s = read_table(table_any, points);
  const Tensor table = with_whole_rows(table_any);
  const std::vector<int64_t> shape{s.batch, s.num_points, s.channels};
  const Tensor features = torch::stable::new_empty(table, {shape.data(), shape.size()});
  dispatch_floating(table.scalar_type(), "triplane_sample", [&](auto zero) {
    using scalar_t = decltype(zero);
    const auto lookup = [&] {
      auto result = make_lookup<scalar_t>(table, points, direction, s);
      result.table_layout = layout_of_table(table);
      result.features_layout = layout_of_features(features);
      return result;
    }();
    if (features.numel() == 0) return;
    const auto launch = [&](auto width, auto repeats) {
      constexpr int kPack = decltype(width)::value, kRepeats = decltype(repeats)::value;
      const uint32_t lanes = s.channels / (kPack * kRepeats);
      const auto start = [&](auto zero) {
        using index_t = decltype(zero);
        const Sample<scalar_t, index_t, kPack, kRepeats> work{
            lookup, table.const_data_ptr<scalar_t>(), features.mutable_data_ptr<scalar_t>(), lanes};
        run<index_t>(table, s.batch * s.num_points * lanes, work);
      };
      dispatch_index(s.batch * s.num_points * lanes, start);
    };
    constexpr int kPack = kWidth<scalar_t>;
    if (!can_pack(table, kPack) || !can_pack(features, kPack)) {
      launch(Number<1>{}, Number<1>{});
    } else if (s.channels % (2 * kPack) != 0) {
      launch(Number<kPack>{}, Number<1>{});
    } else {
      launch(Number<kPack>{}, Number<2>{});
    }
  });
  return features;
}

Tensor triplane_sample_table_grad(const Tensor& grad_any, const Tensor& points,
                                  const std::optional<Tensor>& direction, int64_t height,
                                  int64_t width) {
  STD_TORCH_CHECK(points.dim() == 4 && grad_any.dim() == 3 && height >= 0 && width >= 0,
                  "triplane_sample: the gradient's shape differs from the features'");
  const Tensor grad = with_whole_rows(grad_any);
  const Shape s =
      checked({grad.size(0), height, width, grad.size(grad.dim() - 1), points.size(2)});
  check_features(grad, s);
  const std::vector<int64_t> shape{s.batch, 3, height, width, s.channels};
  const bool is_double = grad.scalar_type() == ScalarType::Double;
  const Tensor grad_table = torch::stable::new_zeros(
      grad, {shape.data(), shape.size()}, is_double ? ScalarType::Double : ScalarType::Float);
  dispatch_floating(grad.scalar_type(), "triplane_sample", [&](auto zero) {
    using scalar_t = decltype(zero);
    auto lookup = make_lookup<scalar_t>(grad, points, direction, s);
    lookup.table_layout = layout_of_table(grad_table);
    lookup.features_layout = layout_of_features(grad);
    if (grad.numel() == 0 || grad_table.numel() == 0) return;
    const auto launch = [&](auto width) {
      constexpr int kPack = decltype(width)::value;
      const uint32_t lanes = s.channels / kPack;
      const auto start = [&](auto zero) {
        using index_t = decltype(zero);
        const Scatter<scalar_t, index_t, kPack> work{
            lookup, grad.const_data_ptr<scalar_t>(),
            grad_table.mutable_data_ptr<accumulate_t<scalar_t>>(), lanes};
        run<index_t>(grad, s.batch * s.num_points * lanes, work);
      };
      dispatch_index(s.batch * s.num_points * lanes, start);
    };
    // One 16-byte access to the sums, which are wider than half types.
    constexpr int kPack = kWidth<accumulate_t<scalar_t>>;
    if (can_pack(grad, kPack)) {
      launch(Number<kPack>{});
    } else {
      launch(Number<1>{});
    }
  });
  return grad_table;
}

Tensor triplane_sample_points_grad(const Tensor& grad_any, const Tensor& table_any,
                                   const Tensor& points,
                                   const std::optional<Tensor>& direction) {
  const Shape s = read_table(table_any, points);
  check_features(grad_any, s);
  check_same(table_any, grad_any, "triplane_sample", "gradient");
  const Tensor table = with_whole_rows(table_any), grad = with_whole_rows(grad_any);
  const std::vector<int64_t> shape{s.batch, 3, s.num_points, 2};
  const Tensor grad_points = torch::stable::new_zeros(points, {shape.data(), shape.size()});
  dispatch_floating(table.scalar_type(), "triplane_sample", [&](auto zero) {
    using scalar_t = decltype(zero);
    auto lookup = make_lookup<scalar_t>(table, points, direction, s);
    lookup.table_layout = layout_of_table(table);
    lookup.features_layout = layout_of_features(grad);
    if (grad_points.numel() == 0 || table.numel() == 0) return;
    const auto launch = [&](auto width, auto group) {
      constexpr int kPack = decltype(width)::value, kGroup = decltype(group)::value;
      const PointGradient<scalar_t, kPack, kGroup> work{
          lookup, grad.const_data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(),
          grad_points.mutable_data_ptr<accumulate_t<scalar_t>>()};
      run_groups<kGroup>(table, s.batch * s.num_points, work);
    };
    // Each thread of a group reads two packs of a row of 32 channels.
    constexpr int kPack = kWidth<scalar_t>;
    if (can_pack(table, kPack) && can_pack(grad, kPack)) {
      launch(Number<kPack>{}, Number<(kPack > 4 ? 2 : 4)>{});
    } else {
      launch(Number<1>{}, Number<8>{});
    }
  });
  return grad_points;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mate3d, CUDA, m) {
  m.impl("triplane_sample", TORCH_BOX(&triplane_sample));
  m.impl("triplane_sample_table_grad_atomic", TORCH_BOX(&triplane_sample_table_grad));
  m.impl("triplane_sample_points_grad", TORCH_BOX(&triplane_sample_points_grad));
}

STABLE_TORCH_LIBRARY_FRAGMENT(mate3d_host, m) {
  m.def("triplane_sample(Tensor table, Tensor points, Tensor? direction) -> Tensor");
  m.def("triplane_sample_table_grad(Tensor grad, Tensor points, Tensor? direction, "
        "SymInt height, SymInt width) -> Tensor");
  m.def("triplane_sample_points_grad(Tensor grad, Tensor table, Tensor points, "
        "Tensor? direction) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mate3d_host, CPU, m) {
  m.impl("triplane_sample", TORCH_BOX(&triplane_sample));
  m.impl("triplane_sample_table_grad", TORCH_BOX(&triplane_sample_table_grad));
  m.impl("triplane_sample_points_grad", TORCH_BOX(&triplane_sample_points_grad));
}

}  // namespace mate3d::triplane
