// The specialised way: the decoder of decoder.hpp with the formats of a plan as constants. Included by the units that
// klens_add_model() writes, once per ISA level; each holds one explicit instantiation of FixedProgram and exports one table.
// The linears that a plan uses are compiled beside it, in units of their own (fixed_linears.hpp), and called directly.
//
//   Tag      a type with `static constexpr auto plan`, in the unit's anonymous namespace: everything made of it is local to
//            the unit, so that two levels, or two plans, cannot share a symbol
//   class    layers whose sites have equal precisions (as far as a site reads them) and equal kv ownership run one
//            instantiation; the layer index stays run-time data. 32 layers in 5 classes compile 5 layers.
#pragma once

#include <klens/core/meta.hpp>
#include <klens/isa/native.hpp>
#include <klens/kernel/attention.hpp>
#include <klens/kernel/conv1d.hpp>
#include <klens/kernel/embed.hpp>
#include <klens/kernel/kinds.hpp>
#include <klens/kernel/hadamard.hpp>
#include <klens/kernel/kv.hpp>
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
#include <klens/model/decoder.hpp>
#include <klens/model/specialised.hpp>
#include <klens/plan/budget.hpp>
#include <klens/plan/check.hpp>
#include <klens/simd/dot.hpp>

#include <utility>

namespace klens::inline KLENS_NS {

/// Defined in kernel/linear.hpp, instantiated in the units of fixed_linears.hpp: each takes 2 to 3 s to compile.
template <Codec C, bool Grouped, DotKind D>
void linear(const LinearArgs& args);

namespace fixed {

/// The fields a linear reads, in 8 bits: codec, group, activation.
constexpr std::uint64_t linear_key(const Precision& p) {
  const unsigned group = p.scheme.scale != Granularity::group ? 0 : p.scheme.group == 32 ? 1 : p.scheme.group == 64 ? 2 : 3;
  return unsigned(codec_of(p)) | group << 4 | unsigned(p.activation) << 6;
}

/// Equal for layers that may share an instantiation: kinds, linears, kv ownership, states. The first such layer.
template <class AnyPlan>
constexpr std::uint64_t layer_key(const AnyPlan& plan, int layer) {
  // An array, not a chain of &&: gcc 12 merges neighbouring bytes of such a chain into one load and cannot evaluate that
  // in a constant expression (internal error in cxx_eval_bit_field_ref).
  const auto kinds = [&plan](int i) {
    const LayerPlan& l = plan.layers[std::size_t(i)];
    return std::array{int(owns_kv(plan.layers, i)), int(l.mixer), int(l.ffn), int(l.scan.state), int(l.attention.state), int(l.conv.state)};
  };
  const auto key_of = [&plan](int i, Role role) {
    return linear_key(precision_of(plan.layers[std::size_t(owner_of(plan.layers, i, role))], role));
  };
  const auto same = [&](int other) {
    bool equal = kinds(layer) == kinds(other);
    for (const Role role : layer_roles)
      equal = equal && (!uses_role(plan, layer, role) || key_of(layer, role) == key_of(other, role));
    return equal;
  };
  int first = 0;
  while (!same(first)) ++first;
  return std::uint64_t(first);
}

template <class Tag>
inline constexpr int layer_count = int(Tag::plan.layers.size());

template <class Tag, int... L>
consteval auto classes_of(std::integer_sequence<int, L...>) { return meta::classes<layer_key(Tag::plan, L)...>(); }

/// class_of<Tag>.first[l]: the first layer of l's class, which stands for it.
template <class Tag>
inline constexpr auto class_of = classes_of<Tag>(std::make_integer_sequence<int, layer_count<Tag>>{});

template <class Tag>
consteval int site_count() {
  int n = 0;
  for_each_site(Tag::plan, [&n](const Site&) { ++n; });
  return n;
}

template <class Tag>
consteval int state_count() {
  int n = 0;
  for_each_state(Tag::plan, [&n](const StateSite&) { ++n; });
  return n;
}

/// Formats of all sites, then of all states: what a session compares with the model's.
template <class Tag>
consteval auto site_formats() {
  std::array<Precision, std::size_t(site_count<Tag>() + state_count<Tag>())> formats = {};
  std::size_t n = 0;
  for_each_site(Tag::plan, [&](const Site& site) { formats[n++] = site.precision; });
  for_each_state(Tag::plan, [&](const StateSite& site) { formats[n++].state = site.format; });
  return formats;
}

/// The linears of the plan by format, in a table that lacks all else.
template <class Tag>
inline constexpr KernelTable linears_of = [] {
  KernelTable t = {};
  [&t]<std::size_t... S>(std::index_sequence<S...>) {
    constexpr auto all = site_formats<Tag>();
    ((t.linear[int(codec_of(all[S]))][all[S].scheme.scale == Granularity::group][int(dot_kind_of(all[S]))] =
          &linear<codec_of(all[S]), all[S].scheme.scale == Granularity::group, dot_kind_of(all[S])>), ...);
  }(std::make_index_sequence<std::size_t(site_count<Tag>())>{});
  return t;
}();

/// Runs the linear of a precision that is a constant.
template <Precision P>
KLENS_INLINE void linear_of_precision(const LinearArgs& a) {
  linear<codec_of(P), P.scheme.scale == Granularity::group, dot_kind_of(P)>(a);
}

}  // namespace fixed

/// A layer of the class that layer `First` of the plan stands for; the index is run-time data.
template <int First>
struct LayerOf {
  int index;
  KLENS_INLINE constexpr operator int() const { return index; }
};

/// Any layer that owns its K and V, or any that does not: all that the attention heads depend on.
template <bool OwnKv>
struct KvLayerOf {
  int index;
  KLENS_INLINE constexpr operator int() const { return index; }
};

/// The head, where the decoder asks for a layer.
struct HeadSite {
  int index;
  KLENS_INLINE constexpr operator int() const { return index; }
};

/// Ops of decoder.hpp with shapes and formats of Tag::plan as constants: every switch below folds away, every call is direct.
template <class Tag>
struct FixedOps {
  static constexpr Precision head_precision = Tag::plan.shape.tied_head ? Tag::plan.embedding : Tag::plan.lm_head;

