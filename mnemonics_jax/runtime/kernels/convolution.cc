// Convolution of NHWC float32 feature maps and its kernel gradient, as XLA FFI handlers for CPU.
//
// Both maps read the input through windows: in a row of the zero-padded input, the kernel's columns and the channels
// of one output pixel lie side by side, `span = kernel width × channels` numbers. With t running over a window,
//
//     y[i, j, o]  = Σ_a Σ_t  x[s·i + a, s·j·c + t] · k[a, t, o]
//     k̄[a, t, o] = Σ_ij     x[s·i + a, s·j·c + t] · ȳ[i, j, o].
//
// The innermost loops keep a tile of results in registers (pixels × vectors of output channels, or window positions ×
// vectors of output channels): each step loads a vector or two, and multiplies it with broadcast numbers.
// Work is cut into units of a few rows of one image, whose padded input fits into a core's cache.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"

namespace {

// A tile of kPixels or kTaps rows of kVectors vectors leaves a few of the 32 or 16 registers free. Twice the rows of one
// vector fit as well.
constexpr int kPixels = kManyRegisters ? 8 : 4, kTaps = kManyRegisters ? 12 : 6;
constexpr int kVectors = 2;
constexpr int64_t kUnitBytes = 128 << 10, kGradientUnitBytes = 48 << 10, kWeightBytes = 16 << 10;
constexpr int64_t kPartialSums = 8;

struct Shape {
  int64_t n, h, w, c;         // input
  int64_t rows, columns, o;   // output
  int64_t kh, kw, stride, top, left;

