// Batch normalisation of float32 feature maps with an optional residual sum and ReLU, and its gradient, as XLA FFI
// handlers for CPU. Over the n pixels of a channel, with 1/d = 1 / √(σ² + ε) and f = scale / d,
//
//     y = act((x − μ) f + bias + residual),   act(t) = max(t, 0) or t,
//     g = ȳ where act passes it on, else 0,   residual̄ = g,   bias̄ = Σ g,   scalē = Σ g (x − μ) / d,
//     x̄ = f (g − bias̄ / n − (x − μ) scalē / (d n)).
//
// These maps are bound by memory. Each goes through its arrays twice, once for sums and once for the result, in blocks
// that fit into a core's cache. A block is summed in float32 in many short parts, and the sums of blocks are added in
// double. The cut into blocks depends on the shape alone, and so does the result.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"

namespace {

constexpr int64_t kBlock = 1 << 14;  // numbers of a block, at most about: 64 kB
constexpr int64_t kRow = 256;        // numbers of a row, at least
constexpr int64_t kCost = 8;         // multiplications that take as long as a number that comes from memory

// Channels repeat, so whole pixels are joined to rows that are long enough for vectors; loops run over rows.
struct Shape {
  int64_t lanes, pixels, channels;
  float epsilon;

  int64_t size() const { return pixels * channels; }
  int64_t width() const { return (kRow + channels - 1) / channels * channels; }
  int64_t length() const { return std::max<int64_t>(kBlock / width(), 1) * width(); }  // of a block
  int64_t blocks() const { return (size() + length() - 1) / length(); }                // of a lane
  float inverse(float var) const { return 1 / std::sqrt(var + epsilon); }
};

// The numbers [first, last) of one lane; `index` counts the blocks of all lanes.
struct Block {
  int64_t lane, index, first, last;
};

template <typename Work>
void ForBlocks(ffi::ThreadPool& pool, const Shape& s, const Work& work) {
  int64_t blocks = s.blocks();
  Parallel(pool, s.lanes * blocks, s.lanes * s.size() * kCost, [&](int64_t index) {
    int64_t lane = index / blocks, first = index % blocks * s.length();
    work(Block{lane, index, lane * s.size() + first, lane * s.size() + std::min(first + s.length(), s.size())});
  });
}

// Calls work(i, j) for the numbers i of a block, with their places j in a row.
template <typename Work>
inline void ForNumbers(const Shape& s, const Block& block, Work work) {
  int64_t i = block.first, width = s.width();
  for (; i + width <= block.last; i += width)
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) work(i + j, j);
#pragma GCC ivdep
  for (int64_t j = 0; j < block.last - i; ++j) work(i + j, j);
}

// For each lane a row with the values of its channels.
template <typename Value>
std::vector<float> Rows(const Shape& s, const Value& value) {
  std::vector<float> rows(s.lanes * s.width());
  for (int64_t lane = 0; lane < s.lanes; ++lane)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t j = c; j < s.width(); j += s.channels) rows[lane * s.width() + j] = value(lane * s.channels + c);
  return rows;
}

void AddByChannel(const Shape& s, const std::vector<float>& row, double* sums) {
  for (int64_t j = 0; j < s.width(); j += s.channels)
    for (int64_t c = 0; c < s.channels; ++c) sums[c] += row[j + c];
}

// The arrays of y's map, and those of its gradient; null where there is no residual sum.
struct Map {
  const float *x, *scale, *bias, *residual;
  float *y, *mean, *var;
};
struct Gradient {
  const float *x, *y_bar, *scale, *bias, *mean, *var, *y;
  float *x_bar, *scale_bar, *bias_bar, *residual_bar;
};

