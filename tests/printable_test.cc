#include "base/printable.h"

#include <gtest/gtest.h>

#include "kineograph/error.h"

namespace kineograph {
namespace {

TEST(Printable, LeavesTextsAsTheyAre) {
  for (const char* text : {"", "plain", "Zürich, 東京, \xf0\x9f\x8e\x9e", "a.b_c-d/e:f"})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, TakesAwayWhatMovesATerminal) {
  EXPECT_EQ(printable("a\x1b[31mb"), "a?[31mb");
  EXPECT_EQ(printable("a\nkineograph: error"), "a kineograph: error");
  EXPECT_EQ(printable("a\r\tb\x7f"), "a  b?");
  EXPECT_EQ(printable("a\xc2\x9b"
                      "31m"),
            "a?31m");  // C1, as UTF-8
  EXPECT_EQ(printable("a\x9b"
                      "31m"),
            "a?31m");  // and as a byte of its own
  EXPECT_EQ(printable("a\xe2\x80\xae"
                      "b"),
            "a?b");  // right to left from here
  EXPECT_EQ(printable("a\xe2\x80\xa8"
                      "b"),
            "a?b");  // a line separator
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a?b");
}

TEST(Printable, TakesAwayWhatIsNoUtf8) {
  EXPECT_EQ(printable("\xff\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xe6\x9d"), std::string(12, '?'));
}

TEST(Printable, CutsLongTextsOffBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 3), "abc... (3 bytes more)");
  EXPECT_EQ(printable("ab\xc3\xbc"
                      "d",
                      3),
            "ab... (3 bytes more)");
}

TEST(Printable, ErrorsAreOneLine) {
  const FormatError error("a\nb", "c\x1b", std::string(100000, 'x'), "d\n");
  EXPECT_EQ(std::string(error.what()).find_first_of("\n\x1b"), std::string::npos);
  EXPECT_LT(std::string(error.what()).size(), 3000u);
  EXPECT_EQ(error.where(), "a\nb");
  EXPECT_EQ(error.found().size(), 100000u);
}

}  // namespace
}  // namespace kineograph
