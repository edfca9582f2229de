// One header for programs that quantize and multiply: formats, round-to-nearest, the kernels of this translation unit's
// ISA level, components and plans. Needs xsimd and Boost.Hana; nothing to link. Checkpoints, tokenizers, the lens and
// reports have headers of their own (klens/io, klens/model, klens/lens, klens/report) and need the libraries of
// klens::io.
//
//   g++ -std=c++20 -O2 -march=native -ffp-contract=off -I include program.cpp
#pragma once

#include <klens/config.hpp>
#include <klens/version.hpp>

#include <klens/core/aligned.hpp>
#include <klens/core/half.hpp>
#include <klens/core/result.hpp>
#include <klens/core/rows.hpp>
#include <klens/core/thread_team.hpp>

#include <klens/format/codec.hpp>
#include <klens/format/name.hpp>
#include <klens/format/pack.hpp>
#include <klens/format/qtensor.hpp>
#include <klens/format/scheme.hpp>

#include <klens/quant/rtn.hpp>

#include <klens/isa/detect.hpp>
#include <klens/isa/level.hpp>

#include <klens/kernel/args.hpp>

#include <klens/component/attention.hpp>
#include <klens/component/linear.hpp>
#include <klens/component/selective_scan.hpp>
#include <klens/component/state_space_dual.hpp>

#include <klens/plan/budget.hpp>
#include <klens/plan/check.hpp>
#include <klens/plan/formats.hpp>
#include <klens/plan/plan.hpp>
#include <klens/plan/presets.hpp>