  KLENS_INLINE const Shape& shape() const { return Tag::plan.shape; }
  template <class Layer>
  KLENS_INLINE int window(Layer l) const { return Tag::plan.layers[std::size_t(l.index)].window; }
  /// The layer itself, or -1 for another's: the decoder asks for no more.
  template <int First>
  KLENS_INLINE int kv_source(LayerOf<First> l) const { return owns_kv(Tag::plan.layers, First) ? l.index : -1; }
  template <bool OwnKv>
  KLENS_INLINE int kv_source(KvLayerOf<OwnKv> l) const { return OwnKv ? l.index : -1; }

  KLENS_INLINE bool widens_a8() const { return !has_dot_u8; }

  template <int First>
  KLENS_INLINE Precision precision(LayerOf<First>, Role role, const SiteView&) const {
    return precision_of(Tag::plan.layers[std::size_t(owner_of(Tag::plan.layers, First, role))], role);
  }
  KLENS_INLINE Precision precision(HeadSite, Role, const SiteView&) const { return head_precision; }
  KLENS_INLINE Precision precision(decoder::ExpertOf, Role, const SiteView& site) const { return site.w.precision; }

  template <int First, class F>
  KLENS_INLINE void with_mixer(LayerOf<First>, const F& f) const {
    constexpr Mixer mixer = Tag::plan.layers[First].mixer;
    if constexpr (mixer != Mixer::none) f(std::integral_constant<Mixer, mixer>{});
  }
  template <int First, class F>
  KLENS_INLINE void with_ffn(LayerOf<First>, const F& f) const {
    constexpr Ffn ffn = Tag::plan.layers[First].ffn;
    if constexpr (ffn != Ffn::none) f(std::integral_constant<Ffn, ffn>{});
  }

