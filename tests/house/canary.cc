#include <gtest/gtest.h>

TEST(Canary, Dies) { EXPECT_EQ(1, 2) << "this failure is wanted"; }
