"""Builds native/_*.pyx, each into the extension native._<name>; metadata is in pyproject.toml.

native/_grpc.pyx needs the headers of libnghttp2, found by pkg-config. Without them it is left out,
and the service answers through grpc.aio.

PROMISE_NATIVE_DEBUG=1 gives the checked build: bounds, wrap-around, initialization and
overflow are checked, so a broken limit raises instead of corrupting.
"""

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import Extension, setup

RELEASE_DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}
CHECKED_DIRECTIVES = {
    "language_level": 3,
    "boundscheck": True,
    "wraparound": True,
    "cdivision": True,
    "initializedcheck": True,
    "overflowcheck": True,
}


def native_extensions() -> list[Extension]:
    """Return one extension per native/_*.pyx; an empty list needs no Cython and no compiler."""
    sources = sorted(Path("native").glob("_*.pyx"))
    if not sources:
        return []
    from Cython.Build import cythonize  # noqa: PLC0415 - absent where nothing is compiled

    checked = os.environ.get("PROMISE_NATIVE_DEBUG") == "1"
    # Distances must round as Python rounds them: no multiply-add in one.
    flags = {
        "_grpc": nghttp2_flags(),
        "_sourcing": {"extra_compile_args": ["-ffp-contract=off"]},
    }
    if flags["_grpc"] is None:
        print("native/_grpc.pyx is left out: pkg-config finds no libnghttp2 (libnghttp2-dev)")
        sources = [source for source in sources if source.stem != "_grpc"]
    return cythonize(
        [
            Extension(f"native.{source.stem}", [str(source)], **(flags.get(source.stem) or {}))
            for source in sources
        ],
        compiler_directives=CHECKED_DIRECTIVES if checked else RELEASE_DIRECTIVES,
        force=mode_changed("checked" if checked else "release"),
    )


def nghttp2_flags() -> dict[str, list[str]] | None:
    """Return how to compile against libnghttp2, or None where its headers are missing."""
    command = ["pkg-config", "libnghttp2 >= 1.41", "--cflags", "--libs"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    flags = shlex.split(found.stdout)
    return {
        "extra_compile_args": [flag for flag in flags if not flag.startswith("-l")],
        "extra_link_args": [flag for flag in flags if flag.startswith("-l")],
    }


def mode_changed(mode: str) -> bool:
    """Tell whether the C files were made in another mode, and remember this one.

    Directives are no part of Cython's freshness test: without force the old C file, made under
    the other directives, is reused silently.
    """
    record = Path("build") / "native-mode"
    if record.exists() and record.read_text() == mode:
        return False
    record.parent.mkdir(exist_ok=True)
    record.write_text(mode)
    return True


setup(ext_modules=native_extensions())
