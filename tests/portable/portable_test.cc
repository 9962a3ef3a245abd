// Behaviour that differs without Linux's own calls.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "base/cores.h"
#include "base/mapped_file.h"
#include "base/program_path.h"
#include "folder.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

class PortableTest : public FolderTest {
 protected:
  PortableTest() { std::ofstream(folder_ / "file") << "as it was"; }
};

// A map would change with the file, or end the process: what is read here is memory of the process's own.
TEST_F(PortableTest, AFileIsReadAtOnce) {
  const checkpoint::MappedFile file(folder_ / "file");
  fs::resize_file(folder_ / "file", 0);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()), "as it was");
  file.release(file.bytes());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()), "as it was");
  EXPECT_THROW(file.check_unchanged(), IoError);
  EXPECT_STREQ(checkpoint::mapped_file_at(file.bytes().data() + 3), (folder_ / "file").c_str());
}

TEST_F(PortableTest, AnEmptyFileIsEmpty) {
  fs::resize_file(folder_ / "file", 0);
  EXPECT_TRUE(checkpoint::MappedFile(folder_ / "file").bytes().empty());
}

TEST_F(PortableTest, WhatTheSystemDoesNotTellIsSaid) {
  std::error_code error;
  EXPECT_TRUE(program_path(error).empty());
  EXPECT_EQ(error, std::errc::function_not_supported);
  EXPECT_GE(available_cores(), 1);
}

}  // namespace
}  // namespace kineograph
