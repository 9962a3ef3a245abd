// JSON values: held to nlohmann's, whose parser and digits they have, on texts of all kinds.
#include "base/json.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "calls.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

using Theirs = nlohmann::ordered_json;

/// A random text of JSON: `depth` levels at most, keys of an object different.
std::string random_json(std::mt19937& random, int depth) {
  static const char* const kValues[] = {"null",
                                        "true",
                                        "false",
                                        "0",
                                        "-1",
                                        "9223372036854775807",
                                        "18446744073709551615",
                                        "1.0",
                                        "-0.0",
                                        "1e-7",
                                        "0.1",
                                        "1e300",
                                        "12345678901234567890123",
                                        R"("")",
                                        R"("a\"\\\n\u0001")",
                                        R"("\u00e9 \ud83c\udf9e")",
                                        "\"\x7f é\""};
  const auto at_most = [&](unsigned n) { return static_cast<int>(random() % (n + 1)); };
  const int kind = depth == 0 ? 0 : at_most(3);
  if (kind < 2) return kValues[random() % std::size(kValues)];
  std::string text = kind == 2 ? "[" : "{";
  const int count = at_most(5);
  for (int i = 0; i < count; ++i) {
    if (i) text += ", ";
    if (kind == 3) text += "\"" + std::string(1, static_cast<char>('z' - i)) + "\": ";
    text += random_json(random, depth - 1);
  }
  return text + (kind == 2 ? "]" : "}");
}

std::string refusal(const std::string& text) {
  try {
    parse_json<FormatError>(text, "it");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(Json, IsReadAndWrittenAsByTheLibraryBelow) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = "{\"v\": " + random_json(random, 5) + "}";
    const Json ours = parse_json<FormatError>(text, "it");
    const Theirs theirs = Theirs::parse(text);
    for (const int indent : {-1, 0, 2}) ASSERT_EQ(ours.dump(indent), theirs.dump(indent)) << text;
    ASSERT_TRUE(parse_json<FormatError>(ours.dump(2), "it") == ours) << text;
  }
}

TEST(Json, ValuesAreOfTheirKindAndRange) {
  const Json json = parse_json<FormatError>(
      R"({"i": -3, "u": 18446744073709551615, "d": 2.5, "t": "x", "b": true, "n": null, "l": [1, 2], "m": [1, "x"]})",
      "it");
  EXPECT_EQ(json.find("i")->as<int>(), -3);
  EXPECT_EQ(json.find("i")->as<double>(), -3.0);
  EXPECT_EQ(json.find("i")->as<unsigned>(), std::nullopt);
  EXPECT_EQ(json.find("u")->as<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(json.find("u")->as<std::int64_t>(), std::nullopt);
  EXPECT_EQ(json.find("d")->as<int>(), std::nullopt);
  EXPECT_EQ(json.find("t")->as<std::string>(), "x");
  EXPECT_EQ(json.find("t")->as<bool>(), std::nullopt);
  EXPECT_EQ(json.find("b")->as<bool>(), true);
  EXPECT_EQ(json.find("b")->as<int>(), std::nullopt);
  EXPECT_TRUE(json.find("n")->is_null());
  EXPECT_EQ(json.find("l")->as<std::vector<int>>(), std::vector({1, 2}));
  EXPECT_EQ(json.find("m")->as<std::vector<int>>(), std::nullopt);
  EXPECT_EQ(json.find("none"), nullptr);
  EXPECT_EQ(json.find("i")->find("none"), nullptr);
  EXPECT_TRUE(Json(1) == Json(1.0) && Json(1u) == Json(1) && !(Json(1) == Json(2)) && !(Json(1) == Json("1")));
  EXPECT_THROW((member<int, FormatError>(json, "t", "it")), FormatError);
  EXPECT_THROW((member<int, FormatError>(json, "none", "it")), FormatError);
  EXPECT_THROW(Json("\xff").dump(), ArgumentError);
}

TEST(Json, RefusesWhatItCannotKeep) {
  const auto nested = [](int levels) {
    return "{\"a\": " + std::string(static_cast<std::size_t>(levels - 1), '[') +
           std::string(static_cast<std::size_t>(levels - 1), ']') + "}";
  };
  EXPECT_EQ(refusal(nested(16)), "");
  EXPECT_EQ(refusal(nested(17)), "it: expected nesting of at most 16 levels, found more");
  EXPECT_EQ(refusal(nested(1'000'000)), "it: expected nesting of at most 16 levels, found more");
  EXPECT_EQ(refusal(R"({"a": 1, "a": 2})"), "it: a: expected every key once, found it twice");
  EXPECT_EQ(refusal(R"({"b": [{"a": 1, "c": 3, "a": 2}]})"), "it: a: expected every key once, found it twice");
  EXPECT_EQ(refusal(R"({"a": 1e999})"), "it: expected JSON with numbers that a double can hold, found one beyond");
  EXPECT_EQ(refusal(R"({"a": 1} x)"), "it: expected JSON, found an error at byte 10");
  EXPECT_EQ(refusal(R"({"a": [1, )"), "it: expected JSON, found an error at byte 11");
  EXPECT_EQ(refusal(""), "it: expected JSON, found an error at byte 1");
  EXPECT_EQ(refusal("[1]"), "it: expected a JSON object, found a list");
  EXPECT_EQ(refusal("1"), "it: expected a JSON object, found a single value");
}

/// Time grows with the text, not with its square.
TEST(Json, ManyKeysTakeLittleTime) {
  std::string text = "{";
  constexpr int kMany = 1'000'000;
  for (int i = 0; i < kMany; ++i) text += "\"_" + std::to_string(i) + "\":1,";
  text.back() = '}';
  const testing::Deadline deadline(60);
  EXPECT_EQ(parse_json<FormatError>(text, "it").object()->size(), static_cast<std::size_t>(kMany));
}

}  // namespace
}  // namespace kineograph
