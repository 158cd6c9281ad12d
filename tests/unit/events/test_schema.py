"""What is committed for other languages is what the messages and the table of channels say today."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml

import events.schema
from events import messages as m
from events import subjects
from events.schema import channels
from events.schema.documents import documents, snake, to_yaml

FOLDER = Path(events.schema.__file__).parent
FILES = documents()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_generated_file_is_current(name: str) -> None:
    path = FOLDER / name
    assert path.is_file(), "run `python -m events.schema`"
    assert path.read_text() == FILES[name], "run `python -m events.schema`"


def test_no_file_is_left_of_a_message_that_is_gone() -> None:
    assert {path.name for path in (*FOLDER.glob("*.json"), *FOLDER.glob("*.yaml"))} == set(FILES)


def test_every_fact_every_request_and_every_message_with_a_tag_has_a_channel() -> None:
    tagged = {
        kind
        for kind in vars(m).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__struct_config__.tag
        and kind not in (m.Fact, m.Request, m.QueueSettings)
    }
    assert tagged <= set(channels.messages())
    assert set(get_args(m.AnyFact)) == {kind for kind in tagged if issubclass(kind, m.Fact)}


def test_every_tag_is_the_name_of_its_file_and_used_once() -> None:
    tags = [kind.__struct_config__.tag for kind in channels.messages() if kind.__struct_config__.tag]
    assert len(tags) == len(set(tags))
    for kind in channels.messages():
        if kind.__struct_config__.tag:
            assert snake(kind.__name__) == kind.__struct_config__.tag


def test_every_reference_in_asyncapi_leads_somewhere() -> None:
    document = yaml.safe_load(FILES["asyncapi.yaml"])
    references = set(re.findall(r'"\$ref": "([^"]+)"', FILES["asyncapi.yaml"]))
    assert len(references) > 100
    for reference in references:
        here: Any = document
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]


def test_every_message_schema_stands_alone() -> None:
    for name, text in FILES.items():
        if name.endswith(".json"):
            schema = json.loads(text)
            for reference in re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text):
                assert reference in schema["$defs"], f"{name} refers to {reference}"


def test_every_subject_of_the_table_lies_below_the_root_and_no_two_are_the_same() -> None:
    addresses = [channel.address for channel in channels.CHANNELS]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith(subjects.ROOT + ".") for address in addresses)
    assert len({channel.name for channel in channels.CHANNELS}) == len(channels.CHANNELS)


def test_the_note_below_a_field_reaches_the_schema() -> None:
    schema = json.loads(FILES["submit.json"])
    assert schema["properties"]["grace_s"]["description"] == "Between SIGTERM and SIGKILL."
    assert schema["required"] == ["type", "entrypoint"]


def test_yaml_is_read_back_as_it_was_meant() -> None:
    value = {"a": [1, {"b": None, "on": "yes: no"}, []], "$ref": "#/x", "empty": {}, "text": "ü\n\"'", "f": 1.5}
    assert yaml.safe_load(to_yaml(value)) == value
