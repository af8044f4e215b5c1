// The work of a thread in upfirdn2d.cu: zero insertion, padding, filtering and decimation at once.
#pragma once

#include "common.cuh"

namespace mate3d::resample {

// An image batch in memory; strides count elements.
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

// The taps, in the order in which a correlation reads them; one-dimensional ones serve both axes.
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
};

// Any factors, filters and layouts: one output per thread.
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
  bool channels_last;  // neighbouring threads take neighbouring elements of the output

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

constexpr int kTaps = 4;  // side of the filters that the fast kernel takes
constexpr int kRows = 8;  // output rows per thread of the fast kernel

// A 4 x 4 filter with factors known at compile time. A thread makes COLUMNS neighbouring outputs of
// kRows rows, each for PACK neighbouring channels: it walks down the image, reads every input of its
// strip once and adds it to all the outputs that it reaches, which are held in registers.
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
  int shift_x, shift_y;  // strips start this much early, so that each sees the same tap phases
  uint32_t packs, strips_x, strips_y, channels;  // of channels, columns, rows; planes an image has
  bool packed_columns;

  __host__ __device__ void operator()(uint32_t index) const {
    uint32_t rest = index;
    const uint32_t pack = rest % packs;
    rest /= packs;
    const int left = static_cast<int>(rest % strips_x) * COLUMNS - shift_x;
    rest /= strips_x;
    const int top = static_cast<int>(rest % strips_y) * kRows - shift_y;
    rest /= strips_y;
    const int64_t channel = PACK > 1 ? pack * PACK : rest % channels;
    const int64_t batch = PACK > 1 ? rest : rest / channels;
    const scalar_t* image = x + batch * x_layout.batch + channel * x_layout.channel;
    scalar_t* result = y + batch * y_layout.batch + channel * y_layout.channel;

    acc_t tap[kTaps][kTaps];
#pragma unroll
    for (int ky = 0; ky < kTaps; ++ky) {
#pragma unroll
      for (int kx = 0; kx < kTaps; ++kx) tap[ky][kx] = taps.at(ky, kx);
    }

    const int in_left = (left * DOWN - pad_x) / UP, in_top = (top * DOWN - pad_y) / UP;
    image += in_top * x_layout.row + in_left * x_layout.column;
    acc_t sum[kRows][COLUMNS][PACK] = {};
#pragma unroll
    for (int row = 0; row < kInRows; ++row) {
      const bool inside = in_top + row >= 0 && in_top + row < in_height;
      acc_t value[kInColumns][PACK];
#pragma unroll
      for (int column = 0; column < kInColumns; ++column) {
        const bool visible = inside && in_left + column >= 0 && in_left + column < in_width;
        const scalar_t* source = image + row * x_layout.row + column * x_layout.column;
        load(source, visible ? PACK : 0, PACK > 1, value[column]);
      }
      add_row(row, value, tap, sum);
      // Rows that got their last input; the compiler knows which at each step.
#pragma unroll
      for (int out = 0; out < kRows; ++out) {
        const int last = (out * DOWN + kTaps - 1) / UP;
        if (row == last && top + out >= 0 && top + out < out_height) {
          store_row(result + (top + out) * y_layout.row, left, sum[out]);
        }
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

  __host__ __device__ void store_row(scalar_t* line, int left,
                                     const acc_t (&sum)[COLUMNS][PACK]) const {
    if constexpr (PACK == 1 && COLUMNS > 1) {
      if (packed_columns && left >= 0 && left + COLUMNS <= out_width) {
        acc_t values[COLUMNS];
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) values[i] = sum[i][0];
        store(line + left, COLUMNS, true, values);
        return;
      }
    }
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column) {
      const int place = left + column;
      if (place >= 0 && place < out_width) {
        store(line + place * y_layout.column, PACK, PACK > 1, sum[column]);
      }
    }
  }
};

}  // namespace mate3d::resample
