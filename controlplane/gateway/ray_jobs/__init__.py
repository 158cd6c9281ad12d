"""`/api/…`: the REST API of Ray Jobs, so that an unmodified `ray job …` or `JobSubmissionClient` submits to Headrace.

`mapping` and `states` are pure: Ray's request in our words, and our jobs in Ray's. `unpack` makes a source of a
package. Nothing here talks to a Ray cluster; what is submitted is a job like any other.
"""

from __future__ import annotations

from typing import Final

from litestar import Router

from controlplane.gateway.ray_jobs import jobs, output, packages
from controlplane.gateway.ray_jobs.answers import HANDLERS

ROUTER: Final = Router(
    "/api",
    route_handlers=[
        jobs.version,
        packages.has_package,
        packages.upload_package,
        jobs.submit_job,
        jobs.list_jobs,
        jobs.show_job,
        jobs.stop_job,
        jobs.delete_job,
        output.show_logs,
        output.tail_logs,
    ],
    exception_handlers=HANDLERS,
)
