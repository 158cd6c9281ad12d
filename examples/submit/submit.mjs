// Publish a job on the team's stream of requests, and read the answer on a subject of our own.
// The stream's acknowledgement says that the request is on disk; the answer says what became of it.
import { randomUUID } from "node:crypto";
import { connect, headers } from "@nats-io/transport-node";

const env = process.env;
const [team, user] = [env.HEADRACE_TEAM ?? "default", env.HEADRACE_USER ?? "me"];
const job = {
  id: env.JOB_ID ?? randomUUID(), // the same id again is the same job: safe to repeat after any doubt
  name: "hello-from-node",
  entrypoint: ["python", "-c", "print('hello from node')"],
};

const connection = await connect({
  servers: env.HEADRACE_NATS_URL ?? "nats://127.0.0.1:4222",
  user: env.HEADRACE_NATS_USER,
  pass: env.HEADRACE_NATS_PASSWORD,
});
const token = randomUUID();
const answers = connection.subscribe(`hr.v1.answer.${team}.${user}.${token}`, { max: 1, timeout: 10_000 });
const asking = headers();
asking.set("hr-answer", token);
const acknowledged = await connection.request(`hr.v1.submit.${team}.${user}`, JSON.stringify(job), {
  headers: asking,
  timeout: 10_000,
});
console.error(`stored as request ${acknowledged.json().seq}`);
for await (const answer of answers) {
  console.log(JSON.stringify(answer.json()));
  process.exitCode = ["accepted", "repeated"].includes(answer.json().verdict) ? 0 : 1;
}
await connection.close();
