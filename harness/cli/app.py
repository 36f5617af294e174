"""The ``quantgate`` command: registers all subcommands and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn, TextIO, cast

from harness.cli import options
from harness.cli.adopt import init_command, quantgate, schema_command
from harness.cli.cases import cases_command, resolve_command
from harness.cli.goldens import goldens_app, renew_command
from harness.cli.inspect import inspect, lock
from harness.cli.lane import comment_command, doctor_command, merge_command, plan_command, propose_command
from harness.cli.regenerate import regenerate_command
from harness.cli.report import diff_command, history_command, report_command, show_command
from harness.cli.review import accept, pending, reject, review_command
from harness.cli.runtimes import learn_command, runtime_app
from harness.cli.trial import bisect_command, try_command
from harness.errors import QuantgateError, disk_error
from harness.harmless import HarmlessStream
from harness.in_ci import ci_variable
from harness.redaction import safe_text

app = options.Commands(
    name="quantgate",
    help="A gate for quantized video-diffusion checkpoints: says what broke, and which command to type next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.callback()(quantgate)
app.command("init")(init_command)
app.command("schema")(schema_command)
app.command("inspect")(inspect)
app.command("lock")(lock)
app.command("cases")(cases_command)
app.command("resolve")(resolve_command)
app.command("regenerate")(regenerate_command)
app.command("try")(try_command)
app.command("bisect")(bisect_command)
app.command("pending")(pending)
app.command("review")(review_command)
app.command("accept")(accept)
app.command("reject")(reject)
app.command("report")(report_command)
app.command("show")(show_command)
app.command("diff")(diff_command)
app.command("history")(history_command)
app.command("doctor")(doctor_command)
app.command("plan")(plan_command)
app.command("merge")(merge_command)
ci_app = options.Commands(help="Steps of the workflows: a comment on a pull request, a pull request with goldens.")
ci_app.command("comment")(comment_command)
ci_app.command("propose")(propose_command)
app.add_typer(ci_app, name="ci")
app.command("learn")(learn_command)
app.add_typer(runtime_app, name="runtime")
goldens_app.command("renew")(renew_command)
app.add_typer(goldens_app, name="goldens")


def main() -> NoReturn:
    """Run the ``quantgate`` command. A `QuantgateError` or ``OSError`` becomes one message and an exit code."""
    # CI services run commands that they find in a job's log, so foreign text must not print any
    if ci_variable(os.environ):
        sys.stdout, sys.stderr = cast("TextIO", HarmlessStream(sys.stdout)), cast("TextIO", HarmlessStream(sys.stderr))
    try:
        app()
    except QuantgateError as error:
        sys.stderr.write(f"error: {safe_text(str(error))}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        message = disk_error(error)
        sys.stderr.write(f"error: {safe_text(str(message))}\n")
        sys.exit(message.exit_code)
    sys.exit(0)
