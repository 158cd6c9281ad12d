"""The same submit, however often, from wherever and how much later: one job. Another team's: another job."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

import msgspec
import nats

from events import subjects
from events.identity import job_id
from events.messages import Answer, Submit
from load_tests.stack import Stack, running

CONFIG = (Path(__file__).parent / "headrace.toml").read_text()
SUBMIT = Submit(id="the-one", entrypoint=("python3", "-c", "print('once')"))


async def publish(stack: Stack, team: str, times: int) -> list[Answer]:
    """Publish the submit on NATS so many times at once; gives the answers that come back."""
    about = stack.about
    connection = await nats.connect(about["nats"], user=about["nats_user"], password=about["nats_password"])
    user = getpass.getuser()
    try:
        waiting = []
        for number in range(times):
            token = f"answer-{number}"
            inbox = await connection.subscribe(subjects.answer(team, user, token))
            waiting.append((token, inbox))
        await connection.flush()
        stream = connection.jetstream()
        await asyncio.gather(
            *(
                stream.publish(subjects.submit(team, user), msgspec.json.encode(SUBMIT), headers={"hr-answer": token})
                for token, _ in waiting
            )
        )
        messages = [await inbox.next_msg(timeout=20) for _, inbox in waiting]
        return [msgspec.json.decode(message.data, type=Answer) for message in messages]
    finally:
        await connection.close()


def test_one_client_id_is_one_job_across_a_restart_and_two_for_two_teams(tmp_path: Path) -> None:
    mine = job_id(team="default", user=getpass.getuser(), client_id="the-one")
    theirs = job_id(team="vision", user=getpass.getuser(), client_id="the-one")
    with running(state=tmp_path, config=CONFIG) as stack:
        answers = asyncio.run(publish(stack, "default", 5))
        assert sorted(answer.verdict for answer in answers) == ["accepted"] + 4 * ["repeated"]
        assert {answer.job for answer in answers} == {mine}
        assert stack.wait(mine)["state"] == "succeeded"

    with running(state=tmp_path) as stack:  # everything was ended in between
        (again,) = asyncio.run(publish(stack, "default", 1))
        assert (again.verdict, again.job) == ("repeated", mine)
        (other,) = asyncio.run(publish(stack, "vision", 1))
        assert (other.verdict, other.job) == ("accepted", theirs)
        assert theirs != mine
        jobs = stack.call("GET", "/v1/jobs")["jobs"]
        assert [job["job"] for job in jobs] == [mine]
        assert [entry["type"] for entry in jobs[0]["history"]].count("finished") == 1
