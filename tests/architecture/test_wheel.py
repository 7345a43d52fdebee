"""The wheel holds exactly what wheel_contents.txt lists: adding a file is a conscious act.

To renew the list after adding or removing a file of a package::

    python tests/architecture/test_wheel.py --write
"""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("wheel_contents.txt")
PACKAGES = [
    "runtime/vad_runtime",
    "calibration/vad_calibration",
    "export/vad_export",
    "training/vad_training",
]
NATIVE = "vad_runtime/_native*.so"
DIST_INFO = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"]


def contents_from_tree() -> list[str]:
    """What a native wheel of this tree should hold, in the form of wheel_contents.txt."""
    files = [
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    ]
    return sorted([*files, NATIVE, *(f"*.dist-info/{name}" for name in DIST_INFO)])


def contents_from_wheel(wheel: Path) -> list[str]:
    """What the wheel holds; version and Python tags are replaced by `*`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    names = [re.sub(r"^[^/]+\.dist-info/", "*.dist-info/", name) for name in names]
    return sorted(re.sub(r"/_native\.[^/]+\.so$", "/_native*.so", name) for name in names)


def wheel_from_tree(folder: Path, *settings: str) -> Path:
    """Build without isolation, so without the network, and outside of the tree's build folder."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder)]
    for setting in (f"build-dir={folder}/build", *settings):
        command += [f"--config-settings={setting}"]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def listed() -> list[str]:
    return LIST.read_text().splitlines()


def test_every_file_of_a_package_is_listed() -> None:
    assert contents_from_tree() == listed(), f"renew the list with: python {__file__} --write"


def test_every_package_says_that_it_is_typed() -> None:
    assert [name for name in listed() if name.endswith("py.typed")] == sorted(
        f"{Path(package).name}/py.typed" for package in PACKAGES
    )


def test_the_pure_wheel_holds_exactly_the_listed_files(tmp_path: Path) -> None:
    wheel = wheel_from_tree(tmp_path, "wheel.cmake=false")
    assert contents_from_wheel(wheel) == [name for name in listed() if name != NATIVE]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there are native parts for Linux only")
@pytest.mark.skipif(
    not any(map(shutil.which, ["c++", "g++", "clang++"])), reason="there is no C++ compiler"
)
def test_the_native_wheel_holds_the_extension_too(tmp_path: Path) -> None:
    assert contents_from_wheel(wheel_from_tree(tmp_path)) == listed()


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python {sys.argv[0]} --write")
    LIST.write_text("\n".join(contents_from_tree()) + "\n")
    print(f"wrote {LIST}")  # noqa: T201 (a command's one line of answer)
