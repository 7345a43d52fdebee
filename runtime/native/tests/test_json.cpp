// Json: strict reading, and writing as msgspec writes. tests/runtime/test_cpp_core.py compares both
// with msgspec on random texts.

#include <clocale>
#include <cstdint>
#include <limits>
#include <string>

#include "expect.hpp"
#include "vad/json.hpp"

namespace {

using vad::Json;

std::string again(const std::string& text, int indent = 0) {
  return Json::parse(text).dump(indent);
}

std::string refusal(const std::string& text) {
  return error_of([&] { Json::parse(text); });
}

void every_kind_of_value_is_read() {
  const Json json = Json::parse(R"( {"a": [1, -2.5, "x", true, false, null], "b": {"c": 0}} )");
  const Json::Array& items = *json.find("a")->as_array();
  EXPECT(*items[0].as_int() == 1);
  EXPECT(*items[1].as_double() == -2.5);
  EXPECT(*items[2].as_string() == "x");
  EXPECT(*items[3].as_bool() && !*items[4].as_bool());
  EXPECT(items[5].is_null());
  EXPECT(*json.find("b")->find("c")->as_int() == 0);
  EXPECT(json.find("c") == nullptr);
  EXPECT(items[0].find("c") == nullptr);
}

void a_whole_number_stays_one_as_long_as_64_bits_hold_it() {
  EXPECT(*Json::parse("9223372036854775807").as_int() == std::numeric_limits<std::int64_t>::max());
  EXPECT(*Json::parse("-9223372036854775808").as_int() == std::numeric_limits<std::int64_t>::min());
  EXPECT(*Json::parse("9223372036854775808").as_double() == 9223372036854775808.0);
  EXPECT(*Json::parse("-9223372036854775809").as_double() == -9223372036854775808.0);
  EXPECT(*Json::parse("-0").as_int() == 0);
  EXPECT(Json::parse("1e2").as_int() == nullptr);
}

void a_number_beyond_every_double_is_refused() {
  for (const char* text : {"1e309", "-1e309", "1.7976931348623159e308"}) {
    EXPECT(holds(refusal(text), "number out of range (byte 0)"));
  }
  EXPECT(holds(refusal(std::string(400, '1')), "number out of range"));
  EXPECT(*Json::parse("1.7976931348623158e308").as_double() ==
         std::numeric_limits<double>::max());
  EXPECT(*Json::parse("1e-400").as_double() == 0.0);
}

void what_is_no_json_is_refused_with_the_place() {
  EXPECT(holds(refusal("[1,]"), "trailing comma in array (byte 3)"));
  EXPECT(holds(refusal("{\"a\":1,}"), "trailing comma in object (byte 7)"));
  EXPECT(holds(refusal("1 2"), "trailing characters (byte 2)"));
  EXPECT(holds(refusal("{1:2}"), "object keys must be strings (byte 1)"));
  for (const char* text : {"", " ", "[", "{", "\"", "nul", "{\"a\"", "[1", "\"\\u12", "-"}) {
    EXPECT(refusal(text) == "JSON ends in the middle");
  }
  for (const char* text : {"01", "1.x", ".5", "1ex", "+1", "NaN", "Infinity", "nulx", "[1 2]",
                           "{\"a\" 1}", "'a'", "\"\\x\"", "\"\\u12G4\"", "\"\t\"", "\v1", "[}",
                           "{,}", "// a\n1", "\xEF\xBB\xBF" "1"}) {
    EXPECT(holds(refusal(text), "JSON is malformed: "));
  }
}

void text_that_is_no_utf_8_is_refused() {
  for (const char* text : {"\"\xFF\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                           "\"\xF0\x8F\xBF\xBF\"", "\"a\xC3\"", "\"\xE2\x82\"", "{\"\x80\":1}"}) {
    EXPECT(holds(refusal(text), "invalid UTF-8"));
  }
  for (const char* text : {R"("\ud800")", R"("\ud800x")", R"("\ud800\u0041")", R"("\udc00")"}) {
    EXPECT(holds(refusal(text), "surrogate"));
  }
}

void escapes_become_utf_8() {
  EXPECT(*Json::parse(R"("\u0041\u00e9\u20AC\ud83d\ude00\"\\\/\b\f\n\r\t")").as_string() ==
         "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"\\/\b\f\n\r\t");
  EXPECT(*Json::parse(R"("\u0000")").as_string() == std::string(1, '\0'));
}

void a_name_that_comes_twice_keeps_its_first_place_and_its_last_value() {
  EXPECT(again(R"({"a":1,"b":2,"a":3,"\u0061":4})") == R"({"a":4,"b":2})");
}

void more_than_512_levels_are_refused() {
  EXPECT(refusal(std::string(512, '[') + std::string(512, ']')) == "no error");
  EXPECT(holds(refusal(std::string(513, '[') + std::string(513, ']')), "512 levels (byte 512)"));
  EXPECT(holds(refusal(std::string(1000000, '[')), "512 levels"));
}

void doubles_are_written_in_the_fewest_digits() {
  for (const char* text : {"1.0", "0.1", "-0.0", "0.00001", "1e-6", "1.234e-7", "1e16", "1.5e300",
                           "1000000000000000.0", "123.456", "5e-324", "2.2250738585072014e-308",
                           "1.7976931348623157e308", "0.30000000000000004"}) {
    EXPECT(again(text) == text);
  }
  EXPECT(Json(5.684341886080802e-14).dump() == "5.684341886080802e-14");  // 2 to the power of -44
  EXPECT(Json(std::numeric_limits<double>::quiet_NaN()).dump() == "null");
  EXPECT(Json(-std::numeric_limits<double>::infinity()).dump() == "null");
}

void strings_are_written_so_that_they_can_be_read() {
  EXPECT(again(R"("\u0000\u001f\u007f\"\\\/\n\u00e9")") ==
         "\"\\u0000\\u001f\x7F\\\"\\\\/\\n\xC3\xA9\"");
  EXPECT(Json("a\xFFz").dump() == "\"a\xEF\xBF\xBDz\"");  // a path may be no text
}

void an_indent_gives_each_member_a_line() {
  EXPECT(again(R"({"a":[],"b":{},"c":[1,{"d":2}]})", 2) ==
         "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": 2\n    }\n  ]\n}");
}

