"""Detect a CI job, so that a command can refuse an action there that only a person may request."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TRAVIS", "APPVEYOR", "CIRRUS_CI", "DRONE",
    "WOODPECKER", "SEMAPHORE", "TF_BUILD", "JENKINS_URL", "HUDSON_URL", "TEAMCITY_VERSION", "BITBUCKET_BUILD_NUMBER",
    "CODEBUILD_BUILD_ID", "BUILDBOT_BUILDERNAME", "GO_PIPELINE_NAME", "PROW_JOB_ID", "bamboo_buildNumber",
    "CONTINUOUS_INTEGRATION", "GITEA_ACTIONS", "FORGEJO_ACTIONS", "HARNESS_BUILD_ID", "CM_BUILD_ID", "BITRISE_IO",
    "SCREWDRIVER", "TASKCLUSTER_ROOT_URL", "NETLIFY", "VERCEL", "HEROKU_TEST_RUN_ID", "EAS_BUILD", "AC_APPCIRCLE",
)  # fmt: skip
"""Variables that a CI service sets in its jobs, as each service documents them; some of them never set ``CI``."""
_NO = ("", "0", "false", "no")


def ci_variable(environ: Mapping[str, str]) -> str:
    """Return the name of the variable of ``environ`` that marks a CI job; empty if none does."""
    return next((name for name in VARIABLES if environ.get(name, "").lower() not in _NO), "")
