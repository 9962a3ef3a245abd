// engine_test.cc on this machine's device. Exit code 77: there is none.
#include <gtest/gtest.h>

#include <cstdio>

#include "engine/engine.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (kineograph::engine::cuda_engine() != nullptr) return RUN_ALL_TESTS();
  std::fprintf(stderr, "skipped: %s\n", kineograph::engine::why_no_cuda().c_str());
  return 77;
}
