"""HTTP to a gateway that breaks: what is tried again, what is told, and that nothing is lost or doubled."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from headrace import errors, output, submission
from headrace.client import Client
from headrace.state import Endpoint
from tests.support.fake_gateway import JOB, TOKEN, FakeGateway, a_chunk, a_view


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway().start()
    fake.views[JOB] = a_view()
    yield fake
    fake.stop()


def a_client(gateway: FakeGateway, token: str = TOKEN) -> Client:
    return Client(Endpoint(gateway.url, token), timeout_s=5.0)


def test_a_kept_connection_that_the_server_closed_is_opened_again(gateway: FakeGateway) -> None:
    client = a_client(gateway)
    client.job(JOB)
    gateway.stop()
    gateway.start()
    assert client.job(JOB)["job"] == JOB


def test_nobody_at_the_address_is_unreachable_with_a_hint(gateway: FakeGateway) -> None:
    client = a_client(gateway)
    gateway.stop()
    with pytest.raises(errors.ServerUnreachable, match="cannot be reached") as raised:
        client.job(JOB)
    assert "headrace up" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.Unauthorized), (403, errors.Forbidden), (404, errors.NotFound), (503, errors.ServerFault)],
)
def test_each_refusal_is_an_error_of_its_own(gateway: FakeGateway, status: int, kind: type[errors.Refused]) -> None:
    gateway.refusals["/v1/jobs"] = (status, {"error": {"message": "no", "hint": "do this"}})
    with pytest.raises(kind, match="no") as raised:
        a_client(gateway).jobs()
    assert (raised.value.status, raised.value.hint) == (status, "do this")


def test_an_answer_of_a_stranger_is_no_crash(gateway: FakeGateway) -> None:
    gateway.refusals["/v1/jobs"] = (502, "<html>")
    gateway.pages["/v1/nodes"] = ["no object"]
    with pytest.raises(errors.ServerFault, match="answered 502"):
        a_client(gateway).jobs()
    with pytest.raises(errors.ServerFault, match="no JSON object"):
        a_client(gateway).get("/v1/nodes")


def test_a_rejected_submit_names_every_problem(gateway: FakeGateway) -> None:
    problems = [{"path": "$.tier", "message": "unknown tier `gpu3`", "hint": "did you mean `gpu2`?"}]
    gateway.refusals["/v1/jobs"] = (422, {"error": {"message": "the job was rejected", "problems": problems}})
    with pytest.raises(errors.Rejected) as raised:
        a_client(gateway).submit({"entrypoint": ["x"]})
    assert raised.value.problems == (errors.Problem("$.tier", "unknown tier `gpu3`", "did you mean `gpu2`?"),)


def test_a_stream_that_breaks_off_resumes_after_the_last_whole_event(gateway: FakeGateway) -> None:
    for i in range(5):
        gateway.state(attempt=i)
    gateway.ends()
    gateway.cut_after["events"] = 3
    told: list[errors.HeadraceError | None] = []
    events = list(a_client(gateway).follow(JOB, on_retry=told.append))
    assert [event.name for event in events] == ["state"] * 5 + ["end"]
    assert [event.id for event in events] == ["1", "2", "3", "4", "5", "6"]
    assert [type(error) for error in told] == [errors.ServerUnreachable, type(None)]


def test_a_stream_outlives_a_restart_of_the_gateway(gateway: FakeGateway) -> None:
    gateway.state()
    broken = threading.Event()
    stream = a_client(gateway).follow(JOB, on_retry=lambda error: broken.set())
    assert next(stream).id == "1"
    gateway.stop()

    def come_back() -> None:
        broken.wait(10)
        gateway.start()
        gateway.ends()

    restart = threading.Thread(target=come_back)
    restart.start()
    assert [event.name for event in stream] == ["end"]
    restart.join()


def test_a_stream_of_a_job_that_is_not_there_is_not_tried_again(gateway: FakeGateway) -> None:
    with pytest.raises(errors.NotFound):
        next(a_client(gateway).follow("j-nothing"))


def test_output_comes_once_and_in_order_when_chunks_come_twice(gateway: FakeGateway) -> None:
    for chunk in (a_chunk(b"abc"), a_chunk(b"bcde", offset=1), a_chunk(b"abcdef"), a_chunk(b"E", stream="stderr")):
        gateway.tell("log", "chunk", chunk)
    gateway.ends()
    printed = list(output.follow(a_client(gateway), JOB))
    assert printed == [
        output.Output(1, "stdout", b"abc"),
        output.Output(1, "stdout", b"de"),
        output.Output(1, "stdout", b"f"),
        output.Output(1, "stderr", b"E"),
    ]


def test_a_gap_in_the_stream_is_read_from_the_stored_log(gateway: FakeGateway) -> None:
    gateway.logs["stdout"] = b"0123456789"
    gateway.tell("log", "chunk", a_chunk(b"012"))
    gateway.tell("log", "chunk", a_chunk(b"89", offset=8))
    gateway.ends()
    printed = b"".join(each.data for each in output.follow(a_client(gateway), JOB))
    assert printed == b"0123456789"


def test_only_what_the_server_lacks_is_uploaded_and_the_manifest_last(gateway: FakeGateway, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("print(1)\n")
    source = submission.capture_source(project, cache=tmp_path / "cache")
    sent = submission.upload(a_client(gateway), source)
    assert sent.blobs == len(source.chunks) + 1
    assert gateway.blobs[source.digest] == source.manifest
    assert [path for method, path, _ in gateway.asked if method == "PUT"][-1] == f"/v1/blobs/{source.digest}"
    assert submission.upload(a_client(gateway), source) == submission.Sent(0, 0)


def a_changing_folder(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, folder: Path, *, changes: int) -> Path:
    """A folder with a file that changes after it was captured, so many times."""
    left = iter(range(changes))
    ask = Client.missing

    def missing(client: Client, digests: Iterable[str]) -> list[str]:
        if (change := next(left, None)) is not None:
            (folder / "train.py").write_text(f"print({change})\n")
        return ask(client, digests)

    folder.mkdir()
    (folder / "train.py").write_text("print('captured')\n")
    monkeypatch.setattr(Client, "missing", missing)
    return folder


def test_a_file_that_changes_between_capture_and_upload_is_captured_again(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = a_changing_folder(gateway, monkeypatch, tmp_path / "project", changes=submission.TAKES_MAX - 1)
    source, sent = submission.take_along(a_client(gateway), project, cache=tmp_path / "cache")
    assert gateway.blobs[source.digest] == source.manifest
    assert b"print(1)\n" in gateway.blobs.values()
    assert sent.blobs == 2


def test_a_file_that_never_stops_changing_is_an_error_with_its_name(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = a_changing_folder(gateway, monkeypatch, tmp_path / "project", changes=submission.TAKES_MAX)
    with pytest.raises(errors.HeadraceError, match=r"train\.py"):
        submission.take_along(a_client(gateway), project, cache=tmp_path / "cache")


def test_blobs_are_put_under_their_own_digest(gateway: FakeGateway) -> None:
    digest = "sha256:" + hashlib.sha256(b"content").hexdigest()
    a_client(gateway).put_blob(digest, b"content")
    with pytest.raises(errors.Rejected, match="digest is wrong"):
        a_client(gateway).put_blob(digest, b"other")
