"""The generated code of interop.proto, made when it is first asked for."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from grpc_tools import protoc


class Generated(NamedTuple):
    """What `protoc` writes."""

    pb: Any
    rpc: Any


@cache
def generated() -> Generated:
    """Messages and stubs of ``grpc.testing``."""
    source = Path(__file__).with_name("interop.proto")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"-I{source.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        code = protoc.main(["protoc", *arguments, str(source)])
        assert code == 0, f"protoc ended with {code}"
        sys.path.insert(0, folder)
        try:
            return Generated(
                importlib.import_module("interop_pb2"), importlib.import_module("interop_pb2_grpc")
            )
        finally:
            sys.path.remove(folder)
