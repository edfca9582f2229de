// The kernels of this translation unit's level as a KernelTable. A level with a base (isa/level.hpp) compiled with
// KLENS_OVERRIDES_ONLY brings what it replaces and leaves the rest null: klens_add_levels() merges the tables.
#pragma once

#include <klens/dispatch/linear_kernels.hpp>
#include <klens/dispatch/table.hpp>
#include <klens/isa/native.hpp>
#include <klens/kernel/attention.hpp>
#include <klens/kernel/conv1d.hpp>
#include <klens/kernel/embed.hpp>
#include <klens/kernel/hadamard.hpp>
#include <klens/kernel/kv.hpp>
#if defined(KLENS_HAS_BF16)
#include <klens/kernel/linear_fast.hpp>
#endif
#include <klens/kernel/mamba3.hpp>
#include <klens/kernel/norm.hpp>
#include <klens/kernel/quantize_row.hpp>
#include <klens/kernel/rope.hpp>
#include <klens/kernel/route.hpp>
#include <klens/kernel/scan.hpp>
#include <klens/kernel/short_conv.hpp>
#include <klens/kernel/softmax.hpp>
#include <klens/kernel/ssd.hpp>
#include <klens/kernel/swiglu.hpp>
#include <klens/kernel/vocab_kl.hpp>

namespace klens::inline KLENS_NS {

/// Whether this unit's level has a linear of its own for a dot kind.
consteval bool brings_linear([[maybe_unused]] DotKind d) {
#if defined(KLENS_OVERRIDES_ONLY)
  return d == DotKind::a8 && (level_of_this_unit == Level::avx_vnni_int8 || level_of_this_unit == Level::amx_int8);
#else
  return true;
#endif
}

/// The whole table of this unit's level, or its overrides.
consteval KernelTable level_kernels() {
  KernelTable t{};
  t.level = level_of_this_unit;
  const auto put = [&t](const auto& kernels, DotKind dot) {
    for (int c = 0; c < codec_count; ++c)
      for (int grouped = 0; grouped < 2; ++grouped) t.linear[c][grouped][int(dot)] = kernels.of[c][grouped];
  };
  if constexpr (brings_linear(DotKind::f32)) put(linear_kernels<DotKind::f32>(), DotKind::f32);
  if constexpr (brings_linear(DotKind::a16)) put(linear_kernels<DotKind::a16>(), DotKind::a16);
  if constexpr (brings_linear(DotKind::a8)) put(linear_kernels<DotKind::a8>(), DotKind::a8);
#if !defined(KLENS_OVERRIDES_ONLY)
#define KLENS_ENTRY(name, Args) t.name = &name;
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
#endif
#if defined(KLENS_HAS_BF16)
  t.linear_fast[int(Codec::bf16)] = &linear_fast<Codec::bf16>;
  t.round_rows = &round_rows;
#endif
  return t;
}

}  // namespace klens::inline KLENS_NS
