"""Generate ``promise_svc/v1`` from the protos beside this file.

``python protos/generate.py`` writes the package; ``--check`` changes nothing and fails when what is
committed differs from what would be written. Needs grpcio-tools and mypy-protobuf (extra ``dev``).
Takes under a second; works offline.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
PACKAGE = Path("promise_svc/v1")
TARGET = PROTO_ROOT.parent / PACKAGE
INIT = '"""Generated from protos/ by protos/generate.py; never edited by hand."""\n'


def generate(output: Path) -> None:
    """Write the whole package below ``output``; raises CalledProcessError when a proto is wrong."""
    sources = sorted(path.relative_to(PROTO_ROOT) for path in PROTO_ROOT.glob(f"{PACKAGE}/*.proto"))
    # protoc finds its plugins on PATH; those of this interpreter must win.
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    command += [f"--{kind}_out=quiet:{output}" for kind in ("mypy", "mypy_grpc")]
    command += [f"--{kind}_out={output}" for kind in ("python", "grpc_python")]
    command += [str(source) for source in sources]
    subprocess.run(command, cwd=PROTO_ROOT, env={**os.environ, "PATH": search_path}, check=True)
    for empty in (output / PACKAGE).glob("*_grpc.py*"):
        if not _holds_service(empty):
            empty.unlink()
    (output / PACKAGE / "__init__.py").write_text(INIT)


def _holds_service(generated: Path) -> bool:
    name = generated.name.split("_pb2")[0]
    return "\nservice " in (PROTO_ROOT / PACKAGE / f"{name}.proto").read_text()


def differences(fresh: Path) -> list[str]:
    """One line for each file of the package that is missing, left over or different."""
    wanted = {path.name: path.read_bytes() for path in fresh.iterdir()}
    present = {path.name: path.read_bytes() for path in TARGET.glob("*.py*") if path.is_file()}
    names = sorted(wanted.keys() | present.keys())
    return [
        f"{PACKAGE / name}: "
        + ("left over" if name not in wanted else "missing" if name not in present else "differs")
        for name in names
        if wanted.get(name) != present.get(name)
    ]


def install(fresh: Path) -> None:
    """Make the package in the tree equal to ``fresh``."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in TARGET.glob("*.py*"):
        path.unlink()
    for path in fresh.iterdir():
        shutil.copyfile(path, TARGET / path.name)


def main() -> int:
    """Generate, then compare or install; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE
        if not check:
            install(fresh)
            return 0
        found = differences(fresh)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("run `make protos` and commit the result", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
