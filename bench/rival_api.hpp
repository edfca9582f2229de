// The interface of the module klens_rivals: other people's matrix products, timed beside ours. The program loads the
// module with dlopen, so that it needs none of these libraries itself. Plain C types; no exception crosses.
#pragma once

namespace klens {

/// A product y = x W^T of one kind, with `copies` sets of weights packed beforehand where the library can.
struct RivalApi {
  int version;                // rival_api_version
  const char* (*describe)();  // "oneDNN 2.6.3, OpenBLAS 0.3.21 (SkylakeX)"
  /// kind: "onednn.s8s8" "onednn.u8s8" "onednn.bf16" "onednn.f32" "openblas.f32", and with 4-bit weights in groups
  /// "onednn.s4" (f32 rows) "onednn.s4bf16" "onednn.s4s8" "ggml.q4_0". nullptr: the library is absent, or has no such kernel under
  /// the cap on its instructions.
  void* (*make)(const char* kind, int rows, int cols, int tokens, int group, int copies, int threads);
  const char* (*implementation)(void* rival);  // what the library says it runs
  void (*run)(void* rival, int copy);
  void (*destroy)(void* rival);
};

inline constexpr int rival_api_version = 1;
inline constexpr char rival_entry[] = "klens_rivals";  // const RivalApi* klens_rivals()

}  // namespace klens
