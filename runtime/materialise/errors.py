"""Why something could not be laid out on the node: in sentences for the job's user, who reads them as its reason.

MaterialiseFailed
├── SourceFailed
└── EnvironmentFailed
"""


class MaterialiseFailed(Exception):
    """It is not there, and the message says why."""


class SourceFailed(MaterialiseFailed):
    """The source could not be laid out."""


class EnvironmentFailed(MaterialiseFailed):
    """The environment could not be built."""
