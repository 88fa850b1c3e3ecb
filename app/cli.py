"""The command line: which commands there are, and how a user's mistake is answered: one line, never a traceback.

Exit status: 0 done, 1 the answer is no, 2 usage or configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from app.commands import feedback, flags, replay, review, rollouts, running, status, token, training
from app.commands.gateway import RefusedError, UsageError
from app.errors import ConfigurationError, GatewayError

DONE, NO, USAGE, INTERRUPTED = 0, 1, 2, 130

cli = typer.Typer(
    name="model-gateway",
    help="A gateway in front of machine-learning models: canaries, shadows, late outcomes, rollback on evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("serve")(running.serve)
cli.command("demo")(running.demo)
cli.command("check-config")(running.check_config)
cli.command("migrate")(running.migrate)
cli.command("status")(status.status)
cli.add_typer(flags.commands, name="flags")
cli.add_typer(rollouts.commands, name="rollout")
cli.add_typer(feedback.commands, name="feedback")
cli.add_typer(training.commands, name="export")
cli.add_typer(token.commands, name="token")
cli.command("review")(review.review)
cli.command("replay")(replay.replay)


@cli.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and exit")) -> None:
    """A gateway in front of machine-learning models."""
    if version:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            sys.stdout.write(f"model-gateway {installed('model-gateway')}\n")
        except PackageNotFoundError:  # run from a checkout
            sys.stdout.write("model-gateway, not installed as a package\n")
        raise typer.Exit(DONE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        cli(args=None if arguments is None else list(arguments), prog_name="model-gateway")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else DONE if done.code is None else NO
    except ConfigurationError as error:
        return _fail(USAGE, *error.faults)
    except UsageError as error:
        return _fail(USAGE, str(error))
    except RefusedError as error:
        return _fail(USAGE if error.status in (401, 403) else NO, str(error))
    except GatewayError as error:
        return _fail(NO, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has seen enough; nothing more must be written to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return DONE


def _fail(status: int, *lines: str) -> int:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    return status
