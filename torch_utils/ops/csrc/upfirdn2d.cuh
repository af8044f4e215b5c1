// Per-thread work of upfirdn2d.cu: fused zero insertion, padding, filtering and decimation.
#pragma once

#include "common.cuh"

namespace mate3d::resample {

// Memory layout of an image batch; strides are in elements.
struct Layout {
  int64_t batch, channel, row, column;
};

struct Size {
  int64_t batch, channels, height, width;
};

// One axis of the resampling: output o reads the zero-inserted input from o * down - pad on.
struct Axis {
  int up, down, pad;
};

__host__ __device__ inline int64_t floor_div(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// The taps, in correlation order; one-dimensional taps are used for both axes.
template <typename acc_t>
struct Taps {
  const acc_t* data;
  int height, width;
  bool flip, is_outer_product;
  acc_t gain;

  __host__ __device__ acc_t at(int ky, int kx) const {
    const int row = flip ? ky : height - 1 - ky, column = flip ? kx : width - 1 - kx;
    return is_outer_product ? gain * data[row] * data[column] : gain * data[row * width + column];
  }

  // Read all taps of a filter whose sides are known at compile time.
  template <int SIDE>
  __host__ __device__ void read(acc_t (&tap)[SIDE][SIDE]) const {
    constexpr int kLast = SIDE * SIDE - 1;
    const int step = flip ? 1 : -1;
    if (is_outer_product) {
      const acc_t* first = flip ? data : data + SIDE - 1;
#pragma unroll
      for (int i = 0; i < SIDE * SIDE; ++i) {
        tap[i / SIDE][i % SIDE] = gain * first[step * (i / SIDE)] * first[step * (i % SIDE)];
      }
    } else {
      const acc_t* first = flip ? data : data + kLast;
#pragma unroll
      for (int i = 0; i <= kLast; ++i) tap[i / SIDE][i % SIDE] = gain * first[step * i];
    }
  }
};

// General kernel for any factors, filters and layouts: one output per thread.
template <typename scalar_t, typename index_t>
struct Resample {
  using acc_t = accumulate_t<scalar_t>;

  const scalar_t* x;
  scalar_t* y;
  Taps<acc_t> taps;
  Layout x_layout, y_layout;
  Axis horizontal, vertical;
  int64_t in_height, in_width;
  index_t channels, out_height, out_width;
  bool channels_last;  // neighbouring threads write neighbouring elements of the output

  __host__ __device__ void operator()(index_t index) const {
    index_t rest = index, channel = 0;
    if (channels_last) {
      channel = rest % channels;
      rest /= channels;
    }
    const index_t ox = rest % out_width;
    rest /= out_width;
    const index_t oy = rest % out_height;
    rest /= out_height;
    if (!channels_last) {
      channel = rest % channels;
      rest /= channels;
    }
    const scalar_t* image = x + rest * x_layout.batch + channel * x_layout.channel;
    const int64_t top = static_cast<int64_t>(oy) * vertical.down - vertical.pad;
    const int64_t left = static_cast<int64_t>(ox) * horizontal.down - horizontal.pad;
    const int64_t first_row = first_input(top, vertical.up);
    const int64_t last_row = last_input(top + taps.height - 1, vertical.up, in_height);
    const int64_t first_column = first_input(left, horizontal.up);
    const int64_t last_column = last_input(left + taps.width - 1, horizontal.up, in_width);
    acc_t sum = 0;
    for (int64_t row = first_row; row <= last_row; ++row) {
      const int ky = static_cast<int>(row * vertical.up - top);
      const scalar_t* line = image + row * x_layout.row;
      for (int64_t column = first_column; column <= last_column; ++column) {
        const int kx = static_cast<int>(column * horizontal.up - left);
        sum += taps.at(ky, kx) * widen(line[column * x_layout.column]);
      }
    }
    y[rest * y_layout.batch + channel * y_layout.channel + oy * y_layout.row +
      ox * y_layout.column] = static_cast<scalar_t>(sum);
  }

  __host__ __device__ static int64_t first_input(int64_t position, int up) {
    const int64_t index = -floor_div(-position, up);
    return index > 0 ? index : 0;
  }

  __host__ __device__ static int64_t last_input(int64_t position, int up, int64_t size) {
    const int64_t index = floor_div(position, up);
    return index < size ? index : size - 1;
  }
};

constexpr int kTaps = 4;  // filter side supported by the fast kernel
constexpr int kRows = 16;  // output rows per thread of the fast kernel

// Fast kernel for a 4 x 4 filter with compile-time factors. A thread computes COLUMNS neighbouring
// outputs in kRows rows, each for PACK neighbouring channels: it walks down the image, reads every
// input of its strip once, and adds it to all outputs that depend on it, which stay in registers.
// Most strips lie inside the image and skip row checks.
template <typename scalar_t, int UP, int DOWN, int COLUMNS, int PACK>
struct ResampleStrip {
  using acc_t = accumulate_t<scalar_t>;
  static_assert(COLUMNS % UP == 0 && kRows % UP == 0 && (COLUMNS == 1 || PACK == 1 || UP > 1));
  static constexpr int kInColumns = ((COLUMNS - 1) * DOWN + kTaps - 1) / UP + 1;
  static constexpr int kInRows = ((kRows - 1) * DOWN + kTaps - 1) / UP + 1;

  const scalar_t* x;
  scalar_t* y;
  Taps<acc_t> taps;
  Layout x_layout, y_layout;
  int pad_x, pad_y;
  int in_height, in_width, out_height, out_width;
  int shift_x, shift_y;  // strips start this much earlier, so that all have the same tap phases
  uint32_t packs, strips_x, strips_y, channels;  // of channels, columns, rows; planes per image
  bool packed_columns;

  struct Strip {
    const scalar_t* line;  // of the input
    scalar_t* result;
    int left, top, in_top;
    bool visible[kInColumns];
    acc_t tap[kTaps][kTaps];
  };

  __host__ __device__ void operator()(uint32_t index) const {
    uint32_t rest = index, channel = 0;
    if (PACK > 1) {
      channel = rest % packs * PACK;
      rest /= packs;
    }
    Strip strip;
    strip.left = static_cast<int>(rest % strips_x) * COLUMNS - shift_x;
    rest /= strips_x;
    strip.top = static_cast<int>(rest % strips_y) * kRows - shift_y;
    rest /= strips_y;
    if (PACK == 1) {
      channel = rest % channels;
      rest /= channels;
    }
    // Exact: the shifts make the numerators multiples of UP.
    const int in_left = (strip.left * DOWN - pad_x) / UP;
    strip.in_top = (strip.top * DOWN - pad_y) / UP;
    strip.line = x + rest * x_layout.batch + channel * x_layout.channel +
                 strip.in_top * x_layout.row + in_left * in_step();
    strip.result = y + rest * y_layout.batch + channel * y_layout.channel +
                   strip.top * y_layout.row + strip.left * out_step();
#pragma unroll
    for (int column = 0; column < kInColumns; ++column) {
      strip.visible[column] =
          static_cast<unsigned>(in_left + column) < static_cast<unsigned>(in_width);
    }
    taps.read(strip.tap);
    const bool is_inside = strip.in_top >= 0 && strip.in_top + kInRows <= in_height &&
                           strip.top >= 0 && strip.top + kRows <= out_height;
    if (is_inside) {
      walk<false>(strip);
    } else {
      walk<true>(strip);
    }
  }

  // Stride between neighbouring columns; known at compile time unless channels are packed.
  __host__ __device__ int64_t in_step() const { return PACK > 1 ? x_layout.column : 1; }
  __host__ __device__ int64_t out_step() const { return PACK > 1 ? y_layout.column : 1; }

  template <bool CHECKS_ROWS>
  __host__ __device__ void walk(const Strip& strip) const {
    const scalar_t* line = strip.line;
    scalar_t* result = strip.result;
    acc_t sum[kRows][COLUMNS][PACK] = {};
#pragma unroll
    for (int row = 0; row < kInRows; ++row) {
      if (!CHECKS_ROWS || (strip.in_top + row >= 0 && strip.in_top + row < in_height)) {
        acc_t value[kInColumns][PACK];
#pragma unroll
        for (int column = 0; column < kInColumns; ++column) {
          const scalar_t* source = line + column * in_step();
          load(source, strip.visible[column] ? PACK : 0, PACK > 1, value[column]);
        }
        add_row(row, value, strip.tap, sum);
      }
      line += x_layout.row;
      // Rows that received their last input; known to the compiler at each step.
#pragma unroll
      for (int out = 0; out < kRows; ++out) {
        if (row != (out * DOWN + kTaps - 1) / UP) continue;
        if (!CHECKS_ROWS || (strip.top + out >= 0 && strip.top + out < out_height)) {
          store_row(result, strip.left, sum[out]);
        }
        result += y_layout.row;
      }
    }
  }

  __host__ __device__ static void add_row(int row, const acc_t (&value)[kInColumns][PACK],
                                          const acc_t (&tap)[kTaps][kTaps],
                                          acc_t (&sum)[kRows][COLUMNS][PACK]) {
#pragma unroll
    for (int out = 0; out < kRows; ++out) {
      const int ky = row * UP - out * DOWN;
      if (ky < 0 || ky >= kTaps) continue;
#pragma unroll
      for (int column = 0; column < COLUMNS; ++column) {
#pragma unroll
        for (int source = 0; source < kInColumns; ++source) {
          const int kx = source * UP - column * DOWN;
          if (kx < 0 || kx >= kTaps) continue;
#pragma unroll
          for (int i = 0; i < PACK; ++i) sum[out][column][i] += tap[ky][kx] * value[source][i];
        }
      }
    }
  }

  __host__ __device__ void store_row(scalar_t* target, int left,
                                     const acc_t (&sum)[COLUMNS][PACK]) const {
    if constexpr (PACK == 1 && COLUMNS > 1) {
      if (packed_columns) {
        acc_t values[COLUMNS];
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) values[i] = sum[i][0];
        store(target, COLUMNS, true, values);
        return;
      }
    }
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column) {
      // Strips of a single column always begin at an output.
      if (COLUMNS == 1 || (left + column >= 0 && left + column < out_width)) {
        store(target + column * out_step(), PACK, PACK > 1, sum[column]);
      }
    }
  }
};

}  // namespace mate3d::resample
