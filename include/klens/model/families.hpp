// The families klens can run: one line each.
#pragma once

#include <klens/model/bamba.hpp>
#include <klens/model/falcon_h1.hpp>
#include <klens/model/granite.hpp>
#include <klens/model/hymba.hpp>
#include <klens/model/jamba.hpp>
#include <klens/model/lfm2.hpp>
#include <klens/model/mamba.hpp>
#include <klens/model/mamba2.hpp>
#include <klens/model/mamba3.hpp>
#include <klens/model/nemotron_h.hpp>
#include <klens/model/zamba.hpp>
#include <klens/model/zamba2.hpp>

namespace klens {

/// What reads the checkpoints of a family.
inline const FamilyReader& reader_of(Family family) {
  switch (family) {
    case Family::hymba: return hymba::reader;
    case Family::mamba: return mamba::reader;
    case Family::falcon_mamba: return mamba::falcon_reader;
    case Family::mamba2: return mamba2::reader;
    case Family::lfm2: return lfm2::reader;
    case Family::falcon_h1: return falcon_h1::reader;
    case Family::bamba: return bamba::reader;
    case Family::nemotron_h: return nemotron_h::reader;
    case Family::jamba: return jamba::reader;
    case Family::granitemoehybrid: return granite::reader;
    case Family::zamba: return zamba::reader;
    case Family::zamba2: return zamba2::reader;
    case Family::mamba3: return mamba3::reader;
  }
  return hymba::reader;
}

/// The family of a config. parse_config has checked model_type.
inline Family family_of(const ModelConfig& c) { return Family(index_of(family_names, c.model_type)); }

/// Sizes and kinds of a checkpoint's layers.
inline Result<RuntimePlan> read_skeleton(const ModelConfig& c) { return reader_of(family_of(c)).skeleton(c); }

/// Tensors that checkpoints may hold beside ours, without a meaning of their own: the tied head again, tables of angles.
inline bool may_ignore(const Shape& s, std::string_view name) {
  return (s.tied_head && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq");
}

}  // namespace klens
