// qtensor.hpp: what the type promises at compile time, views, owners.
#include <klens/format/qtensor.hpp>
#include <klens/quant/rtn.hpp>

#include "../support/weights.hpp"

#include <doctest/doctest.h>

#include <type_traits>

using namespace klens;

// Bytes and bits are constants of the type.
static_assert(QTensor<8, per_row()>::bits_per_value == 8);
static_assert(QTensor<4, groups_of(64)>::bits_per_value == 4.25 && QTensor<3, groups_of(128)>::bits_per_value == 3.125);
static_assert(QTensor<4, nf4_groups_of(64)>::bits_per_value == 4.25 &&
              QTensor<16, floats(Grid::bf16)>::bits_per_value == 16);
static_assert(QTensor<3, groups_of(32)>::bytes(16, 2048) == 16 * 2048 * 7 / 16);
static_assert(QTensor<6, per_row()>::bytes(17, 44) == 2 * 2 * 6 * 64 + 2 * 64);  // two panels, two units of six lines
static_assert(std::is_trivially_copyable_v<QTensor<4, groups_of(32)>> && sizeof(QTensor<4, groups_of(32)>) == 24);

// What has no layout is no type.
template <int Bits, Scheme S>
concept HasTensor = requires {
  typename QTensor<Bits, S>;
};
static_assert(HasTensor<2, groups_of(128)> && HasTensor<32, floats(Grid::f32)>);
static_assert(!HasTensor<7, per_row()> && !HasTensor<4, groups_of(48)> && !HasTensor<8, floats(Grid::f16)>);
static_assert(!HasTensor<4, Scheme{Grid::uniform, Granularity::group, 32, true}> && !HasTensor<1, per_row()>);

TEST_CASE("format: the type's bytes equal the owner's") {
  const test::Matrix w = test::weights(80, 528, 4);
  const auto check = [&]<int Bits, Scheme S>(std::integral_constant<int, Bits>, std::integral_constant<Scheme, S>) {
    const auto q = quantize<Bits, S>(w.view());
    REQUIRE(q);
    CHECK(q->bytes() == QTensor<Bits, S>::bytes(80, 528));
    CHECK(q->view().rows() == 80);
    CHECK(q->view().cols() == 528);
    CHECK(q->matrix(Activation::a8).precision == Precision{Bits, S, Activation::a8, State::f32});
    const auto view = QTensor<Bits, S>::view(q->packed().lines(), q->packed().scales(), 80, 528);
    REQUIRE(view);
    CHECK(view->lines() == q->view().lines());
    CHECK(view->scales() == q->view().scales());
    CHECK(!QTensor<Bits, S>::view(q->packed().lines(), q->packed().scales(), 80, 528 + 128));  // beyond any padding
    CHECK(!QTensor<Bits, S>::view(q->packed().lines(), q->packed().scales(), 81, 528));
  };
  check(std::integral_constant<int, 8>{}, std::integral_constant<Scheme, per_row()>{});
  check(std::integral_constant<int, 6>{}, std::integral_constant<Scheme, groups_of(64)>{});
  check(std::integral_constant<int, 5>{}, std::integral_constant<Scheme, per_row()>{});
  check(std::integral_constant<int, 4>{}, std::integral_constant<Scheme, nf4_groups_of(32)>{});
  check(std::integral_constant<int, 3>{}, std::integral_constant<Scheme, groups_of(128)>{});
  check(std::integral_constant<int, 2>{}, std::integral_constant<Scheme, groups_of(32)>{});
  check(std::integral_constant<int, 16>{}, std::integral_constant<Scheme, floats(Grid::f16)>{});
  check(std::integral_constant<int, 32>{}, std::integral_constant<Scheme, floats(Grid::f32)>{});
}

TEST_CASE("format: a QTensor does not look at bytes of another format") {
  const test::Matrix w = test::weights(16, 64, 4);
  auto packed = quantize_rtn(*parse_format("w4g32"), w.view());
  REQUIRE(packed);
  CHECK(QTensor<4, groups_of(32)>::view(packed->matrix()));
  CHECK(QTensor<4, groups_of(64)>::view(packed->matrix()).error().message() == "QTensor: expected w4g64, found w4g32");
  CHECK(QTensor<4, nf4_groups_of(32)>::view(packed->matrix()).error().message() ==
        "QTensor: expected nf4g32, found w4g32");
  CHECK(QBuffer<8, per_row()>::from(*std::move(packed)).error().code == ErrorCode::format);
  CHECK(QBuffer<4, groups_of(32)>::from(PackedBuffer()).error().message() ==
        "QBuffer: expected a packed matrix, found an empty buffer");
}

TEST_CASE("format: a QBuffer that moves keeps its view valid") {
  const test::Matrix w = test::weights(33, 48, 4);
  auto first = quantize<4, groups_of(32)>(w.view());
  REQUIRE(first);
  test::Matrix a = test::matrix(33, 48), b = a;
  unpack(first->matrix(), a.view());
  const auto second = *std::move(first);
  unpack(second.matrix(), b.view());
  CHECK(a.data == b.data);
  CHECK(second.view().lines() == second.packed().matrix().lines);
}
