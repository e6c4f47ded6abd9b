// What the kernels share: vectors of the processor's width, and work shared out over XLA's threads.

#ifndef MNEMONICS_JAX_NATIVE_COMMON_H_
#define MNEMONICS_JAX_NATIVE_COMMON_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

constexpr int64_t kWorthwhile = 1 << 20;

// One register of float32; it may stand at any address of a float.
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vec Load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// Runs work(0) ... work(count - 1) on the pool and on the caller. The caller takes work itself and waits only for work
// that has begun, so a pool whose threads are all busy elsewhere delays nobody. A thread is worth waking for kWorthwhile
// multiplications or more, of `multiplications` in all.
inline void Parallel(ffi::ThreadPool& pool, int64_t count, int64_t multiplications,
                     const std::function<void(int64_t)>& work) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  auto take = [shared, count, &work] {
    int64_t finished = 0;
    for (int64_t i; (i = shared->next.fetch_add(1)) < count; ++finished) work(i);
    if (finished == 0) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    if ((shared->done += finished) == count) shared->all_done.notify_all();
  };
  int64_t helpers = std::min({pool.num_threads(), count, multiplications / kWorthwhile}) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(take));
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
}

#endif  // MNEMONICS_JAX_NATIVE_COMMON_H_