  /// Linears that the layer lacks are not asked for, nor instantiated.
  template <int First>
  KLENS_INLINE void linear(LayerOf<First>, Role role, const SiteView&, const LinearArgs& a) const {
    [&]<int... R>(std::integer_sequence<int, R...>) KLENS_INLINE_LAMBDA {
      (linear_at<First, Role(R)>(role, a), ...);
    }(std::make_integer_sequence<int, role_count>{});
  }
  template <int First, Role R>
  KLENS_INLINE void linear_at(Role role, const LinearArgs& a) const {
    if constexpr (uses_role(Tag::plan, First, R))
      if (role == R) fixed::linear_of_precision<precision_of(Tag::plan.layers[std::size_t(owner_of(Tag::plan.layers, First, R))], R)>(a);
  }
  KLENS_INLINE void linear(HeadSite, Role, const SiteView&, const LinearArgs& a) const {
    fixed::linear_of_precision<head_precision>(a);
  }

  KLENS_INLINE void linear(decoder::ExpertOf, Role, const SiteView& site, const LinearArgs& a) const {
    linear_of(fixed::linears_of<Tag>, site.w.precision)(a);
  }

  // embed looks up in one format; the table's kernel has all.
#define KLENS_ENTRY(name, Args)                                             \
  KLENS_INLINE void name(const Args& a) const {                             \
    if constexpr (std::is_same_v<Args, EmbedArgs>) embed_rows(a);           \
    else klens::name(a);                                                    \
  }
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
  KLENS_INLINE void embed_rows(const EmbedArgs& a) const {
    embed_detail::lookup<Tag::plan.embedding.weight_bits, Tag::plan.embedding.scheme.grid>(a);
  }
};

template <class Tag, bool OwnKv>
KLENS_NOINLINE void attention_heads(const Pass& pass, int layer, const InColumns& columns) {
  run_attention(FixedOps<Tag>{}, KvLayerOf<OwnKv>{layer}, columns, pass);
}

/// More special than the decoder's own run_attention: all classes of layers share two copies of it.
template <class Tag, int First>
KLENS_INLINE void run_attention(const FixedOps<Tag>&, LayerOf<First> l, const InColumns& columns, const Pass& pass) {
  attention_heads<Tag, owns_kv(Tag::plan.layers, First)>(pass, l.index, columns);
}

/// The three steps of a pass for one plan on this unit's level. Explicitly instantiated by each generated unit.
template <class Tag>
struct FixedProgram {
  static constexpr auto formats = fixed::site_formats<Tag>();
  static constexpr int layer_count = fixed::layer_count<Tag>;

  static void embed(const Pass& pass) { run_embed(FixedOps<Tag>{}, pass); }

  /// One body per class of layers, shared by all layers of the class.
  template <int First>
  KLENS_NOINLINE static void layer(const Pass& pass, int index) { run_layer(FixedOps<Tag>{}, LayerOf<First>{index}, pass); }

  static void layers(const Pass& pass, int begin, int end) {
    [&]<int... L>(std::integer_sequence<int, L...>) {
      ((L >= begin && L < end ? layer<fixed::class_of<Tag>.first[std::size_t(L)]>(pass, L) : void()), ...);
    }(std::make_integer_sequence<int, layer_count>{});
  }

  static void head(const Pass& pass, int begin, int end, float* logits, std::int64_t stride) {
    run_head(FixedOps<Tag>{}, HeadSite{layer_count}, pass, begin, end, logits, stride);
  }

  /// A KernelTable of the formats that the plan uses.
  static constexpr KernelTable kernels(Level level) {
    KernelTable t = fixed::linears_of<Tag>;
    t.level = level;
#define KLENS_ENTRY(name, Args) t.name = &FixedProgram::name##_entry;
    KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
    return t;
  }
#define KLENS_ENTRY(name, Args) \
  static void name##_entry(const Args& a) { FixedOps<Tag>{}.name(a); }
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
};

/// The table a unit exports.
template <class Tag>
consteval SpecialisedTable specialised_table(Level level, const char* name) {
  using P = FixedProgram<Tag>;
  SpecialisedTable t;
  t.level = level, t.name = name, t.shape_hash = shape_hash(Tag::plan), t.linear_bytes = linear_bytes(Tag::plan);
  t.layer_classes = fixed::class_of<Tag>.count, t.sites = fixed::site_count<Tag>(), t.formats = P::formats.data();
  t.kernels = P::kernels(level), t.embed = &P::embed, t.layers = &P::layers, t.head = &P::head;
  return t;
}

}  // namespace klens::inline KLENS_NS
