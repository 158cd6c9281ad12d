"""Ask for a job with plain nats-py, and read the answer: it comes when the job is in the ledger."""

import asyncio
import json
import os

import nats

JOB = {"name": "hello-from-python", "entrypoint": ["python", "-c", "print('hello from python')"]}


async def main() -> None:
    env = os.environ
    server = env.get("HEADRACE_NATS_URL", "nats://127.0.0.1:4222")
    team, user = env.get("HEADRACE_TEAM", "default"), env.get("HEADRACE_USER", "me")
    secret = {"user": env.get("HEADRACE_NATS_USER"), "password": env.get("HEADRACE_NATS_PASSWORD")}
    connection = await nats.connect(server, **secret)
    body = json.dumps(JOB | ({"id": env["JOB_ID"]} if "JOB_ID" in env else {})).encode()
    answer = await connection.request(f"hr.v1.ask.submission.submit.{team}.{user}", body, timeout=10)
    print(answer.data.decode())
    await connection.close()


asyncio.run(main())