  int64_t multiplications() const { return n * rows * columns * kh * span() * o; }
  int64_t span() const { return kw * c; }
  int64_t lanes() const { return (o + kLanes - 1) / kLanes * kLanes; }  // output channels, filled up to whole vectors
  int64_t padded_width() const { return stride * (columns - 1) + kw; }
  int64_t unit_rows() const {
    int64_t fitting = kUnitBytes / (int64_t{sizeof(float)} * padded_width() * c * stride);
    return std::clamp<int64_t>(fitting, 1, rows);
  }
  // Of the kernel gradient, which reads the inputs and the cotangents of a unit again for each tile of the kernel.
  int64_t gradient_rows() const {
    int64_t row = padded_width() * c * stride + columns * std::min<int64_t>(lanes(), kVectors * kLanes);
    return std::clamp<int64_t>(kGradientUnitBytes / (int64_t{sizeof(float)} * row), 1, rows);
  }
};

// The input rows that output rows [first, first + count) of one image read, with zeros around them.
const float* PaddedRows(const Shape& s, const float* image, int64_t first, int64_t count, std::vector<float>& scratch) {
  int64_t width = s.padded_width(), height = s.stride * (count - 1) + s.kh;
  scratch.resize(height * width * s.c);
  int64_t from = std::max<int64_t>(0, s.left);
  int64_t until = std::min(width, s.w + s.left);
  for (int64_t r = 0; r < height; ++r) {
    float* row = scratch.data() + r * width * s.c;
    int64_t source = s.stride * first + r - s.top;
    if (source < 0 || source >= s.h || from >= until) {
      std::memset(row, 0, width * s.c * sizeof(float));
      continue;
    }
    std::memset(row, 0, from * s.c * sizeof(float));
    std::memcpy(row + from * s.c, image + (source * s.w + from - s.left) * s.c, (until - from) * s.c * sizeof(float));
    std::memset(row + until * s.c, 0, (width - until) * s.c * sizeof(float));
  }
  return scratch.data();
}

// P neighbouring output pixels × Q vectors of output channels, by `taps` rows of the kernel. `fresh` says that these are
// its first; else y has the sums of those before. `kStep` is the distance of two windows where the compiler knows it,
// which then needs no register for the address of each; else 0.
template <int P, int Q, int kStep>
void ForwardTile(const Shape& s, const float* x, const float* k, float* y, int64_t taps, bool fresh) {
  int64_t row = s.padded_width() * s.c, step = kStep ? kStep : s.stride * s.c, lanes = s.lanes(), span = s.span();
  Vec sum[P][Q];
  for (int p = 0; p < P; ++p)
    for (int q = 0; q < Q; ++q) sum[p][q] = fresh ? Vec{} : Load(y + p * lanes + q * kLanes);
  for (int64_t a = 0; a < taps; ++a, x += row) {
    for (int64_t t = 0; t < span; ++t, k += Q * kLanes) {
      Vec weights[Q];
      for (int q = 0; q < Q; ++q) weights[q] = Load(k + q * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) sum[p][q] += x[p * step + t] * weights[q];
    }
  }
  for (int p = 0; p < P; ++p)
    for (int q = 0; q < Q; ++q) Store(y + p * lanes + q * kLanes, sum[p][q]);
}

template <int Q, int kStep>
void ForwardRow(const Shape& s, const float* x, const float* k, float* y, int64_t taps, bool fresh) {
  int64_t step = s.stride * s.c, lanes = s.lanes(), j = 0;
  auto tiles = [&](auto tile, int64_t pixels) {
    for (; j + pixels <= s.columns; j += pixels) tile(s, x + j * step, k, y + j * lanes, taps, fresh);
  };
  if constexpr (Q == 1 && kStep > 0) tiles(ForwardTile<2 * kPixels, Q, kStep>, 2 * kPixels);
  tiles(ForwardTile<kPixels, Q, kStep>, kPixels);
  tiles(ForwardTile<4, Q, 0>, 4);
  tiles(ForwardTile<1, Q, 0>, 1);
}

// Q vectors of output channels of `count` rows. What of the kernel does not fit a core's first cache is taken row by row.
template <int Q>
void ForwardRows(const Shape& s, const float* x, const float* k, float* y, int64_t count) {
  int64_t row = s.padded_width() * s.c, size = s.span() * Q * kLanes;
  int64_t taps = s.kh * size * int64_t{sizeof(float)} <= kWeightBytes ? s.kh : 1;
  auto forward = ForwardRow<Q, 0>;
  switch (s.stride * s.c) {
    case 16: forward = ForwardRow<Q, 16>; break;
    case 32: forward = ForwardRow<Q, 32>; break;
    case 64: forward = ForwardRow<Q, 64>; break;
  }
  for (int64_t a = 0; a < s.kh; a += taps)
    for (int64_t i = 0; i < count; ++i)
      forward(s, x + (s.stride * i + a) * row, k + a * size, y + i * s.columns * s.lanes(), taps, a == 0);
}

// The kernel by blocks of as many output channels as a tile has, zeros behind the last ones: what a tile reads lies in
// one piece.
const float* Packed(const Shape& s, const float* k, int64_t batch, std::vector<float>& scratch) {
  int64_t lanes = s.lanes(), taps = s.kh * s.span(), block = kVectors * kLanes;
  if (lanes == s.o && lanes <= block) return k;
  scratch.assign(batch * taps * lanes, 0);
  float* packed = scratch.data();
  for (int64_t b = 0; b < batch; ++b, k += taps * s.o)
    for (int64_t v = 0, width; v < lanes; v += width) {
      width = lanes - v < block ? kLanes : block;
      for (int64_t t = 0; t < taps; ++t, packed += width)
        std::copy(k + t * s.o + v, k + t * s.o + std::min(v + width, s.o), packed);
    }
  return scratch.data();
}

void ForwardUnit(const Shape& s, const float* image, const float* k, float* y, int64_t first, int64_t count) {
  static thread_local std::vector<float> scratch, filled;
  const float* x = PaddedRows(s, image, first, count, scratch);
  int64_t lanes = s.lanes(), pixels = count * s.columns, taps = s.kh * s.span(), v = 0;
  constexpr int64_t block = kVectors * kLanes;
  float *out = y + first * s.columns * s.o, *rows = out;
  if (lanes != s.o) {
    filled.resize(pixels * lanes);
    rows = filled.data();
  }
  for (; v + block <= lanes; v += block) ForwardRows<kVectors>(s, x, k + v * taps, rows + v, count);
  for (; v < lanes; v += kLanes) ForwardRows<1>(s, x, k + v * taps, rows + v, count);
  if (lanes != s.o)
    for (int64_t j = 0; j < pixels; ++j) std::memcpy(out + j * s.o, rows + j * lanes, s.o * sizeof(float));
}

// R window positions × Q vectors of output channels, summed over the output pixels of a unit.
template <int R, int Q>
void GradientTile(const Shape& s, const float* x, const float* y, int64_t rows, float* sum) {
  int64_t row = s.stride * s.padded_width() * s.c, step = s.stride * s.c, lanes = s.lanes();
  Vec total[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) total[r][q] = Load(sum + r * lanes + q * kLanes);
  for (int64_t i = 0; i < rows; ++i, x += row) {
    const float* window = x;
    for (int64_t j = 0; j < s.columns; ++j, window += step, y += lanes) {
      Vec cotangent[Q];
      for (int q = 0; q < Q; ++q) cotangent[q] = Load(y + q * kLanes);
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) total[r][q] += window[r] * cotangent[q];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) Store(sum + r * lanes + q * kLanes, total[r][q]);
}

template <int Q>
void GradientSpan(const Shape& s, const float* x, const float* y, int64_t rows, float* sum) {
  int64_t lanes = s.lanes(), span = s.span(), t = 0;
  constexpr int R = Q == 1 ? 2 * kTaps : kTaps;
  for (; t + R <= span; t += R) GradientTile<R, Q>(s, x + t, y, rows, sum + t * lanes);
  for (; t + 4 <= span; t += 4) GradientTile<4, Q>(s, x + t, y, rows, sum + t * lanes);
  for (; t < span; ++t) GradientTile<1, Q>(s, x + t, y, rows, sum + t * lanes);
}

void GradientUnit(const Shape& s, const float* image, const float* y_bar, float* sum, int64_t first, int64_t count) {
  static thread_local std::vector<float> scratch, filled;
  const float* x = PaddedRows(s, image, first, count, scratch);
  int64_t lanes = s.lanes(), pixels = count * s.columns;
  const float* y = y_bar + first * s.columns * s.o;
  if (lanes != s.o) {
    filled.assign(pixels * lanes, 0);
    for (int64_t j = 0; j < pixels; ++j) std::memcpy(filled.data() + j * lanes, y + j * s.o, s.o * sizeof(float));
    y = filled.data();
  }
  for (int64_t a = 0; a < s.kh; ++a, x += s.padded_width() * s.c, sum += s.span() * lanes) {
    int64_t v = 0;
    for (; v + kVectors * kLanes <= lanes; v += kVectors * kLanes) GradientSpan<kVectors>(s, x, y + v, count, sum + v);
    for (; v < lanes; v += kLanes) GradientSpan<1>(s, x, y + v, count, sum + v);
  }
}

// The product of a buffer's dimensions before its last four: the maps are applied to each of so many arrays.
int64_t Batch(ffi::Span<const int64_t> dimensions) {
  int64_t batch = 1;
  for (size_t i = 0; i + 4 < dimensions.size(); ++i) batch *= dimensions[i];
  return batch;
}

Shape MakeShape(ffi::Span<const int64_t> x, ffi::Span<const int64_t> kernel, ffi::Span<const int64_t> y, int64_t stride,
                int64_t top, int64_t left) {
  auto in = x.last(4), taps = kernel.last(4), out = y.last(4);
  return {in[0], in[1], in[2], in[3], out[1], out[2], out[3], taps[0], taps[1], stride, top, left};
}

ffi::Error Correlate(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> k, int64_t stride, int64_t top,
                     int64_t left, ffi::ResultBuffer<ffi::F32> y) {
  Shape s = MakeShape(x.dimensions(), k.dimensions(), y->dimensions(), stride, top, left);
  int64_t batch = Batch(x.dimensions()), taps = s.kh * s.span();
  static thread_local std::vector<float> scratch;
  const float* weights = Packed(s, k.typed_data(), batch, scratch);
  int64_t length = s.unit_rows(), units = (s.rows + length - 1) / length;
  Parallel(pool, batch * s.n * units, batch * s.multiplications(), [&](int64_t index) {
    int64_t n = index / units, first = index % units * length;
    ForwardUnit(s, x.typed_data() + n * s.h * s.w * s.c, weights + n / s.n * taps * s.lanes(),
                y->typed_data() + n * s.rows * s.columns * s.o, first, std::min(length, s.rows - first));
  });
  return ffi::Error::Success();
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> y_bar, int64_t stride,
                          int64_t top, int64_t left, ffi::ResultBuffer<ffi::F32> k_bar) {
  Shape s = MakeShape(x.dimensions(), k_bar->dimensions(), y_bar.dimensions(), stride, top, left);
  int64_t batch = Batch(x.dimensions()), taps = s.kh * s.span(), size = taps * s.lanes();
  int64_t length = s.gradient_rows(), units = (s.rows + length - 1) / length;
  // The cut into partial sums depends neither on the number of threads nor on the batch, so the result does not either.
  int64_t parts = std::min({s.n * units, kPartialSums, 1 + s.multiplications() / kWorthwhile / 2});
  // Kept from call to call: memory fresh from the system costs more than a small gradient.
  static thread_local std::vector<float> kept;
  kept.assign(batch * parts * size, 0);
  float* sums = kept.data();
  Parallel(pool, batch * parts, batch * s.multiplications(), [&](int64_t index) {
    int64_t part = index % parts;
    for (int64_t i = s.n * units * part / parts; i < s.n * units * (part + 1) / parts; ++i) {
      int64_t n = index / parts * s.n + i / units, first = i % units * length;
      GradientUnit(s, x.typed_data() + n * s.h * s.w * s.c, y_bar.typed_data() + n * s.rows * s.columns * s.o,
                   sums + index * size, first, std::min(length, s.rows - first));
    }
  });
  float* total = k_bar->typed_data();
  for (int64_t b = 0; b < batch; ++b, sums += parts * size, total += taps * s.o)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t o = 0; o < s.o; ++o) {
        float sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += sums[part * size + t * s.lanes() + o];
        total[t * s.o + o] = sum;
      }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MnemonicsCorrelate, Correlate,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left")
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MnemonicsKernelGradient, KernelGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left")
                                  .Ret<ffi::Buffer<ffi::F32>>());
