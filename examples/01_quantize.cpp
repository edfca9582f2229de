// Quantizes a matrix to w4g32, multiplies it with a vector, and prints the relative error, the bytes and the kernel that ran.
//
//   g++ -std=c++20 -O2 -march=native -ffp-contract=off -I include examples/01_quantize.cpp
#include <klens/klens.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr int rows = 512, cols = 2048;
  std::vector<float> w(rows * cols), x(cols), y(rows);
  for (int i = 0; i < rows * cols; ++i) w[i] = std::sin(float(i % 9973)) / 16;
  for (int k = 0; k < cols; ++k) x[k] = std::cos(float(k * k % 7919));
  const auto q = klens::quantize<4, klens::groups_of(32)>({w.data(), rows, cols, cols});
  if (!q) return std::fprintf(stderr, "%s\n", q.error().message().c_str()), 1;
  klens::Linear<klens::formats::w4g32> linear(q->view());
  linear.step(x.data(), y.data());
  double error = 0, power = 0;
  for (int n = 0; n < rows; ++n) {
    double exact = 0;
    for (int k = 0; k < cols; ++k) exact += double(w[n * cols + k]) * x[k];
    power += exact * exact, error += (y[n] - exact) * (y[n] - exact);
  }
  std::printf("error %.3f, %ld bytes, %s\n", std::sqrt(error / power), q->bytes(), linear.kernel_name().c_str());
}