void the_locale_of_the_program_does_not_matter() {
  // Not every machine has a locale with a decimal comma; where there is none, nothing is shown.
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"}) {
    if (std::setlocale(LC_ALL, name) == nullptr) continue;
    EXPECT(again("[0.5,1e-7,123.25]") == "[0.5,1e-7,123.25]");
    std::setlocale(LC_ALL, "C");
    return;
  }
  std::puts("json: no locale with a decimal comma here");
}

void an_error_is_one_line() {
  EXPECT(vad::Error("a\n\tb\x1B[31m\x7F\xC2\x9B\xE2\x80\xA8z\xC3\xA9").what() ==
         std::string("a b [31m z\xC3\xA9"));
  EXPECT(vad::Error(std::string("a\0b", 3)).what() == std::string("a b"));
}

}  // namespace

int main() {
  every_kind_of_value_is_read();
  a_whole_number_stays_one_as_long_as_64_bits_hold_it();
  a_number_beyond_every_double_is_refused();
  what_is_no_json_is_refused_with_the_place();
  text_that_is_no_utf_8_is_refused();
  escapes_become_utf_8();
  a_name_that_comes_twice_keeps_its_first_place_and_its_last_value();
  more_than_512_levels_are_refused();
  doubles_are_written_in_the_fewest_digits();
  strings_are_written_so_that_they_can_be_read();
  an_indent_gives_each_member_a_line();
  the_locale_of_the_program_does_not_matter();
  an_error_is_one_line();
  std::puts("json: all expectations hold");
}
