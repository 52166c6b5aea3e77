"""Run the collector alone: it takes telemetry, keeps it, diagnoses it, and answers questions."""

from __future__ import annotations

import argparse
import os
import sys

from misstep.cli.parts import require_collector


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of ``python -m misstep.collector``."""
    parser.add_argument("--data", metavar="DIR", help="folder for journal, lake and tokens")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="address to listen on; off loopback it needs a token and TLS"
    )
    parser.add_argument("--port", metavar="N", help="port of the API (default 7663); 0 for any")
    parser.add_argument("--otlp-port", metavar="N", help="port of OTLP over HTTP (default 4318); 0 for any")
    parser.add_argument(
        "--trust-user", metavar="USER", action="append", help="a local user who needs no token"
    )
    parser.add_argument(
        "--new-token",
        metavar="SCOPES",
        help="issue a token for ingest, read or admin (comma-separated), print it, and end",
    )
    parser.add_argument("--token-name", metavar="NAME", help="what the new token is for")
    parser.add_argument("--config", metavar="FILE", help="settings file instead of misstep.toml")


def run(arguments: argparse.Namespace) -> int:
    """Become the collector."""
    require_collector("misstep collector")
    flags = ("data", "host", "port", "otlp_port", "new_token", "token_name", "config")
    given = [f"--{f.replace('_', '-')}={v}" for f in flags if (v := getattr(arguments, f)) is not None]
    given += [f"--trust-user={user}" for user in arguments.trust_user or ()]
    os.execv(sys.executable, [sys.executable, "-m", "misstep.collector", *given])
