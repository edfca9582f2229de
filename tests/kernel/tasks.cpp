// How callers cut linears into tasks: every panel once, in fours, tasks worth their hand-over.
#include <klens/kernel/args.hpp>

#include <doctest/doctest.h>

TEST_CASE("share_of: the shares are the matrix, in order; all but the last end at a multiple of four panels") {
  int wrong = 0;
  for (int panels = 1; panels <= 70; ++panels)
    for (int count = 1; count <= 40; ++count) {
      int at = 0;
      for (int i = 0; i < count; ++i) {
        const klens::Share s = klens::share_of(panels, i, count);
        wrong += s.begin != at || s.end < s.begin || (i + 1 < count && s.end % 4 != 0);
        at = s.end;
      }
      wrong += at != panels;
    }
  CHECK(wrong == 0);
}

TEST_CASE("linear_tasks: one thread takes all; 64 KB of weights or more each, at most 16 per thread, four panels") {
  constexpr std::int64_t kb = 1024, mb = 1024 * kb;
  CHECK(klens::linear_tasks(1, 1, 1000, 100 * mb, 100 * mb) == 1);
  CHECK(klens::linear_tasks(2, 1, 1000, 63 * kb, 63 * kb) == 1);
  CHECK(klens::linear_tasks(2, 1, 1000, 640 * kb, 640 * kb) == 10);
  CHECK(klens::linear_tasks(2, 1, 1000, 100 * mb, 100 * mb) == 32);
  CHECK(klens::linear_tasks(3, 8, 1000, 100 * mb, 800 * mb) == 48);
  CHECK(klens::linear_tasks(2, 1, 9, 640 * kb, 640 * kb) == 3);
  CHECK(klens::linear_tasks(2, 9, 1000, 100 * mb, 900 * mb) == 8);
  CHECK(klens::linear_tasks(2, 128, 1000, 1 * kb, 128 * kb) == 4);
  CHECK(klens::linear_tasks(2, 128, 1, 1 * kb, 128 * kb) == 1);
}
