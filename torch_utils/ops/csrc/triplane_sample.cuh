// Per-thread work of the operations in triplane_sample.cu: bilinear look-up in three feature planes,
// and its derivatives.
//
// A plane is a table with one row of features per pixel. Three operations suffice, since they are
// closed under differentiation: weighted rows (the look-up), a scatter of weighted rows (the table's
// gradient) and dot products with rows (the points' gradient). With a direction, one displacement
// per point and plane, the weights are replaced by their derivative along it.
#pragma once

#include "common.cuh"

#include <cmath>

namespace mate3d::triplane {

// One axis of a bilinear look-up: the lower of two pixels, and for both the weight, its slope, and
// whether they lie in the plane. Pixels outside have weight and slope 0 and are not read.
template <typename acc_t>
struct Axis {
  int index;
  bool inside[2];
  acc_t weight[2], slope[2];

  __host__ __device__ Axis(acc_t position, int size) {
    const acc_t half = acc_t(size) / 2;
    const acc_t pixel = position * half + (half - acc_t(0.5));
    const acc_t low = floor(pixel);
    const acc_t fraction = pixel - low;
    inside[0] = low >= 0 && low < size;
    inside[1] = low >= -1 && low < size - 1;
    index = inside[0] || inside[1] ? static_cast<int>(low) : 0;
    // Products instead of branches, so that NaN positions propagate to the result.
    weight[0] = (1 - fraction) * acc_t(inside[0]);
    weight[1] = fraction * acc_t(inside[1]);
    slope[0] = inside[0] ? -half : acc_t(0);
    slope[1] = inside[1] ? half : acc_t(0);
  }
};

// Memory layout; strides are in elements.
struct PointLayout {
  int64_t batch, plane, point, axis;
};

struct TableLayout {
  int64_t batch, plane, row, column;
};

struct FeatureLayout {
  int64_t batch, point;
};

template <typename scalar_t>
struct Lookup {
  using acc_t = accumulate_t<scalar_t>;

  const acc_t* points;
  const acc_t* direction;  // null if there is none
  PointLayout points_layout, direction_layout;
  TableLayout table_layout;
  FeatureLayout features_layout;
  int height, width, channels;
  uint32_t num_points;  // per image

  // The three planes are averaged.
  static constexpr acc_t kScale = acc_t(1) / 3;

  __host__ __device__ acc_t coordinate(uint32_t batch, int plane, uint32_t point, int axis) const {
    return points[batch * points_layout.batch + plane * points_layout.plane +
                  point * points_layout.point + axis * points_layout.axis];
  }

  __host__ __device__ acc_t displacement(uint32_t batch, int plane, uint32_t point,
                                         int axis) const {
    return direction[batch * direction_layout.batch + plane * direction_layout.plane +
                     point * direction_layout.point + axis * direction_layout.axis];
  }

  // Call `body(offset, weight, is_visible)` for each of the four pixels around a point.
  template <typename Body>
  __host__ __device__ void each_corner(uint32_t batch, int plane, uint32_t point,
                                       const Body& body) const {
    const Axis<acc_t> x(coordinate(batch, plane, point, 0), width);
    const Axis<acc_t> y(coordinate(batch, plane, point, 1), height);
    acc_t along_x = 0, along_y = 0;
    if (direction != nullptr) {
      along_x = displacement(batch, plane, point, 0);
      along_y = displacement(batch, plane, point, 1);
    }
    const int64_t first = batch * table_layout.batch + plane * table_layout.plane +
                          y.index * table_layout.row + x.index * table_layout.column;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const acc_t weight = direction == nullptr
                                 ? y.weight[row] * x.weight[column]
                                 : along_x * y.weight[row] * x.slope[column] +
                                       along_y * y.slope[row] * x.weight[column];
        const bool is_visible = y.inside[row] && x.inside[column];
        body(first + row * table_layout.row + column * table_layout.column, weight * kScale,
             is_visible);
      }
    }
  }

  __host__ __device__ int64_t feature_offset(uint32_t batch, uint32_t point) const {
    return batch * features_layout.batch + point * features_layout.point;
  }
};

// Division of a point's channels among threads: each takes every `lanes`th pack of WIDTH channels,
// REPEATS times.
template <typename index_t>
struct Share {
  uint32_t batch, point;
  int lane;

  __host__ __device__ Share(index_t thread, uint32_t lanes, uint32_t num_points) {
    const index_t index = thread / lanes;
    lane = static_cast<int>(thread - index * lanes);
    batch = static_cast<uint32_t>(index) / num_points;
    point = static_cast<uint32_t>(index) - batch * num_points;
  }
};

// Weighted rows of the table.
template <typename scalar_t, typename index_t, int WIDTH, int REPEATS>
struct Sample {
  using acc_t = accumulate_t<scalar_t>;

  Lookup<scalar_t> lookup;
  const scalar_t* table;
  scalar_t* features;
  uint32_t lanes;

  __host__ __device__ void operator()(index_t thread) const {
    const Share<index_t> share(thread, lanes, lookup.num_points);
    const int first = share.lane * WIDTH, step = static_cast<int>(lanes) * WIDTH;
    acc_t sum[REPEATS][WIDTH] = {};
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      lookup.each_corner(share.batch, plane, share.point,
                         [&](int64_t offset, acc_t weight, bool is_visible) {
#pragma unroll
        for (int part = 0; part < REPEATS; ++part) {
          acc_t row[WIDTH];
          load(table + offset + first + part * step, is_visible ? WIDTH : 0, true, row);
#pragma unroll
          for (int i = 0; i < WIDTH; ++i) sum[part][i] += weight * row[i];
        }
      });
    }
    scalar_t* target = features + lookup.feature_offset(share.batch, share.point);
#pragma unroll
    for (int part = 0; part < REPEATS; ++part) {
      store(target + first + part * step, WIDTH, true, sum[part]);
    }
  }
};

