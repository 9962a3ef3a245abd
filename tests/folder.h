// Tests with a folder of their own.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace kineograph {

/// A test, plain or with a parameter, that has the folder while it lives.
template <class Test>
class InFolder : public Test {
 protected:
  InFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kineograph-test-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~InFolder() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};
using FolderTest = InFolder<::testing::Test>;

}  // namespace kineograph
