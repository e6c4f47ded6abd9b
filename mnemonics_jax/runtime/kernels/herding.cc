// The greedy picks of herding, as an XLA FFI handler for CPU.
//
// A class is one piece of work: its unit features fit into a core's cache and are read there once for every pick. They
// stand in tiles [feature, kTile images], so that a vector holds one feature of neighbouring images, no sum runs across a
// vector, and reading goes through memory in order.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common.h"

namespace {

constexpr int kTile = 4 * kLanes;  // images whose products with the target are summed at once
typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t))));
constexpr float kShortest = 1e-12f;

// Where the first feature of an image stands; the next follow at a distance of kTile.
int64_t At(int64_t image, int64_t width) { return image / kTile * kTile * width + image % kTile; }

// The unit features of the usable rows, zero for all others, in tiles; and their mean.
void UnitFeatures(const float* rows, const bool* usable, int64_t images, int64_t width, int64_t filled,
                  std::vector<float>& unit, std::vector<float>& mean) {
  unit.resize(width * filled);
  std::vector<float> sums(width * kLanes);
  int64_t count = std::count(usable, usable + images, true);
  for (int64_t x = 0; x < filled; x += kLanes) {
    float* column = &unit[At(x, width)];
    for (int i = 0; i < kLanes; ++i) {
      const float* row = x + i < images && usable[x + i] ? rows + (x + i) * width : nullptr;
      for (int64_t f = 0; f < width; ++f) column[f * kTile + i] = row ? row[f] : 0;
    }
    Vec squares = {}, scale = {};
    for (int64_t f = 0; f < width; ++f) squares += Load(column + f * kTile) * Load(column + f * kTile);
    for (int i = 0; i < kLanes; ++i) scale[i] = 1 / std::max(std::sqrt(squares[i]), kShortest);
    for (int64_t f = 0; f < width; ++f) {
      Vec value = Load(column + f * kTile) * scale;
      Store(column + f * kTile, value);
      Store(&sums[f * kLanes], Load(&sums[f * kLanes]) + value);
    }
  }
  mean.assign(width, 0);
  for (int64_t f = 0; f < width; ++f) {
    for (int i = 0; i < kLanes; ++i) mean[f] += sums[f * kLanes + i];
    mean[f] /= std::max<int64_t>(count, 1);
  }
}

// picks[k] = argmax over the images left of φ(x)·((k+1) μ − Σ_{j<k} φ(p_j)); the first of equals.
void Herd(const float* rows, const bool* usable, int64_t images, int64_t width, int64_t amount, int32_t* picks) {
  static thread_local std::vector<float> unit, mean, target, taken;
  int64_t filled = (images + kTile - 1) / kTile * kTile;
  UnitFeatures(rows, usable, images, width, filled, unit, mean);
  target = mean;
  taken.assign(filled, -std::numeric_limits<float>::infinity());
  for (int64_t x = 0; x < images; ++x)
    if (usable[x]) taken[x] = 0;
  for (int64_t k = 0; k < amount; ++k) {
    // The largest so far in each lane, and where it stood first.
    Vec most = Vec{} - std::numeric_limits<float>::infinity();
    Places where = {};
    for (int64_t x = 0; x < filled; x += kTile) {
      Vec sum[4];
      for (int v = 0; v < 4; ++v) sum[v] = Load(&taken[x + v * kLanes]);
      for (int64_t f = 0; f < width; ++f)
        for (int v = 0; v < 4; ++v) sum[v] += target[f] * Load(&unit[x * width + f * kTile + v * kLanes]);
      for (int v = 0; v < 4; ++v) {
        Places larger = sum[v] > most;
        most = larger ? sum[v] : most;
        where = larger ? Places{} + static_cast<int32_t>(x + v * kLanes) : where;
      }
    }
    int32_t best = where[0];
    float gain = most[0];
    for (int i = 1; i < kLanes; ++i) {
      int32_t place = where[i] + i;
      if (most[i] > gain || (most[i] == gain && place < best)) gain = most[i], best = place;
    }
    taken[best] = -std::numeric_limits<float>::infinity();
    picks[k] = best;
    for (int64_t f = 0; f < width; ++f) target[f] += mean[f] - unit[At(best, width) + f * kTile];
  }
}

ffi::Error HerdClasses(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> features, ffi::Buffer<ffi::PRED> usable,
                       ffi::ResultBuffer<ffi::S32> picks) {
  auto shape = features.dimensions();
  int64_t classes = shape[0], images = shape[1], width = shape[2], amount = picks->dimensions()[1];
  Parallel(pool, classes, classes * images * width * amount, [&](int64_t label) {
    Herd(features.typed_data() + label * images * width, usable.typed_data() + label * images, images, width, amount,
         picks->typed_data() + label * amount);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MnemonicsHerd, HerdClasses,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
