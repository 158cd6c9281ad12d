"""uv's words in ours. The texts are uv's own, of 0.13 and of older versions."""

from __future__ import annotations

import pytest

from controlplane.environments import explain

NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: "
SENTENCES = {
    "Because there is no version of six==999 and you require six==999, we can conclude that your requirements are "
    "unsatisfiable.": "no version of `six` fits Python 3.11: Because there is no version of six==999 and you require "
    "six==999. Choose a version that exists",
    "Because only six<=1.17.0 is available and you require six>=2, we can conclude that your requirements are "
    "unsatisfiable.": "no version of `six` fits Python 3.11: Because only six<=1.17.0 is available and you require "
    "six>=2. Choose a version that exists",
    "Because foo-bar was not found in the package registry and you require foo-bar, we can conclude that your "
    "requirements are unsatisfiable.": "no package `foo-bar` on the index: Because foo-bar was not found in the "
    "package registry and you require foo-bar. Check its name; a private index is set by the operator",
    "Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that your requirements "
    "are unsatisfiable.": "`docopt` has no wheel for Python 3.11 on linux: Because docopt==0.6.2 has no usable wheels "
    "and you require docopt==0.6.2. Choose a version that has one",
}


@pytest.mark.parametrize("said", SENTENCES)
def test_the_reason_says_what_is_wrong_then_why_then_what_may_help(said: str) -> None:
    noise = "warning: Failed to inspect Python interpreter\n"
    assert (
        explain.reason(noise + NO_SOLUTION + said + "\n\nhint: x\n", python="3.11", platform="linux") == SENTENCES[said]
    )


def test_the_form_of_older_versions_is_understood() -> None:
    said = (
        "  × No solution found when resolving dependencies:\n"
        "  ╰─▶ Because the requested Python version (>=3.8) does not satisfy Python>=3.10 and click==8.3.0 depends on\n"
        "      Python>=3.10, we can conclude that click==8.3.0 cannot be used.\n"
    )
    reason = explain.reason(said, python="3.8", platform="linux")
    assert reason.startswith("no version of `click` fits Python 3.8: Because the requested Python version")
    assert "\n" not in reason


def test_an_index_that_cannot_be_reached_is_passing_and_its_address_is_not_told() -> None:
    said = (
        "error: Request failed after 3 retries in 7.3s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/six/\n"
        "  cause: error sending request for url (http://127.0.0.1:9/simple/six/)\n  cause: tcp connect error\n"
        "  cause: Connection refused (os error 111)\n"
    )
    assert explain.is_passing(said)
    assert explain.passing(said) == "the package index could not be reached: Connection refused (os error 111)"


def test_a_page_that_is_not_there_is_not_passing() -> None:
    assert not explain.is_passing(
        "error: Failed to fetch: `http://x/`\n  cause: HTTP status client error (404 Not Found)"
    )


def test_a_platform_that_uv_does_not_know_is_named() -> None:
    said = "error: invalid value 'x' for '--python-platform <PYTHON_PLATFORM>'\n  [possible values: windows, linux]\n"
    assert explain.reason(said, python="3.11", platform="x").startswith("`x` is no platform that the resolver knows: ")


def test_a_long_derivation_is_cut_but_the_hint_stays() -> None:
    reason = explain.reason(NO_SOLUTION + "Because x and y. " * 500, python="3.11", platform="linux")
    assert len(reason) <= explain.REASON_CHARACTERS_MAX
    assert reason.endswith("Loosen one of them")
