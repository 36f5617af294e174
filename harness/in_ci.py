"""Detect a CI job, so that a command can refuse an action there that only a person may request."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = (
    "CI", "CONTINUOUS_INTEGRATION", "CI_NAME", "CI_BUILD_ID", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITEA_ACTIONS",
    "FORGEJO_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TRAVIS", "APPVEYOR", "CIRRUS_CI", "DRONE", "WOODPECKER",
    "SEMAPHORE", "TF_BUILD", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI", "JENKINS_URL", "HUDSON_URL", "TEAMCITY_VERSION",
    "BITBUCKET_BUILD_NUMBER", "BITBUCKET_COMMIT", "CODEBUILD_BUILD_ID", "CODEBUILD_BUILD_ARN", "BUILDBOT_BUILDERNAME",
    "GO_PIPELINE_NAME", "GO_PIPELINE_LABEL", "PROW_JOB_ID", "bamboo_buildNumber", "bamboo_planKey", "BITRISE_IO",
    "BUDDY_WORKSPACE_ID", "CF_BUILD_ID", "CM_BUILD_ID", "APPCENTER_BUILD_ID", "AC_APPCIRCLE", "AGOLA_GIT_REF", "DSARI",
    "EARTHLY_CI", "EAS_BUILD", "GERRIT_PROJECT", "HARNESS_BUILD_ID", "HEROKU_TEST_RUN_ID", "JB_SPACE_EXECUTION_NUMBER",
    "LAYERCI", "MAGNUM", "NETLIFY", "NEVERCODE", "NOW_BUILDER", "RELEASE_BUILD_ID", "RENDER", "SAILCI", "SCREWDRIVER",
    "SHIPPABLE", "STRIDER", "TASKCLUSTER_ROOT_URL", "TDDIUM", "VELA", "VERCEL", "WERCKER", "XCS", "ZUUL_BUILD",
)  # fmt: skip
"""Variables that a CI service sets in its jobs, as each service documents them; some of them never set ``CI``."""
_NO = ("", "0", "false", "no")


def ci_variable(environ: Mapping[str, str]) -> str:
    """Return the name of the variable of ``environ`` that marks a CI job; empty if none does."""
    return next((name for name in VARIABLES if environ.get(name, "").lower() not in _NO), "")