// Writes mean and biased variance of each channel. A block's squares are those of the distance from its own mean, so
// that no large numbers cancel.
void Statistics(ffi::ThreadPool& pool, const Shape& s, const Map& map) {
  const float* x = map.x;
  std::vector<double> moments(s.lanes * s.blocks() * 2 * s.channels);
  ForBlocks(pool, s, [&](Block block) {
    double *mean = &moments[block.index * 2 * s.channels], *squares = mean + s.channels;
    std::vector<float> sum(s.width()), middle(s.width());
    float *total = sum.data(), *about = middle.data();
    ForNumbers(s, block, [=](int64_t i, int64_t j) { total[j] += x[i]; });
    AddByChannel(s, sum, mean);
    for (int64_t c = 0; c < s.channels; ++c) {
      mean[c] /= (block.last - block.first) / s.channels;
      for (int64_t j = c; j < s.width(); j += s.channels) about[j] = mean[c], total[j] = 0;
    }
    ForNumbers(s, block, [=](int64_t i, int64_t j) { total[j] += (x[i] - about[j]) * (x[i] - about[j]); });
    AddByChannel(s, sum, squares);
  });
  for (int64_t k = 0; k < s.lanes * s.channels; ++k) {
    double pixels = 0, mean = 0, squares = 0;
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const double* block = &moments[(k / s.channels * s.blocks() + b) * 2 * s.channels + k % s.channels];
      double more = std::min(s.length(), s.size() - b * s.length()) / s.channels, apart = block[0] - mean;
      squares += block[s.channels] + apart * apart * pixels * more / (pixels + more);
      mean += apart * more / (pixels + more);
      pixels += more;
    }
    map.mean[k] = mean;
    map.var[k] = squares / pixels;
  }
}

// (x − centre) factor + shift, for each place of a row.
struct Affine {
  std::vector<float> centres, factors, shifts;

  template <typename Arrays>
  Affine(const Shape& s, const Arrays& a)
      : centres(Rows(s, [&](int64_t k) { return a.mean[k]; })),
        factors(Rows(s, [&](int64_t k) { return a.scale[k] * s.inverse(a.var[k]); })),
        shifts(Rows(s, [&](int64_t k) { return a.bias[k]; })) {}
};

template <bool kRelu, bool kResidual>
void Forward(ffi::ThreadPool& pool, const Shape& s, Map map) {
  Statistics(pool, s, map);
  Affine affine(s, map);
  ForBlocks(pool, s, [&](Block block) {
    int64_t row = block.lane * s.width();
    const float *centre = &affine.centres[row], *factor = &affine.factors[row], *shift = &affine.shifts[row];
    ForNumbers(s, block, [=](int64_t i, int64_t j) {
      float t = (map.x[i] - centre[j]) * factor[j] + shift[j];
      if (kResidual) t += map.residual[i];
      map.y[i] = kRelu && t < 0 ? 0 : t;  // what is not a number stays so
    });
  });
}

// Writes bias̄ and scalē, and g as residual̄. Only with a residual sum does it read y, to see where ReLU passes ȳ on.
template <bool kRelu, bool kResidual>
void Sums(ffi::ThreadPool& pool, const Shape& s, const Affine& affine, Gradient map) {
  std::vector<double> sums(s.lanes * s.blocks() * 2 * s.channels);
  ForBlocks(pool, s, [&](Block block) {
    int64_t row = block.lane * s.width();
    const float *centre = &affine.centres[row], *factor = &affine.factors[row], *shift = &affine.shifts[row];
    std::vector<float> sum(s.width()), product(s.width());
    float *total = sum.data(), *moment = product.data();
    ForNumbers(s, block, [=](int64_t i, int64_t j) {
      float g = map.y_bar[i], d = map.x[i] - centre[j];
      if (kRelu) g = (kResidual ? map.y[i] : d * factor[j] + shift[j]) > 0 ? g : 0;
      if (kResidual) map.residual_bar[i] = g;
      total[j] += g;
      moment[j] += g * d;
    });
    AddByChannel(s, sum, &sums[block.index * 2 * s.channels]);
    AddByChannel(s, product, &sums[(block.index * 2 + 1) * s.channels]);
  });
  for (int64_t k = 0; k < s.lanes * s.channels; ++k) {
    double sum = 0, product = 0;
    for (int64_t b = 0; b < s.blocks(); ++b) {
      const double* block = &sums[(k / s.channels * s.blocks() + b) * 2 * s.channels + k % s.channels];
      sum += block[0], product += block[s.channels];
    }
    map.bias_bar[k] = sum;
    map.scale_bar[k] = product * s.inverse(map.var[k]);
  }
}

