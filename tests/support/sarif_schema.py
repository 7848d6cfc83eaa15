"""What SARIF 2.1.0 (OASIS Standard, sections 3.13 to 3.58) says of the objects that wvindex writes.

Every object is closed: a property that the standard has, and that is not written, is none here either.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_LEVEL: Final[Schema] = {"enum": ["none", "note", "warning", "error"]}
_MESSAGE: Final = _object(("text",), text=_TEXT)
_URI: Final[Schema] = {  # relative: neither a scheme nor a leading slash, and nothing that must be escaped
    "type": "string",
    "pattern": r"^(?!/)(?!.*\.\.)[A-Za-z0-9._~!$&'()*+,;=@%/-]+$",
}

_ARTIFACT: Final = _object(("uri",), uri=_URI, uriBaseId=_TEXT)
_LOCATION: Final = _object(
    (),
    physicalLocation=_object(("artifactLocation",), artifactLocation=_ARTIFACT),
    logicalLocations={
        **_list(_object(("fullyQualifiedName",), name=_TEXT, fullyQualifiedName=_TEXT, kind=_TEXT)),
        "uniqueItems": True,
    },
)
_RESULT: Final = _object(
    ("message", "ruleId", "partialFingerprints"),
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": -1},
    level=_LEVEL,
    message=_MESSAGE,
    locations=_list(_LOCATION),
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    properties={"type": "object"},
)
_RULE: Final = _object(
    ("id",),
    id=_TEXT,
    name={"type": "string", "pattern": "^[A-Z][A-Za-z0-9]+$"},
    shortDescription=_MESSAGE,
    fullDescription=_MESSAGE,
    help=_MESSAGE,
    defaultConfiguration=_object((), level=_LEVEL),
)
_DRIVER: Final = _object(
    ("name",),
    name=_TEXT,
    semanticVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
    rules={**_list(_RULE), "uniqueItems": True},
)
_RUN: Final = _object(
    ("tool",),
    tool=_object(("driver",), driver=_DRIVER),
    invocations=_list(
        _object(
            ("executionSuccessful",),
            executionSuccessful={"type": "boolean"},
            toolExecutionNotifications=_list(_object(("message",), level=_LEVEL, message=_MESSAGE)),
        )
    ),
    originalUriBaseIds={"type": "object", "additionalProperties": _object((), description=_MESSAGE)},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results=_list(_RESULT),
)

SARIF: Final = _object(
    ("version", "runs"),
    **{"$schema": {"type": "string"}, "version": {"const": "2.1.0"}, "runs": _list(_RUN)},
)
"""JSON Schema (2020-12) of a log."""
