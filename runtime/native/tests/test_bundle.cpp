// Bundle and sha256.

#include <filesystem>
#include <string>

#include "expect.hpp"
#include "temporary_folder.hpp"
#include "vad/bundle.hpp"

namespace {

using vad::Bundle;

const std::string abc_sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

void write_bundle(const TemporaryFolder& folder, const std::string& file = "model.onnx") {
  write_file(folder / "model.onnx", "abc");
  write_file(folder / "manifest.json",
             R"({"schema": 1, "family": "f", "name": "n", "clip": {"frames": 2, "height": 4,)"
             R"( "width": 4}, "score": {"per": "clip", "form": "x"}, "artefacts": {"fp32": {)"
             R"("file": ")" + file + R"(", "sha256": ")" + abc_sha256 +
             R"(", "bytes": 3, "format": "onnx", "precision": "fp32"}}})");
}

std::string refusal(const std::string& path, bool verify = true) {
  return error_of([&] { Bundle::open(path, verify); });
}

// The examples of FIPS 180-4 and lengths around the ends of blocks.
void sha256_gives_the_published_digests() {
  const TemporaryFolder folder;
  const auto digest = [&](const std::string& content) {
    write_file(folder / "file", content);
    return vad::sha256_of_file(folder / "file");
  };
  EXPECT(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT(digest("abc") == abc_sha256);
  EXPECT(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT(digest(std::string(1000000, 'a')) ==
         "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT(digest(std::string(55, 'a')) ==
         "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT(digest(std::string(64, 'a')) ==
         "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  EXPECT(holds(error_of([&] { vad::sha256_of_file(folder / "nothing"); }), "cannot be read"));
  EXPECT(holds(error_of([&] { vad::sha256_of_file(folder.path()); }), "cannot be read"));
}

void a_whole_bundle_opens() {
  const TemporaryFolder folder;
  write_bundle(folder);
  const Bundle bundle = Bundle::open(folder.path() + "//./");
  EXPECT(bundle.path() == folder.path());
  EXPECT(bundle.name() == std::filesystem::path(folder.path()).filename());
  const auto& artefact = bundle.manifest().artefacts.at(0).second;
  EXPECT(bundle.file(artefact) == folder / "model.onnx");
}

void a_changed_file_is_refused_unless_nobody_asks() {
  const TemporaryFolder folder;
  write_bundle(folder);
  write_file(folder / "model.onnx", "abd");
  EXPECT(holds(refusal(folder.path()), "model.onnx was changed or damaged"));
  EXPECT(refusal(folder.path(), false) == "no error");
  write_file(folder / "model.onnx", "abcd");
  EXPECT(holds(refusal(folder.path()), "has 4 bytes, the manifest says 3"));
  std::filesystem::remove(folder / "model.onnx");
  EXPECT(holds(refusal(folder.path()), "is missing from the bundle"));
}

void a_file_outside_the_folder_is_refused_in_any_case() {
  const TemporaryFolder folder;
  for (const char* name : {"../x", "/etc/passwd", "..", ".", "", "a/b", "x/", R"(a\\b)",
                           R"(model.onnx\u0000)"}) {
    write_bundle(folder, name);
    EXPECT(holds(refusal(folder.path(), false), "leaves the bundle folder"));
  }
  write_bundle(folder);
  std::filesystem::rename(folder / "model.onnx", folder / "elsewhere");
  std::filesystem::create_symlink(folder / "elsewhere", folder / "model.onnx");
  EXPECT(holds(refusal(folder.path(), false), "leaves the bundle folder"));
}

void what_is_no_bundle_is_refused() {
  const TemporaryFolder folder;
  write_file(folder / "file", "");
  EXPECT(holds(refusal(folder / "nothing"), "does not exist. Make one with"));
  EXPECT(holds(refusal(folder / "file"), "is a file, not a bundle folder"));
  EXPECT(holds(refusal(folder.path()), "holds no manifest.json, so it is not a bundle"));
  std::filesystem::create_directory(folder / "manifest.json");
  EXPECT(holds(refusal(folder.path()), "manifest.json cannot be read (Is a directory)"));
}

}  // namespace

int main() {
  sha256_gives_the_published_digests();
  a_whole_bundle_opens();
  a_changed_file_is_refused_unless_nobody_asks();
  a_file_outside_the_folder_is_refused_in_any_case();
  what_is_no_bundle_is_refused();
  std::puts("bundle: all expectations hold");
}