template <bool kRelu, bool kResidual>
void Backward(ffi::ThreadPool& pool, const Shape& s, Gradient map) {
  Affine affine(s, map);
  Sums<kRelu, kResidual>(pool, s, affine, map);
  auto means = Rows(s, [&](int64_t k) { return map.bias_bar[k] / s.pixels; });
  auto slopes = Rows(s, [&](int64_t k) { return map.scale_bar[k] * s.inverse(map.var[k]) / s.pixels; });
  ForBlocks(pool, s, [&](Block block) {
    int64_t row = block.lane * s.width();
    const float *centre = &affine.centres[row], *factor = &affine.factors[row], *shift = &affine.shifts[row];
    const float *mean = &means[row], *slope = &slopes[row];
    ForNumbers(s, block, [=](int64_t i, int64_t j) {
      float g = kResidual ? map.residual_bar[i] : map.y_bar[i], d = map.x[i] - centre[j];
      if (kRelu && !kResidual) g = d * factor[j] + shift[j] > 0 ? g : 0;
      map.x_bar[i] = factor[j] * (g - mean[j] - d * slope[j]);
    });
  });
}

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

Shape MakeShape(const In& x, const In& scale, float epsilon) {
  int64_t channels = x.dimensions().back(), lanes = scale.element_count() / channels;
  return {lanes, static_cast<int64_t>(x.element_count()) / (lanes * channels), channels, epsilon};
}

ffi::Error Normalise(ffi::ThreadPool pool, In x, In scale, In bias, ffi::RemainingArgs sums, bool relu, float epsilon,
                     Out y, Out mean, Out var) {
  bool sum = sums.size();
  auto forward = relu ? sum ? Forward<true, true> : Forward<true, false>
                      : sum ? Forward<false, true> : Forward<false, false>;
  forward(pool, MakeShape(x, scale, epsilon),
          {x.typed_data(), scale.typed_data(), bias.typed_data(), sum ? sums.get<In>(0)->typed_data() : nullptr,
           y->typed_data(), mean->typed_data(), var->typed_data()});
  return ffi::Error::Success();
}

ffi::Error NormaliseGradient(ffi::ThreadPool pool, In x, In y_bar, In scale, In bias, In mean, In var,
                             ffi::RemainingArgs sums, bool relu, float epsilon, Out x_bar, Out scale_bar, Out bias_bar,
                             ffi::RemainingRets results) {
  bool sum = sums.size();
  auto backward = relu ? sum ? Backward<true, true> : Backward<true, false>
                       : sum ? Backward<false, true> : Backward<false, false>;
  backward(pool, MakeShape(x, scale, epsilon),
           {x.typed_data(), y_bar.typed_data(), scale.typed_data(), bias.typed_data(), mean.typed_data(),
            var.typed_data(), sum ? sums.get<In>(0)->typed_data() : nullptr, x_bar->typed_data(),
            scale_bar->typed_data(), bias_bar->typed_data(), sum ? (*results.get<In>(0))->typed_data() : nullptr});
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MnemonicsNormalise, Normalise,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .RemainingArgs()
                                  .Attr<bool>("relu")
                                  .Attr<float>("epsilon")
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MnemonicsNormaliseGradient, NormaliseGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .RemainingArgs()
                                  .Attr<bool>("relu")
                                  .Attr<float>("epsilon")
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .RemainingRets());
