"""``python -m misstep.collector``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from misstep.core.errors import MisstepError
from misstep.core.exits import Exit
from misstep.core.settings import CollectorSettings, Settings, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a collector, or issue a token.

    Args:
        arguments: the command line without the program's name; by default this process's.

    Returns:
        An `Exit`.
    """
    asked = _parser().parse_args(arguments)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr
    )
    try:
        settings = load(asked.config, overrides=_overrides(asked))
        return _new_token(settings, asked) if asked.new_token else _run(settings, asked)
    except MisstepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _run(settings: Settings, asked: argparse.Namespace) -> int:
    from misstep.collector.start import Ports, run

    usual = CollectorSettings()
    options = settings.collector
    ports = Ports(
        api=asked.port is not None or options.port != usual.port,
        otlp=asked.otlp_port is not None or options.otlp_port != usual.otlp_port,
        grpc=asked.grpc_port is not None or options.grpc_port != usual.grpc_port,
    )
    run(settings, ports, ready_file=asked.ready_file)
    return Exit.OK


def _new_token(settings: Settings, asked: argparse.Namespace) -> int:
    from misstep.collector.tokens import TOKENS_FILE, Tokens

    scopes = tuple(part.strip() for part in asked.new_token.split(",") if part.strip())
    token = Tokens(settings.data / TOKENS_FILE).create(asked.token_name, scopes)
    print(
        f"It is shown once; give it as: Authorization: Bearer <token>  (scopes: {', '.join(scopes)})",
        file=sys.stderr,
    )
    print(token)
    return Exit.OK


def _overrides(asked: argparse.Namespace) -> dict[str, object]:
    return {
        "data": asked.data,
        "collector.host": asked.host,
        "collector.port": asked.port,
        "collector.otlp_port": asked.otlp_port,
        "collector.grpc_port": asked.grpc_port,
        "collector.trust_user": asked.trust_user,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="misstep collector",
        description="Takes telemetry, keeps it, diagnoses it, and answers questions.",
    )
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder for journal, lake and tokens")
    parser.add_argument("--host", help="address to listen on; off loopback it needs a token and TLS")
    parser.add_argument("--port", type=int, help="port of the API; 0 for any")
    parser.add_argument("--otlp-port", type=int, help="port of OTLP over HTTP; 0 for any")
    parser.add_argument("--grpc-port", type=int, help="port of OTLP over gRPC; 0 for any")
    parser.add_argument(
        "--trust-user",
        metavar="USER",
        action="append",
        help="a local user who needs no token; may be repeated",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings, by default ./misstep.toml")
    parser.add_argument(
        "--ready-file",
        metavar="FILE",
        type=Path,
        help="where to write the addresses once connections are taken",
    )
    parser.add_argument(
        "--new-token",
        metavar="SCOPES",
        help="issue a token for ingest, read or admin (comma-separated), print it, and end",
    )
    parser.add_argument("--token-name", metavar="NAME", default="unnamed", help="what the new token is for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
