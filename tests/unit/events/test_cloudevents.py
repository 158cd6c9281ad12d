"""An envelope goes into headers and comes out of them; a stranger's headers never raise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from events.cloudevents import Envelope, from_headers, to_headers

TEXT = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(st.builds(Envelope, id=TEXT, type=TEXT, source=TEXT, time=TEXT | st.just(""), traceparent=TEXT | st.just("")))
def test_an_envelope_comes_back_from_its_headers(envelope: Envelope) -> None:
    if not envelope.type.startswith("hr.v1."):
        assert from_headers(to_headers(envelope)) == envelope


def test_headers_are_those_of_the_binding() -> None:
    headers = to_headers(Envelope(id="1", type="accepted", source="submission", traceparent="00-a-b-01"))
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "submission",
        "ce-type": "hr.v1.accepted",
        "content-type": "application/json",
        "traceparent": "00-a-b-01",
    }


def test_names_count_in_any_case() -> None:
    assert from_headers({"CE-ID": "1", "Ce-Type": "hr.v1.submit"}) == Envelope(id="1", type="submit")


@given(st.none() | st.dictionaries(st.text(max_size=10), st.text(max_size=10)))
def test_whatever_headers_a_stranger_sends_there_is_an_envelope(headers: dict[str, str] | None) -> None:
    assert isinstance(from_headers(headers), Envelope)
