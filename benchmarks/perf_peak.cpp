// perf_peak THREADS SECONDS: what the processor's multipliers give at most, in loops that touch
// registers only. Prints a line for each kind of arithmetic that it was compiled for:
//
//   int8 2047.1
//   bf16 1010.2
//   fp32 505.0
//
// in 1e9 multiplications and additions a second of processor time, all threads together. Time given to
// other processes does not count; a neighbour on the same core does lower it.

#include <immintrin.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>
#include <vector>

namespace {

constexpr int chains = 12;        // hides the latency of four to six cycles, two or more a cycle
constexpr long long steps = 20000;

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Runs `body` (one block of `steps` times `chains` instructions) in every thread for so long, and
// returns instructions a second.
template <typename Body>
double rate(int threads, double seconds, Body body) {
  std::vector<double> rates(static_cast<std::size_t>(threads));
  std::vector<std::thread> workers;
  for (double& mine : rates) {
    workers.emplace_back([&mine, seconds, body] {
      body();  // warms up
      const double start = thread_seconds();
      long long blocks = 0;
      do {
        body();
        ++blocks;
      } while ((thread_seconds() - start) < seconds);
      mine = static_cast<double>(blocks * steps * chains) / (thread_seconds() - start);
    });
  }
  double sum = 0;
  for (std::thread& worker : workers) worker.join();
  for (const double one : rates) sum += one;
  return sum;
}

void print(const char* kind, double instructions, int operations) {
  std::printf("%s %.1f\n", kind, instructions * operations / 1e9);
}

template <typename Register>
void keep(Register (&sums)[chains]) {
#pragma GCC unroll 12
  for (Register& sum : sums) asm volatile("" : "+v"(sum));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int threads = std::atoi(arguments[1]);
  const double seconds = std::atof(arguments[2]);
#ifdef __AVX512VNNI__
  print("int8", rate(threads, seconds, [] {
          __m512i sums[chains] = {}, a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
          for (long long i = 0; i < steps; ++i) {
#pragma GCC unroll 12
            for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
            keep(sums);
          }
        }), 128);
#endif
#ifdef __AVX512BF16__
  print("bf16", rate(threads, seconds, [] {
          __m512 sums[chains] = {};
          const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1), _mm512_set1_ps(1));
          for (long long i = 0; i < steps; ++i) {
#pragma GCC unroll 12
            for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, a);
            keep(sums);
          }
        }), 64);
#endif
#ifdef __AVX512F__
  print("fp32", rate(threads, seconds, [] {
          __m512 sums[chains] = {}, a = _mm512_set1_ps(1e-9F);
          for (long long i = 0; i < steps; ++i) {
#pragma GCC unroll 12
            for (__m512& sum : sums) sum = _mm512_fmadd_ps(a, a, sum);
            keep(sums);
          }
        }), 32);
#endif
  return 0;
}
