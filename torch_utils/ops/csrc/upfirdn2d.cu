// Zero insertion, padding, FIR filtering and decimation of images in one pass over memory.
#include "upfirdn2d.cuh"

namespace mate3d::resample {
namespace {

struct Problem {
  Tensor x, filter, y;
  Size in, out;
  Layout x_layout, y_layout;
  Axis horizontal, vertical;
  int filter_height, filter_width;
  bool flip, is_outer_product, channels_last;
  double gain;

  template <typename acc_t>
  Taps<acc_t> taps() const {
    return {filter.const_data_ptr<acc_t>(), filter_height, filter_width, flip, is_outer_product,
            static_cast<acc_t>(gain)};
  }
};

template <typename scalar_t, typename index_t>
void run_general(const Problem& p) {
  Resample<scalar_t, index_t> work{};
  work.x = p.x.const_data_ptr<scalar_t>();
  work.y = p.y.mutable_data_ptr<scalar_t>();
  work.taps = p.taps<accumulate_t<scalar_t>>();
  work.x_layout = p.x_layout;
  work.y_layout = p.y_layout;
  work.horizontal = p.horizontal;
  work.vertical = p.vertical;
  work.in_height = p.in.height;
  work.in_width = p.in.width;
  work.channels = p.out.channels;
  work.out_height = p.out.height;
  work.out_width = p.out.width;
  work.channels_last = p.channels_last;
  run<index_t>(p.x, p.y.numel(), work);
}

int early(int pad, int up) { return ((pad % up) + up) % up; }

template <typename scalar_t, int UP, int DOWN, int COLUMNS, int PACK>
bool run_strips(const Problem& p) {
  ResampleStrip<scalar_t, UP, DOWN, COLUMNS, PACK> work{};
  work.x = p.x.const_data_ptr<scalar_t>();
  work.y = p.y.mutable_data_ptr<scalar_t>();
  work.taps = p.taps<accumulate_t<scalar_t>>();
  work.x_layout = p.x_layout;
  work.y_layout = p.y_layout;
  work.pad_x = p.horizontal.pad;
  work.pad_y = p.vertical.pad;
  work.in_height = p.in.height;
  work.in_width = p.in.width;
  work.out_height = p.out.height;
  work.out_width = p.out.width;
  work.shift_x = early(p.horizontal.pad, UP);
  work.shift_y = early(p.vertical.pad, UP);
  work.packs = PACK > 1 ? p.in.channels / PACK : 1;
  work.strips_x = (p.out.width + work.shift_x + COLUMNS - 1) / COLUMNS;
  work.strips_y = (p.out.height + work.shift_y + kRows - 1) / kRows;
  work.channels = p.in.channels;
  work.packed_columns = COLUMNS > 1 && p.y_layout.column == 1 && p.out.width % COLUMNS == 0 &&
                        work.shift_x == 0 && is_aligned(work.y, sizeof(scalar_t) * COLUMNS);
  const int64_t planes = p.in.batch * (PACK > 1 ? 1 : p.in.channels);
  const int64_t count = planes * work.packs * work.strips_x * work.strips_y;
  if (!fits_32_bits(count)) return false;
  run<uint32_t>(p.x, count, work);
  return true;
}

// Whether `pack` channels can be read and written in one access.
template <typename scalar_t>
bool can_pack(const Problem& p, int pack) {
  const auto divides = [&](const Layout& layout) {
    return layout.channel == 1 && layout.batch % pack == 0 && layout.row % pack == 0 &&
           layout.column % pack == 0;
  };
  const size_t bytes = sizeof(scalar_t) * pack;
  return p.in.channels % pack == 0 && divides(p.x_layout) && divides(p.y_layout) &&
         is_aligned(p.x.const_data_ptr(), bytes) && is_aligned(p.y.const_data_ptr(), bytes);
}

template <typename scalar_t, int UP, int DOWN>
bool run_factors(const Problem& p) {
  constexpr int kPack = 4;
  // More columns share more work, but spread a warp's reads over more memory.
  constexpr int kShared = sizeof(scalar_t) == 2 || UP > 1 ? 4 : 2;
  constexpr int kColumns = DOWN > 1 ? 1 : kShared;
  if (p.channels_last) {
    return can_pack<scalar_t>(p, kPack) && run_strips<scalar_t, UP, DOWN, UP, kPack>(p);
  }
  // The kernel requires contiguous columns.
  if (p.in.width > 1 && p.x_layout.column != 1) return false;
  return run_strips<scalar_t, UP, DOWN, kColumns, 1>(p);
}

// Run the fast kernel if it applies; it supports half types and float.
template <typename scalar_t>
bool run_fast(const Problem& p) {
  if constexpr (std::is_same_v<scalar_t, double>) {
    return false;
  } else {
    const Axis &h = p.horizontal, &v = p.vertical;
    if (p.filter_height != kTaps || p.filter_width != kTaps) return false;
    if (h.up != v.up || h.down != v.down) return false;
    // The kernel uses 32-bit positions.
    const int64_t limit = 1 << 28;
    const auto is_small = [&](const Size& s) { return s.height < limit && s.width < limit; };
    if (!is_small(p.in) || !is_small(p.out)) return false;
    if (h.up == 1 && h.down == 1) return run_factors<scalar_t, 1, 1>(p);
    if (h.up == 2 && h.down == 1) return run_factors<scalar_t, 2, 1>(p);
    if (h.up == 1 && h.down == 2) return run_factors<scalar_t, 1, 2>(p);
    return false;
  }
}

Layout layout_of(const Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}; }

Size size_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

// Whether the layout is channels-last; the output then is, too.
bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (x.size(dim) == 1) continue;
    if (x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

Tensor new_images(const Tensor& x, const Size& s, bool channels_last) {
  if (!channels_last) {
    const std::vector<int64_t> shape{s.batch, s.channels, s.height, s.width};
    return torch::stable::new_empty(x, {shape.data(), shape.size()});
  }
  const std::vector<int64_t> shape{s.batch, s.height, s.width, s.channels};
  const Tensor y = torch::stable::new_empty(x, {shape.data(), shape.size()});
  return torch::stable::transpose(torch::stable::transpose(y, 1, 3), 2, 3);
}

int64_t output_size(int64_t size, const Axis& axis, int64_t pad_after, int taps) {
  const int64_t padded = size * axis.up + axis.pad + pad_after;
  STD_TORCH_CHECK(padded >= taps, "upfirdn2d: the padded image has ", padded,
                  " samples along one axis, fewer than the filter's ", taps);
  return (padded - taps) / axis.down + 1;
}

Tensor resample(const Tensor& x, const Tensor& filter, int height, int width, const Axis& horizontal,
                int64_t pad_right, const Axis& vertical, int64_t pad_bottom, bool flip, double gain) {
  Problem p{x, filter};
  p.in = size_of(x);
  p.out = {p.in.batch, p.in.channels, output_size(p.in.height, vertical, pad_bottom, height),
           output_size(p.in.width, horizontal, pad_right, width)};
  p.channels_last = is_channels_last(x);
  p.y = new_images(x, p.out, p.channels_last);
  p.x_layout = layout_of(x);
  p.y_layout = layout_of(p.y);
  p.horizontal = horizontal;
  p.vertical = vertical;
  p.filter_height = height;
  p.filter_width = width;
  p.flip = flip;
  p.is_outer_product = filter.dim() == 1 && height > 1 && width > 1;
  p.gain = gain;
  if (p.y.numel() == 0) return p.y;
  dispatch_floating(x.scalar_type(), "upfirdn2d", [&](auto zero) {
    using scalar_t = decltype(zero);
    if (run_fast<scalar_t>(p)) return;
    dispatch_index(p.y.numel(), [&](auto count) { run_general<scalar_t, decltype(count)>(p); });
  });
  return p.y;
}

int read_number(int64_t value, int64_t least, const char* what) {
  STD_TORCH_CHECK(value >= least && value < (1 << 28), "upfirdn2d: ", what, " is ", value);
  return static_cast<int>(value);
}

Tensor upfirdn2d(const Tensor& x, const Tensor& filter_any, int64_t up_x, int64_t up_y,
                 int64_t down_x, int64_t down_y, int64_t pad_x0, int64_t pad_x1, int64_t pad_y0,
                 int64_t pad_y1, bool flip_filter, double gain) {
  STD_TORCH_CHECK(x.dim() == 4, "upfirdn2d: images have ", x.dim(), " dimensions instead of 4");
  const Tensor filter = torch::stable::contiguous(filter_any);
  check_sum_type(x, filter, "upfirdn2d", "filter");
  const int64_t least = -(1 << 28);
  const Axis horizontal{read_number(up_x, 1, "up"), read_number(down_x, 1, "down"),
                        read_number(pad_x0, least, "padding")};
  const Axis vertical{read_number(up_y, 1, "up"), read_number(down_y, 1, "down"),
                      read_number(pad_y0, least, "padding")};
  STD_TORCH_CHECK((filter.dim() == 1 || filter.dim() == 2) && filter.numel() > 0,
                  "upfirdn2d: the filter must have one or two dimensions and at least one tap");
  const int width = static_cast<int>(filter.size(filter.dim() - 1));
  const int height = static_cast<int>(filter.size(0));
  // A separable filter of four taps runs as a 2-D filter; longer ones run axis by axis.
  if (filter.dim() == 2 || width == kTaps) {
    return resample(x, filter, height, width, horizontal, pad_x1, vertical, pad_y1, flip_filter,
                    gain);
  }
  const Axis none{1, 1, 0};
  const Tensor rows = resample(x, filter, 1, width, horizontal, pad_x1, none, 0, flip_filter, 1);
  return resample(rows, filter, height, 1, none, 0, vertical, pad_y1, flip_filter, gain);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mate3d, CUDA, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }

STABLE_TORCH_LIBRARY_FRAGMENT(mate3d_host, m) {
  m.def("upfirdn2d(Tensor x, Tensor filter, int up_x, int up_y, int down_x, int down_y, "
        "SymInt pad_x0, SymInt pad_x1, SymInt pad_y0, SymInt pad_y1, bool flip_filter, "
        "float gain) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mate3d_host, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }

}  // namespace mate3d::resample