template <typename acc_t>
__host__ __device__ inline void add_atomically(acc_t* target, acc_t value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(target, value);
#else
  *target += value;
#endif
}

template <typename acc_t, int WIDTH>
__host__ __device__ inline void add_atomically(acc_t* target, const acc_t (&value)[WIDTH]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr bool kAtOnce = std::is_same_v<acc_t, float> && WIDTH == 4;
  if constexpr (kAtOnce) {
    atomicAdd(reinterpret_cast<float4*>(target),
              make_float4(value[0], value[1], value[2], value[3]));
  }
#else
  constexpr bool kAtOnce = false;
#endif
  if constexpr (!kAtOnce) {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) add_atomically(target + i, value[i]);
  }
}

// Scatter of weighted rows into the table: WIDTH channels of one point per thread.
template <typename scalar_t, typename index_t, int WIDTH>
struct Scatter {
  using acc_t = accumulate_t<scalar_t>;

  Lookup<scalar_t> lookup;
  const scalar_t* grad;
  acc_t* grad_table;
  uint32_t lanes;

  __host__ __device__ void operator()(index_t thread) const {
    const Share<index_t> share(thread, lanes, lookup.num_points);
    const int channel = share.lane * WIDTH;
    acc_t g[WIDTH];
    load(grad + lookup.feature_offset(share.batch, share.point) + channel, WIDTH, true, g);
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      lookup.each_corner(share.batch, plane, share.point,
                         [&](int64_t offset, acc_t weight, bool is_visible) {
        if (!is_visible) return;
        acc_t part[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) part[i] = weight * g[i];
        add_atomically(grad_table + offset + channel, part);
      });
    }
  }
};

// Values along x and y for each of the three planes.
template <typename acc_t>
struct PlaneSums {
  static constexpr int kSize = 6;
  acc_t value[kSize] = {};
};

// Dot products of a point's gradient with the surrounding table rows, weighted by the slopes; with a
// direction, by the mixed derivative times the direction with swapped axes. The weights are linear
// along each axis, so this is the derivative of the gradient along the direction.
template <typename scalar_t, int WIDTH, int GROUP>
struct PointGradient {
  using acc_t = accumulate_t<scalar_t>;
  using Sum = PlaneSums<acc_t>;

  Lookup<scalar_t> lookup;
  const scalar_t* grad;
  const scalar_t* table;
  acc_t* grad_points;  // [B, 3, N, 2]

  __host__ __device__ Sum part(int64_t index, int lane) const {
    const uint32_t batch = static_cast<uint32_t>(index) / lookup.num_points;
    const uint32_t point = static_cast<uint32_t>(index) - batch * lookup.num_points;
    Sum sum;
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      add_plane(batch, plane, point, lane * WIDTH, sum.value[2 * plane], sum.value[2 * plane + 1]);
    }
    return sum;
  }

  __host__ __device__ void add_plane(uint32_t batch, int plane, uint32_t point, int first_channel,
                                     acc_t& sum_x, acc_t& sum_y) const {
    const Axis<acc_t> x(lookup.coordinate(batch, plane, point, 0), lookup.width);
    const Axis<acc_t> y(lookup.coordinate(batch, plane, point, 1), lookup.height);
    const TableLayout& layout = lookup.table_layout;
    const scalar_t* first = table + batch * layout.batch + plane * layout.plane +
                            y.index * layout.row + x.index * layout.column;
    const scalar_t* features = grad + lookup.feature_offset(batch, point);
    acc_t dot[2][2] = {};
    for (int channel = first_channel; channel < lookup.channels; channel += GROUP * WIDTH) {
      acc_t g[WIDTH];
      load(features + channel, WIDTH, true, g);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          acc_t values[WIDTH];
          load(first + row * layout.row + column * layout.column + channel,
               y.inside[row] && x.inside[column] ? WIDTH : 0, true, values);
#pragma unroll
          for (int i = 0; i < WIDTH; ++i) dot[row][column] += g[i] * values[i];
        }
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        if (lookup.direction == nullptr) {
          sum_x += y.weight[row] * x.slope[column] * dot[row][column];
          sum_y += y.slope[row] * x.weight[column] * dot[row][column];
        } else {
          sum_x += y.slope[row] * x.slope[column] * dot[row][column];
        }
      }
    }
  }

  __host__ __device__ void finish(int64_t index, const Sum& sum) const {
    const uint32_t batch = static_cast<uint32_t>(index) / lookup.num_points;
    const uint32_t point = static_cast<uint32_t>(index) - batch * lookup.num_points;
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      acc_t gradient_x = sum.value[2 * plane], gradient_y = sum.value[2 * plane + 1];
      if (lookup.direction != nullptr) {
        gradient_y = gradient_x * lookup.displacement(batch, plane, point, 0);
        gradient_x *= lookup.displacement(batch, plane, point, 1);
      }
      acc_t* target =
          grad_points + ((static_cast<int64_t>(batch) * 3 + plane) * lookup.num_points + point) * 2;
      target[0] = gradient_x * lookup.kScale;
      target[1] = gradient_y * lookup.kScale;
    }
  }
};

}  // namespace mate3d::triplane
