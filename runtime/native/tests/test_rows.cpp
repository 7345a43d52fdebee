// scores.csv and scores.jsonl. tests/runtime/test_cpp_core.py compares whole files with Python's.

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>

#include <sys/resource.h>

#include "expect.hpp"
#include "temporary_folder.hpp"
#include "vad/rows.hpp"

namespace {

vad::ScoredFrame scored(std::int64_t index, double pts_s, double raw, double score) {
  return {index, pts_s, raw, score, true, "scored"};
}

const vad::ScoredFrame unscored = {7, 0.28, {}, {}, false, "warm-up"};

void a_row_has_nine_digits_in_csv_and_all_of_them_in_json() {
  const auto frame = scored(3, 0.12, 0.1, 1.0 / 3);
  EXPECT(vad::csv_row(frame) == "3,0.120000,0.1,0.333333333,1,scored");
  EXPECT(vad::json_row(frame) ==
         R"({"frame":3,"time_s":0.12,"raw":0.1,"score":0.3333333333333333,"alarm":true,)"
         R"("status":"scored"})");
  EXPECT(vad::csv_row(scored(0, 0.0, 1e-9, 123456789012.0)) ==
         "0,0.000000,1e-09,1.23456789e+11,1,scored");
}

void a_frame_without_a_score_has_empty_fields() {
  EXPECT(vad::csv_row(unscored) == "7,0.280000,,,0,warm-up");
  EXPECT(vad::json_row(unscored) ==
         R"({"frame":7,"time_s":0.28,"raw":null,"score":null,"alarm":false,"status":"warm-up"})");
}

void rows_are_on_disk_before_the_files_are_closed() {
  const TemporaryFolder folder;
  vad::RowWriter rows(folder.path());
  EXPECT(content_of(folder / "scores.csv") == "frame,time_s,raw,score,alarm,status\n");
  rows.write(unscored);
  EXPECT(holds(content_of(folder / "scores.csv"), "warm-up\n"));
  EXPECT(holds(content_of(folder / "scores.jsonl"), "\"warm-up\"}\n"));
  rows.close();
  rows.close();
  EXPECT(content_of(folder / "scores.csv") ==
         vad::csv_header() + "\n" + vad::csv_row(unscored) + "\n");
  EXPECT(content_of(folder / "scores.jsonl") == vad::json_row(unscored) + "\n");
}

void scores_that_are_there_already_stay_as_they_are() {
  for (const char* name : {"scores.csv", "scores.jsonl"}) {
    const TemporaryFolder folder;
    write_file(folder / name, "precious");
    EXPECT(error_of([&] { vad::RowWriter rows(folder.path()); }) ==
           folder / name + " exists already. Remove it or choose another folder.");
    EXPECT(content_of(folder / name) == "precious");
    const std::filesystem::directory_iterator files(folder.path());
    EXPECT(std::distance(begin(files), end(files)) == 1);  // and nothing new beside them
  }
}

void a_folder_that_is_not_there_is_an_error() {
  EXPECT(holds(error_of([] { vad::RowWriter rows("/nowhere/at/all"); }),
               "/nowhere/at/all/scores.csv cannot be written (No such file or directory). Check"));
}

void a_full_disk_is_an_error_of_the_row_that_found_it_full() {
  const TemporaryFolder folder;
  vad::RowWriter rows(folder.path());
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 50;  // the header and half a row
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { rows.write(unscored); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT(holds(error, "scores.csv cannot be written (File too large)"));
  rows.close();
  EXPECT(content_of(folder / "scores.csv") == vad::csv_header() + "\n");  // no half of a row
}

}  // namespace

int main() {
  a_row_has_nine_digits_in_csv_and_all_of_them_in_json();
  a_frame_without_a_score_has_empty_fields();
  rows_are_on_disk_before_the_files_are_closed();
  scores_that_are_there_already_stay_as_they_are();
  a_folder_that_is_not_there_is_an_error();
  a_full_disk_is_an_error_of_the_row_that_found_it_full();
  std::puts("rows: all expectations hold");
}
