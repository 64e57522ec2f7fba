"""The contract only grows: what was published keeps its name, number, type and label.

``descriptors.txt`` beside this file lists every service method, message, field and enum value, one
a line. After an addition run ``python tests/contract/test_descriptors_frozen.py``: it adds the new
lines and takes none away. A line that must go in spite of all is deleted by hand, in a commit that
says why; its number is then reserved in the proto.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)

ROOT = Path(__file__).resolve().parents[2]
FROZEN = Path(__file__).with_name("descriptors.txt")
RECORD = f"python {Path(__file__).relative_to(ROOT)}"

_TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def test_nothing_published_has_changed_or_gone() -> None:
    """Each frozen line still describes the generated code."""
    lost = sorted(frozen_lines() - present_lines())

    assert lost == [], "\n".join(
        [
            "published parts of the contract changed or are gone, which breaks callers; put them",
            "back, and add new fields or values under new numbers:",
            *lost,
        ]
    )


def test_what_was_added_is_frozen_too() -> None:
    """A part that is not recorded could change unseen."""
    unrecorded = sorted(present_lines() - frozen_lines())

    assert unrecorded == [], "\n".join(
        [f"record the additions: run `{RECORD}` and commit descriptors.txt:", *unrecorded]
    )


def test_every_proto_has_generated_code_under_its_own_name() -> None:
    """Folder and package agree, so a generated file is found where its proto stands."""
    expected = sorted(
        str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto")
    )

    assert expected != []
    assert expected == [descriptor.name for descriptor in file_descriptors()]


def frozen_lines() -> set[str]:
    """What was published."""
    return set(FROZEN.read_text().splitlines()) if FROZEN.exists() else set()


def present_lines() -> set[str]:
    """What the generated code says now."""
    return {line for descriptor in file_descriptors() for line in describe_file(descriptor)}


def file_descriptors() -> list[FileDescriptor]:
    """One for each proto, by file name."""
    protos = sorted((ROOT / "protos/promise_svc/v1").glob("*.proto"))
    modules = [importlib.import_module(f"promise_svc.v1.{path.stem}_pb2") for path in protos]
    return [module.DESCRIPTOR for module in modules]


def describe_file(descriptor: FileDescriptor) -> Iterator[str]:
    """One line for each part of a file."""
    for service in descriptor.services_by_name.values():
        yield from describe_service(service)
    for message in descriptor.message_types_by_name.values():
        yield from describe_message(message)
    for enum in descriptor.enum_types_by_name.values():
        yield from describe_enum(enum)


def describe_service(service: ServiceDescriptor) -> Iterator[str]:
    """Methods with their types and whether either side streams."""
    for method in service.methods:
        request = ("stream " if method.client_streaming else "") + method.input_type.full_name
        response = ("stream " if method.server_streaming else "") + method.output_type.full_name
        yield f"method {method.full_name}: {request} -> {response}"


def describe_message(message: Descriptor) -> Iterator[str]:
    """The message, its fields and what is nested in it."""
    yield f"message {message.full_name}"
    for field in message.fields:
        yield f"field {field.full_name} = {field.number}: {describe_type(field)}"
    for nested in message.nested_types:
        yield from describe_message(nested)
    for enum in message.enum_types:
        yield from describe_enum(enum)


def describe_type(field: FieldDescriptor) -> str:
    """Label and type: ``repeated string``, ``optional int64``, ``oneof scope string``."""
    named = field.message_type or field.enum_type
    type_name = named.full_name if named is not None else _TYPE_NAMES[field.type]
    if field.is_repeated:
        return f"repeated {type_name}"
    oneof = field.containing_oneof
    if oneof is None:
        return type_name
    # The compiler wraps each `optional` field in a oneof of its own, named with an underscore.
    return (
        f"optional {type_name}" if oneof.name.startswith("_") else f"oneof {oneof.name} {type_name}"
    )


def describe_enum(enum: EnumDescriptor) -> Iterator[str]:
    """Values with their numbers."""
    for value in enum.values:
        yield f"value {enum.full_name}.{value.name} = {value.number}"


def record_additions() -> int:
    """Add lines that are not frozen yet; take none away. Returns the exit status."""
    frozen, present = frozen_lines(), present_lines()
    FROZEN.write_text("".join(f"{line}\n" for line in sorted(frozen | present)))
    print(f"{len(present - frozen)} added, {len(frozen & present)} unchanged")
    for line in sorted(frozen - present):
        print(f"changed or gone: {line}", file=sys.stderr)
    return 1 if frozen - present else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(record_additions())
