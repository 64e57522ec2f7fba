"""Builds native/_*.pyx, each into the extension native._<name>; metadata is in pyproject.toml.

PROMISE_NATIVE_DEBUG=1 gives the checked build: bounds, wrap-around, initialization and
overflow are checked, so a broken limit raises instead of corrupting.
"""

import os
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
    return cythonize(
        [Extension(f"native.{source.stem}", [str(source)]) for source in sources],
        compiler_directives=CHECKED_DIRECTIVES if checked else RELEASE_DIRECTIVES,
        force=mode_changed("checked" if checked else "release"),
    )


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
