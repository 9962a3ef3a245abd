// Assertions: where they are on, a condition that does not hold ends the process and says where.
#undef KINEOGRAPH_ASSERTIONS
#define KINEOGRAPH_ASSERTIONS
#include "base/assert.h"

#include <gtest/gtest.h>

namespace kineograph {
namespace {

TEST(Assert, EndsTheProcessAndSaysWhere) {
  const int rows = 3;
  KINEOGRAPH_ASSERT(rows == 3);
  EXPECT_DEATH(KINEOGRAPH_ASSERT(rows % 2 == 0), "assert_test.cc:.*rows % 2 == 0");
}

TEST(Assert, KnowsWhatIsAligned) {
  alignas(64) const char line[128] = {};
  EXPECT_TRUE(is_aligned(line + 64, 64));
  EXPECT_FALSE(is_aligned(line + 4, 64));
  EXPECT_TRUE(is_aligned(line + 4, 4));
}

}  // namespace
}  // namespace kineograph
