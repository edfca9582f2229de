// How callers deal work out to threads: every unit once, in order, tasks worth their hand-over, small ones last.
#include <klens/kernel/args.hpp>

#include <doctest/doctest.h>

TEST_CASE("share_of: equal shares are the matrix, in order; all but the last end at a multiple of four panels") {
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

TEST_CASE("deal_out: each task takes a (2 threads)-th of what is left or `least`; at most 512 tasks") {
  int wrong = 0;
  klens::Deal d;
  for (const int threads : {1, 2, 3, 16, 256})
    for (const int units : {1, 2, 3, 12, 53, 200, 4000, 65535})
      for (const int least : {1, 3, 100}) {
        klens::deal_out(d, threads, units, least);
        wrong += d.tasks < 1 || d.tasks > klens::Deal::most || d.begin[0] != 0 || d.begin[d.tasks] != units;
        for (int i = 0; i < d.tasks; ++i) {
          const int size = d.begin[i + 1] - d.begin[i];
          wrong += size < 1 || (size < least && i + 1 < d.tasks) || (i > 0 && i + 1 < d.tasks && size > d.begin[i] - d.begin[i - 1]);
        }
      }
  CHECK(wrong == 0);
  klens::deal_out(d, 2, 12, 1);
  const int begins[] = {0, 3, 6, 8, 9, 10, 11, 12};
  CHECK(d.tasks == 7);
  for (int i = 0; i <= 7; ++i) CHECK(d.begin[i] == begins[i]);
}

TEST_CASE("linears: every panel once, equal matrices in the same columns, 32 KB of weights or more each") {
  constexpr std::int64_t kb = 1024, mb = 1024 * kb;
  klens::LinearDeal d;
  int wrong = 0;
  for (const int threads : {1, 2, 8, 256})
    for (const int tokens : {1, 9, 512})
      for (const int panels : {1, 5, 48, 210, 3143, 16384}) {
        klens::deal_out(d, threads, tokens, panels, std::int64_t(panels) * 12 * kb, std::int64_t(panels) * 12 * kb * tokens);
        for (const int mine : {panels, panels / 2, panels / 7, 1}) {
          int at = 0;
          for (int i = 0; i < d.deal.tasks; ++i) {
            const klens::Share s = klens::share_of(d, mine, i);
            wrong += s.begin != at || s.end < s.begin || s.begin % 2 != 0;
            at = s.end;
          }
          wrong += at != mine;
        }
      }
  CHECK(wrong == 0);
  const auto tasks = [&](int threads, int tokens, int panels, std::int64_t bytes, std::int64_t work) {
    klens::deal_out(d, threads, tokens, panels, bytes, work);
    return d.deal.tasks;
  };
  CHECK(tasks(1, 1, 1000, 100 * mb, 100 * mb) == 1);
  CHECK(tasks(2, 1, 1000, 63 * kb, 63 * kb) == 1);
  CHECK(tasks(2, 1, 1000, 100 * kb, 100 * kb) == 2);
  CHECK(tasks(2, 128, 1, 1 * kb, 128 * kb) == 1);
  CHECK(tasks(2, 128, 5, 120 * kb, 16 * mb) == 3);   // x_proj of mamba-130m: two panels, two, one
}
